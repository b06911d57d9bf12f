"""Say what changed from one run of `kopt optimize` to another."""

import argparse

import kopt
from kopt.cli.common import show, show_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("first", metavar="RUN", help="directory of a finished run, or its report.json")
    parser.add_argument("second", metavar="RUN", help="of another run, also of another model or other data")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    found = kopt.report.compare_runs(options.first, options.second)
    if options.json:
        show_text(found.to_json())
    else:
        show(kopt.report.comparison_table(found))
    return 0
