"""Tune techniques, settings and architectures with keras-tuner, by what the exported file is worth."""

import argparse
import json
import shlex
import sys
from pathlib import Path

from rich.console import Group

import kopt
from kopt.cli.common import add_budget, budget_from, budget_words, progress_from, show_run, show_text
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
    # No `choices`: the library's own errors name the nearest.
    parser.add_argument("--tuner", default="random", help="random, bayesian, hyperband or pareto")
    parser.add_argument("--max-trials", type=int, default=20, help="most recipes to try")
    parser.add_argument("--techniques", nargs="+", metavar="NAME", help="what may take part; all by default")
    parser.add_argument("--ways", nargs="+", metavar="NAME", help="ways to ship; tflite-float32 tflite-int8 by default")
    parser.add_argument("--builder", metavar="MODULE:NAME", help="architectures: a function build(hp), or a HyperModel")
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that run trials beside this one; machines join by keras-tuner's environment variables",
    )
    add_training(parser)
    parser.add_argument("--samples", type=int, default=100, help="calibration examples")
    parser.add_argument("--threads", type=int, help="threads for LiteRT and ONNX Runtime")
    parser.add_argument("--seconds", type=float, help="end the search after this time and judge what there is")
    parser.add_argument("--seed", type=int, default=0, help="of what is proposed, of examples and of training")
    parser.add_argument("--unsafe", action="store_true", help="open a model file that stores Python code, and run it")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    budget, training = budget_from(options), training_from(options)
    if options.builder and "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m kopt` does
    model = kopt.export.open_model(options.model, safe_mode=not options.unsafe)
    splits = kopt.data.open_data(options.data, image_shape=kopt.measure.load(model).inputs[0].shape[1:])
    result = kopt.tune(
        model,
        splits.train,
        splits.validation,
        test=splits.test,
        budget=budget,
        workdir=options.workdir,
        techniques=options.techniques,
        ways=options.ways,
        tuner=options.tuner,
        max_trials=options.max_trials,
        builder=options.builder,
        workers=options.workers,
        training=training,
        samples=options.samples,
        threads=options.threads,
        seconds=options.seconds,
        seed=options.seed,
        progress=progress_from(options),
        description=splits.name,
        command=_command(options),
    )
    if result is None:
        text = "This machine worked for the chief, which has the result."
        show_text(json.dumps({"result": None, "message": text}) if options.json else text)
        return 0
    table = Group(kopt.report.candidates_table(result), kopt.report.decisions_table(result))
    return show_run(result, options, table, kopt.report.headline(result), options.workdir / "report.html")


def _command(options: argparse.Namespace) -> str:
    words = ["kopt", "tune", options.model, "--data", options.data, *budget_words(budget_from(options))]
    words += ["--workdir", str(options.workdir), "--tuner", options.tuner, "--max-trials", str(options.max_trials)]
    for name in ("techniques", "ways"):
        words += [f"--{name}", *getattr(options, name)] if getattr(options, name) else []
    words += ["--builder", options.builder] if options.builder else []
    words += ["--workers", str(options.workers)] if options.workers else []
    words += [*training_words(options), "--samples", str(options.samples)]
    for name in ("threads", "seconds"):
        value = getattr(options, name)
        words += [f"--{name}", f"{value:g}"] if value is not None else []
    words += ["--seed", str(options.seed)] if options.seed else []
    return shlex.join(words + (["--unsafe"] if options.unsafe else []))
