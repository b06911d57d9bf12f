"""Arguments and printing that several commands share."""

import argparse
import sys
from typing import Any

from rich.console import Console, RenderableType

from kopt.core.budget_records import OBJECTIVES
from kopt.core.errors import ConfigError, OutputExistsError
from kopt.core.progress import Progress, Silent
from kopt.core.records import Budget


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Add what `budget_from` reads."""
    parser.add_argument(
        "--max-drop", type=float, default=0.01, help="accuracy that may be lost, as a fraction: 0.01 is one point"
    )
    # No `choices`: the library's own error names the nearest objective.
    parser.add_argument("--objective", default="latency", help=f"what is to become small: {', '.join(OBJECTIVES)}")


def budget_from(options: argparse.Namespace) -> Budget:
    """Return the budget that the options describe; an impossible one is a ConfigError."""
    return Budget(max_drop=options.max_drop, objective=options.objective)


def progress_from(options: argparse.Namespace) -> Progress | str:
    """Return the progress display that suits the output."""
    return Silent() if options.json else "auto"


def check_page(options: argparse.Namespace) -> None:
    """Refuse a number of rows or an HTML file that cannot be, before any work.

    Raises:
        ConfigError: `--rows` is negative.
        OutputExistsError: the HTML file exists, and there is no `--force`.
    """
    if options.rows < 0:
        raise ConfigError(f"--rows is a number of rows, or 0 for all. Received: {options.rows}.")
    if options.html is not None and options.html.exists() and not options.force:
        raise OutputExistsError(f"{options.html} exists already. Pass --force to replace it.")


def show_page(found: Any, table: RenderableType, options: argparse.Namespace) -> None:
    """Print a record as a table or JSON, and write its HTML file where one is asked for."""
    if options.json:
        show_text(found.to_json())
    else:
        show(table)
    if options.html is not None:
        path = found.html(options.html, overwrite=options.force)
        if not options.json:
            show_text(f"\nReport: {path}")


def check_model_output(options: argparse.Namespace, *suffixes: str) -> None:
    """Refuse an OUTPUT of another kind, or one that exists, before any work.

    Raises:
        ConfigError: another ending.
        OutputExistsError: it exists, and there is no `--force`.
    """
    if options.output.suffix not in suffixes:
        raise ConfigError(f"OUTPUT ends in {' or '.join(suffixes)}. Received: {str(options.output)!r}.")
    if options.output.exists() and not options.force:
        raise OutputExistsError(f"{options.output} exists already. Pass --force to replace it.")


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


def show_run(result: Any, options: argparse.Namespace, table: RenderableType, headline: str, path: Any) -> int:
    """Print the result of an optimization and return its exit code: 1 if no candidate is inside the budget."""
    if options.json:
        show_text(result.to_json())
    else:
        show(table)
        show_text(f"\n{headline}\nReport: {path}")
    return 0 if result.best_name is not None else 1
