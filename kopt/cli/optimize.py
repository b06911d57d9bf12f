"""Find the best file to ship for a model, within an accuracy budget."""

import argparse
import shlex
from pathlib import Path

import kopt
from kopt.cli.common import add_budget, budget_from, budget_words, progress_from, show_run


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
    parser.add_argument("--techniques", nargs="+", metavar="NAME", help="catalog rows to try; all by default")
    parser.add_argument("--samples", type=int, default=100, help="calibration examples")
    parser.add_argument("--threads", type=int, help="threads for LiteRT and ONNX Runtime")
    parser.add_argument("--unsafe", action="store_true", help="open a model file that stores Python code, and run it")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    budget = budget_from(options)
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
        progress=progress_from(options),
        description=splits.name,
        command=_command(options),
    )
    report = options.workdir / "report.html"
    return show_run(result, options, kopt.report.candidates_table(result), kopt.report.headline(result), report)


def _command(options: argparse.Namespace) -> str:
    words = ["kopt", "optimize", options.model, "--data", options.data, *budget_words(budget_from(options))]
    words += ["--workdir", str(options.workdir), "--samples", str(options.samples)]
    words += ["--techniques", *options.techniques] if options.techniques else []
    words += ["--threads", str(options.threads)] if options.threads else []
    words += ["--unsafe"] if options.unsafe else []
    return shlex.join(words)
