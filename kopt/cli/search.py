"""What the commands that search have in common: arguments, the call, and the words that repeat it."""

import argparse
from pathlib import Path
from typing import Any

import kopt
from kopt.cli.common import LABELLED, add_budget, budget_from, budget_words, progress_from, splits_from
from kopt.cli.search_training import add_training, training_from, training_words


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add what `search_call` reads."""
    parser.add_argument("model", metavar="MODEL", help=".keras, .h5 (Keras 3 or legacy) or SavedModel directory")
    parser.add_argument(
        "--data",
        required=True,
        help=LABELLED,
    )
    add_budget(parser)
    parser.add_argument("--workdir", type=Path, default=Path("kopt-run"), help="where the run is kept and resumed")
    parser.add_argument("--techniques", nargs="+", metavar="NAME", help="rows of the catalog to try; all by default")
    parser.add_argument("--samples", type=int, default=100, help="calibration examples")
    parser.add_argument("--threads", type=int, help="threads for LiteRT and ONNX Runtime")
    add_training(parser)
    parser.add_argument("--seconds", type=float, help="end the search after this time and judge what there is")
    parser.add_argument(
        "--seed", type=int, default=0, help="of what is drawn, of the choice of examples and of training"
    )
    parser.add_argument("--unsafe", action="store_true", help="open a model file that stores Python code, and run it")


def search_call(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of a search by name; what cannot be is refused before the model is opened."""
    budget, training = budget_from(options), training_from(options)
    model = kopt.export.open_model(options.model, safe_mode=not options.unsafe)
    splits = splits_from(options, model)
    same = {name: getattr(options, name) for name in ("workdir", "techniques", "samples", "threads", "seconds", "seed")}
    return {
        "model": model,
        "train": splits.train,
        "validation": splits.validation,
        "test": splits.test,
        "budget": budget,
        "training": training,
        "progress": progress_from(options),
        "description": splits.name,
        **same,
    }


def search_words(options: argparse.Namespace, own: tuple[str, ...] = ()) -> list[str]:
    """Return the words that give the options again, those of a command's `own` between them."""
    words = [options.model, "--data", options.data, *budget_words(budget_from(options))]
    words += ["--workdir", str(options.workdir), "--samples", str(options.samples)]
    words += ["--techniques", *options.techniques] if options.techniques else []
    words += training_words(options)
    for name in ("threads", "seconds"):
        value = getattr(options, name)
        words += [f"--{name}", f"{value:g}"] if value is not None else []
    words += own
    for module in options.imports:
        words += ["--import", module]
    words += ["--seed", str(options.seed)] if options.seed else []
    return words + (["--unsafe"] if options.unsafe else [])
