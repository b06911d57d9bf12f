"""Arguments and printing that several commands share."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

import kopt
from kopt.core.errors import ConfigError, OutputExistsError
from kopt.core.files import check_output_file
from kopt.core.progress import Progress, Silent
from kopt.core.records.search.budget import OBJECTIVES, Budget, Constraint

# What `kopt.data.open_data` takes.
LABELLED = (
    ".npz with x_train, y_train, x_val, y_val and perhaps x_test, y_test, of several inputs x_train/NAME and so on; a "
    "folder of class folders of images (pixels become [0, 1]); or a packaged name"
)
# What `calibration_from` takes.
EXAMPLES = ".npy or .npz, a folder of class folders of images (pixels become [0, 1]), a packaged name"


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Add what `budget_from` reads."""
    parser.add_argument(
        "--max-drop", type=float, default=0.01, help="accuracy that may be lost, as a fraction: 0.01 is one point"
    )
    # No `choices`: the library's own error names the nearest objective.
    parser.add_argument(
        "--objective",
        nargs="+",
        default=["latency"],
        metavar="NAME",
        help=f"what is to improve: {', '.join(OBJECTIVES)}",
    )
    parser.add_argument("--metric", default="accuracy", help="the metric that is guarded, of which more is better")
    parser.add_argument(
        "--constraint",
        nargs="+",
        action="extend",
        default=[],
        metavar="BOUND",
        help="what must hold, e.g. 'size_bytes<=200000' 'latency_ms<=2' 'peak_memory_bytes<=2e6' 'auc>=0.9'",
    )
    parser.add_argument("--max-class-drop", type=float, help="accuracy that any one class may lose, as a fraction")
    parser.add_argument("--target", type=float, help="factor in every objective at which it is good enough, e.g. 3")
    parser.add_argument(
        "--sure",
        action="store_true",
        help="count a drop that so many examples cannot tell from the budget as outside, not by its estimate",
    )


def budget_from(options: argparse.Namespace) -> Budget:
    """Return the budget that the options describe; an impossible one is a ConfigError."""
    return Budget(
        max_drop=options.max_drop,
        objective=tuple(options.objective or ("latency",)),
        metric=options.metric,
        constraints=tuple(Constraint.parse(text) for text in options.constraint),
        max_class_drop=options.max_class_drop,
        target=options.target,
        undecided="outside" if options.sure else "estimate",
    )


def budget_words(budget: Budget) -> list[str]:
    """Return the options that give `budget` again."""
    words = ["--max-drop", f"{budget.max_drop:g}", "--objective", *budget.objectives]
    words += ["--metric", budget.metric] if budget.metric != "accuracy" else []
    words += ["--constraint", *map(str, budget.constraints)] if budget.constraints else []
    words += ["--max-class-drop", f"{budget.max_class_drop:g}"] if budget.max_class_drop is not None else []
    words += ["--target", f"{max(budget.targets.values()):g}"] if budget.targets else []
    return words + (["--sure"] if budget.undecided == "outside" else [])


def progress_from(options: argparse.Namespace) -> Progress | str:
    """Return the progress display that suits the output."""
    return Silent() if options.json else "auto"


@contextlib.contextmanager
def one_step(options: argparse.Namespace, description: str) -> Iterator[None]:
    """Show on a terminal what is going on, and for how long, around work that has no steps to tell of."""
    progress = kopt.report.make_progress(quiet=options.json or not sys.stderr.isatty())
    progress.start(1)
    progress.step(description)
    try:
        yield
    finally:
        progress.finish()


def check_page(options: argparse.Namespace) -> None:
    """Refuse a number of rows or an HTML file that cannot be, before any work.

    Raises:
        ConfigError: `--rows` is negative.
        OutputExistsError: the HTML file exists, and there is no `--force`; or it is a directory.
        OutputError: its place cannot be written.
    """
    if options.rows < 0:
        raise ConfigError(f"--rows is a number of rows, or 0 for all. Received: {options.rows}.")
    if options.html is not None:
        _check_place(options.html, options.force)


def show_page(found: Any, table: RenderableType, options: argparse.Namespace) -> None:
    """Print a record as a table or JSON, and write its HTML file where one is asked for."""
    path = None if options.html is None else found.html(options.html, overwrite=options.force)
    if options.json:
        show_text(found.to_json())
        return
    show(table)
    if path is not None:
        show_text(f"\nReport: {path}")


def check_model_output(options: argparse.Namespace, *suffixes: str) -> None:
    """Refuse an OUTPUT of another kind, or one that exists, before any work.

    Raises:
        ConfigError: another ending.
        OutputExistsError: it exists, and there is no `--force`; or it is a directory.
        OutputError: its place cannot be written.
    """
    if options.output.suffix not in suffixes:
        raise ConfigError(f"OUTPUT ends in {' or '.join(suffixes)}. Received: {str(options.output)!r}.")
    _check_place(options.output, options.force)


def _check_place(path: Path, force: bool) -> None:
    if path.is_file() and not force:
        raise OutputExistsError(f"{path} exists already. Pass --force to replace it.")
    check_output_file(path, overwrite=force)


def show(*renderables: RenderableType) -> None:
    """Print tables and text on standard output, as wide as the terminal, 100 columns where there is none."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)
    for renderable in renderables:
        console.print(renderable)


def show_text(text: str) -> None:
    """Print plain text, a path or JSON, exactly as it is."""
    sys.stdout.write(text + "\n")


def calibration_from(options: argparse.Namespace, model: Any) -> Any:
    """Return the examples that `--data` names, in the shape of the model's images if it is a folder."""
    return kopt.data.open_examples(options.data, image_shape=image_shape(model))


def splits_from(options: argparse.Namespace, model: Any) -> Any:
    """Return the data set that `--data` names, in the shape of the model's images if it is a folder."""
    return kopt.data.open_data(options.data, image_shape=image_shape(model))


def image_shape(model: Any) -> tuple[int | None, ...]:
    """Return the shape of one example of the model's first input."""
    shape: tuple[int | None, ...] = kopt.measure.load(model).inputs[0].shape[1:]
    return shape


def show_run(result: Any, options: argparse.Namespace, table: RenderableType, headline: str, path: Any) -> int:
    """Print the result of an optimization and return its exit code: 1 if no candidate is inside the budget."""
    if options.json:
        show_text(result.to_json())
    else:
        show(table)
        held_out = kopt.report.held_out_text(result)
        show_text("\n".join(("", headline, *([held_out] if held_out else []), f"Report: {path}")))
    return 0 if result.best_name is not None else 1
