"""Render the report of a finished run again."""

import argparse

import kopt
from kopt.cli.common import show_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help="directory of a finished `kopt optimize` or `kopt demo`")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    result = kopt.report.read_result(options.run_dir)
    path = kopt.report.write_report(result, options.run_dir)
    show_run(result, options, kopt.report.candidates_table(result), kopt.report.headline(result), path)
    return 0
