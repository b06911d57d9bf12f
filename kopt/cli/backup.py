"""Keep verified copies of an exported file in several places, check them, bring the newest good one back."""

import argparse

import kopt
from kopt.cli.common import show, show_text
from kopt.core.records.shipping.safekeeping import BackupReport

_ACTIONS = ("make", "check", "restore")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "action", choices=_ACTIONS, help="make copies, check all there are, restore the newest good one"
    )
    parser.add_argument(
        "artefact", metavar="ARTEFACT", help="exported file or directory; its name is that of its copies"
    )
    parser.add_argument(
        "places", metavar="PLACE", nargs="+", help="directory, or URL for fsspec, e.g. s3://bucket/models"
    )
    parser.add_argument("--keep", type=int, default=3, help="good copies that stay in each place (make)")
    parser.add_argument("--force", action="store_true", help="replace ARTEFACT if it exists (restore)")


def run(options: argparse.Namespace) -> int:
    """Run the command; 1 if a copy is damaged, or a place has none."""
    if options.action == "restore":
        report = BackupReport((kopt.export.restore(options.artefact, options.places, overwrite=options.force),))
    elif options.action == "make":
        report = kopt.export.backup(options.artefact, options.places, keep=options.keep)
    else:
        report = kopt.export.check_backup(options.artefact, options.places)
    if options.json:
        show_text(report.to_json())
    else:
        show(kopt.report.backup_table(report))
    return 0 if all(copy.status == "good" for copy in report.copies) else 1
