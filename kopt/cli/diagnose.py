"""Say at which layers an integer file of a model loses accuracy, and why."""

import argparse
from pathlib import Path

import kopt
from kopt.cli.common import EXAMPLES, calibration_from, check_page, show_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help=".keras or .h5 (Keras 3 or legacy)")
    parser.add_argument("--data", required=True, help=f"examples: {EXAMPLES}")
    # No `choices`: the library's own error names the nearest scheme.
    parser.add_argument("--scheme", default="int8", help="int8 or int16x8")
    parser.add_argument("--skip", nargs="+", default=(), metavar="LAYER", help="layers that stay in float")
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="examples")
    parser.add_argument("--sort", default="order", help="of the table: order, error, accumulated or alone")
    parser.add_argument("--rows", type=int, default=20, metavar="N", help="rows of the table; 0 for all")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write everything with a plot to an HTML file")
    parser.add_argument("--force", action="store_true", help="replace the HTML file if it exists")
    parser.add_argument("--unsafe", action="store_true", help="open a model file that stores Python code, and run it")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    check_page(options)
    model = kopt.load_model(options.model, safe_mode=not options.unsafe)
    data = calibration_from(options, model)
    found = kopt.quantize.diagnose(
        model,
        data,
        scheme=options.scheme,
        skip=options.skip,
        samples=options.samples,
        progress=kopt.report.make_progress(quiet=options.json),
    )
    show_page(found, found.look.table(found, rows=options.rows or None, sort=options.sort), options)
    return 0
