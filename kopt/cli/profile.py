"""Show what a model costs, what is in its weights, where its time goes and which layers matter."""

import argparse
from pathlib import Path

import kopt
from kopt.cli.common import LABELLED, check_page, show_page, splits_from
from kopt.core.records.profiles.full import PARTS
from kopt.core.settings import choice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help=".keras or .h5 (Keras 3 or legacy)")
    parser.add_argument(
        "--data",
        help=f"{LABELLED}. Without, gradients and sensitivity are left out",
    )
    # No `choices`: the library's own errors name the nearest word.
    parser.add_argument("--parts", nargs="+", metavar="PART", help=f"of: {', '.join(PARTS)}; all by default")
    parser.add_argument("--loss", help="name of a Keras loss, if the model is not compiled")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="examples a step")
    parser.add_argument("--sort", default="order", help="of the costs: order, macs, flops, parameters, activations")
    parser.add_argument("--rows", type=int, default=20, metavar="N", help="rows of each table; 0 for all")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write everything with plots to an HTML file")
    parser.add_argument("--force", action="store_true", help="replace the HTML file if it exists")
    parser.add_argument("--unsafe", action="store_true", help="open a model file that stores Python code, and run it")


def run(options: argparse.Namespace) -> int:
    """Run the command, and return 1 if a part that was asked for by name could not be made."""
    check_page(options)
    kopt.report.check_sort(options.sort)
    for part in options.parts or ():
        choice("part", part, PARTS)
    model = kopt.load_model(options.model, safe_mode=not options.unsafe)
    data = validation = None
    if options.data:
        splits = splits_from(options, model)
        data, validation = ((split.x, split.y) for split in (splits.train, splits.validation))
    found = kopt.profile.full(
        model,
        data,
        validation=validation,
        parts=options.parts or PARTS,
        loss=options.loss,
        batch_size=options.batch_size,
        progress=kopt.report.make_progress(quiet=options.json),
    )
    show_page(found, kopt.report.full_profile_table(found, rows=options.rows or None, sort=options.sort), options)
    return 1 if any(part in found.skipped for part in options.parts or ()) else 0
