"""Find the best file to ship for a model, within an accuracy budget."""

import argparse
import shlex
from pathlib import Path

from rich.console import Group

import kopt
from kopt.cli.common import add_budget, budget_from, budget_words, progress_from, show_run
from kopt.cli.search_training import add_training, training_from, training_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help=".keras, .h5 (Keras 3 or legacy) or SavedModel directory")
    parser.add_argument(
        "--data",
        required=True,
        help=".npz with x_train, y_train, x_val, y_val and perhaps x_test, y_test; a folder of class folders of images "
        "(pixels become [0, 1]); or a packaged name",
    )
    add_budget(parser)
    parser.add_argument("--workdir", type=Path, default=Path("kopt-run"), help="where the run is kept and resumed")
    parser.add_argument(
        "--techniques", nargs="+", metavar="NAME", help="ways to ship and techniques to try; all by default"
    )
    parser.add_argument("--samples", type=int, default=100, help="calibration examples")
    parser.add_argument("--threads", type=int, help="threads for LiteRT and ONNX Runtime")
    add_training(parser)
    parser.add_argument("--seconds", type=float, help="end the search after this time and judge what there is")
    parser.add_argument(
        "--trials", type=int, help="most files and models to look at, beside the files of the model as it is"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of examples and of training")
    parser.add_argument("--unsafe", action="store_true", help="open a model file that stores Python code, and run it")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    budget = budget_from(options)
    training = training_from(options)
    model = kopt.export.open_model(options.model, safe_mode=not options.unsafe)
    splits = kopt.data.open_data(options.data, image_shape=kopt.measure.load(model).inputs[0].shape[1:])
    result = kopt.optimize(
        model,
        splits.train,
        splits.validation,
        test=splits.test,
        budget=budget,
        workdir=options.workdir,
        techniques=options.techniques,
        samples=options.samples,
        threads=options.threads,
        seed=options.seed,
        training=training,
        seconds=options.seconds,
        trials=options.trials,
        progress=progress_from(options),
        description=splits.name,
        command=_command(options),
    )
    report = options.workdir / "report.html"
    table = Group(kopt.report.candidates_table(result), kopt.report.decisions_table(result))
    return show_run(result, options, table, kopt.report.headline(result), report)


def _command(options: argparse.Namespace) -> str:
    words = ["kopt", "optimize", options.model, "--data", options.data, *budget_words(budget_from(options))]
    words += ["--workdir", str(options.workdir), "--samples", str(options.samples)]
    words += ["--techniques", *options.techniques] if options.techniques else []
    words += training_words(options)
    for name in ("threads", "seconds", "trials"):
        value = getattr(options, name)
        words += [f"--{name}", f"{value:g}"] if value is not None else []
    words += ["--seed", str(options.seed)] if options.seed else []
    words += ["--unsafe"] if options.unsafe else []
    return shlex.join(words)
