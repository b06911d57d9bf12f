"""Say what to change about a model and why; without MODEL, what is installed, what is missing and how to add it."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kopt
from kopt.cli.common import LABELLED, check_page, show, show_page, show_text, splits_from
from kopt.core.errors import ConfigError, LoadError
from kopt.core.installation import check_installation
from kopt.core.records.checks import Check
from kopt.core.records.search.advice import DEPTHS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", nargs="?", help=".keras or .h5 (Keras 3 or legacy)")
    parser.add_argument(
        "--data",
        help=f"{LABELLED}. Without, what needs data is left out",
    )
    parser.add_argument(
        "--history",
        type=Path,
        metavar="FILE",
        help="of a training: JSON of `fit(...).history`, or what `kopt.profile.TrainingProfile(log_path=...)` wrote",
    )
    # No `choices`: the library's own error names the nearest word.
    parser.add_argument(
        "--depth", default="quick", help=f"{' or '.join(DEPTHS)}, which also compiles, converts and times"
    )
    parser.add_argument("--loss", help="name of a Keras loss, if the file has no compiled model or a loss of its own")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="examples a step")
    parser.add_argument("--rows", type=int, default=0, metavar="N", help="most pieces of advice; 0 for all")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write everything to an HTML file")
    parser.add_argument("--force", action="store_true", help="replace the HTML file if it exists")
    parser.add_argument("--unsafe", action="store_true", help="open a model file that stores Python code, and run it")


def run(options: argparse.Namespace) -> int:
    """Run the command; of a model 0 whatever is advised, of the installation 1 if something is missing or clashes."""
    if options.model is None:
        return _installation(options)
    check_page(options)
    history = None if options.history is None else _history(options.history)
    model = kopt.load_model(options.model, safe_mode=not options.unsafe)
    if options.loss is not None:
        kopt.train.batch_loss.require_known_loss(options.loss)
        model.compile("adam", options.loss, metrics=["accuracy"] if "crossentropy" in options.loss else None)
    train = validation = None
    if options.data:
        splits = splits_from(options, model)
        train, validation = splits.train, splits.validation
    found = kopt.advise(
        model,
        train,
        validation,
        history=history,
        depth=options.depth,
        batch_size=options.batch_size,
        progress=kopt.report.make_progress(quiet=options.json),
    )
    show_page(found, found.look.table(found, rows=options.rows or None), options)
    return 0


def _installation(options: argparse.Namespace) -> int:
    for name in ("data", "history", "html", "loss", "rows"):
        if getattr(options, name) not in (None, 0):
            raise ConfigError(f"--{name} belongs to a model: `kopt doctor MODEL --{name} ...`.")
    checks = [*check_installation(), *kopt.measure.check_devices()]
    if options.json:
        show_text(json.dumps([{"schema": check.schema(), **check.to_dict()} for check in checks], indent=2))
    else:
        show(kopt.report.checks_table(checks))
        show_text(f"\n{_summary(checks)}")
    return 1 if any(check.status == "warning" for check in checks) else 0


def _summary(checks: Sequence[Check]) -> str:
    warnings = [check.name for check in checks if check.status == "warning"]
    if warnings:
        return f"To be mended: {', '.join(warnings)}."
    return "Everything that kopt needs is there. What is off is optional."


def _history(path: Path) -> Any:
    """Return what is known of a training.

    Raises:
        LoadError: there is no such file, or it holds no history.
    """
    if path.suffix == ".jsonl":
        return kopt.profile.Trends.from_jsonl(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(
            f"{path} cannot be read as a history: {error}. Write one with `json.dump(model.fit(...).history, file)`."
        ) from error
