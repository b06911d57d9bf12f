"""Say what the log of a server tells: use, drift, accuracy, alerts, and what to calibrate or train anew."""

import argparse
from pathlib import Path

import kopt
from kopt.cli.common import check_page, show_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("log", metavar="LOG", type=Path, help="of `kopt serve --log`; older files beside it are read")
    parser.add_argument("--models", type=Path, help="directory of versions whose profiles are used")
    # No `choices`: the library's own error names the nearest score.
    parser.add_argument("--score", default="accuracy", help="of labels: accuracy or 'absolute error'")
    parser.add_argument("--recent", type=int, default=5000, metavar="N", help="examples that drift is told by")
    parser.add_argument("--rows", type=int, default=15, metavar="N", help="features in the table; 0 for all")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write everything with a plot to an HTML file")
    parser.add_argument("--force", action="store_true", help="replace the HTML file if it exists")


def run(options: argparse.Namespace) -> int:
    """Run the command; 1 if an alert fires."""
    check_page(options)
    found = kopt.serve.monitoring_report(options.log, models=options.models, score=options.score, recent=options.recent)
    show_page(found, found.look.table(found, rows=options.rows or None), options)
    return 1 if any(alert.state == "firing" for alert in found.alerts) else 0
