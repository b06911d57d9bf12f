"""Find the best file to ship for a model, within an accuracy budget."""

import argparse
import shlex

from rich.console import Group

import kopt
from kopt.cli.common import show_run
from kopt.cli.search import add_search, search_call, search_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_search(parser)
    parser.add_argument(
        "--trials", type=int, help="most files and models to look at, beside the files of the model as it is"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    result = kopt.optimize(**search_call(options), trials=options.trials, command=_command(options))
    report = options.workdir / "report.html"
    table = Group(kopt.report.candidates_table(result), kopt.report.decisions_table(result))
    return show_run(result, options, table, kopt.report.headline(result), report)


def _command(options: argparse.Namespace) -> str:
    own = () if options.trials is None else ("--trials", str(options.trials))
    return shlex.join(["kopt", "optimize", *search_words(options, own)])
