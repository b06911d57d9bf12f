"""Check that an exported file is what its manifest says and still computes what it did."""

import argparse

import kopt
from kopt.cli.common import show, show_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "artefact", metavar="ARTEFACT", help=".tflite, .onnx or SavedModel directory, manifest beside it"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; 1 if something does not hold."""
    verification = kopt.export.verify(options.artefact)
    if options.json:
        show_text(verification.to_json())
    else:
        show(kopt.report.verification_table(verification))
    return 0 if verification.ok else 1
