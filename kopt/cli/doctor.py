"""Show what is installed, what is missing and how to add it, and known clashes."""

import argparse
import json

import kopt
from kopt.cli.common import show, show_text
from kopt.core.installation import check_installation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""


def run(options: argparse.Namespace) -> int:
    """Run the command; 1 if something that kopt requires is missing or clashes."""
    checks = [*check_installation(), *kopt.measure.check_devices()]
    if options.json:
        show_text(json.dumps([{"schema": check.schema(), **check.to_dict()} for check in checks], indent=2))
    else:
        show(kopt.report.checks_table(checks))
    return 1 if any(check.status == "warning" for check in checks) else 0
