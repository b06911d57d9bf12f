"""Remove channels from a model, or set small weights to zero, and write the smaller model."""

import argparse
import sys
from pathlib import Path
from typing import Any

import kopt
from kopt.cli.common import check_model_output, show_text, splits_from
from kopt.core.errors import ConfigError, KoptError
from kopt.core.files import atomic_path
from kopt.core.records.changes.channel_pruning import NEED_DATA

_DEFAULTS: dict[str, Any] = {
    "criterion": "l2",
    "per": None,
    "data": None,
    "loss": None,
    "round_to": 8,
    "granularity": "element",
}
_OF_CHANNELS = ("criterion", "per", "data", "loss", "round_to")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help=".keras or .h5 (Keras 3 or legacy)")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="x.keras; wants some epochs of training")
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--keep", type=float, metavar="SHARE", help="channels that every layer keeps, e.g. 0.7")
    goal.add_argument("--macs", type=float, metavar="M", help="multiply-accumulates left: a share, or a number above 1")
    goal.add_argument("--params", type=float, metavar="P", help="parameters left: a share, or a number above 1")
    goal.add_argument("--latency-ms", type=float, metavar="MS", help="milliseconds of a call left, measured in LiteRT")
    goal.add_argument("--latency", type=float, metavar="SHARE", help="the same as a share of the present latency")
    goal.add_argument("--sparsity", type=float, metavar="SHARE", help="weights set to zero; the shape stays as it is")
    # No `choices`: the library's own errors name the nearest word.
    parser.add_argument("--criterion", help="how channels are compared, e.g. l2, lamp, fisher")
    parser.add_argument("--per", metavar="COST", help="rank by importance for each of the macs or params that it costs")
    parser.add_argument("--granularity", help="with --sparsity: element, block, n:m or channel")
    parser.add_argument("--data", help=f"for {', '.join(NEED_DATA)}: .npz, image folders, a packaged name")
    parser.add_argument("--loss", help="for the criteria with gradients, where the model is not compiled, e.g. mse")
    parser.add_argument("--protect", nargs="+", default=(), metavar="LAYER", help="layers that stay as they are")
    parser.add_argument("--round-to", type=int, metavar="N", help="widths become multiples of this")
    parser.set_defaults(**_DEFAULTS)
    parser.add_argument("--rows", type=int, default=20, metavar="N", help="rows of the table; 0 for all")
    parser.add_argument("--no-measure", action="store_true", help="do not export both models to compare size and time")
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument("--unsafe", action="store_true", help="open a model file that stores Python code, and run it")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    check_model_output(options, ".keras")
    if options.rows < 0:
        raise ConfigError(f"--rows is a number of rows, or 0 for all. Received: {options.rows}.")
    if options.criterion in NEED_DATA and not options.data:
        raise ConfigError(f"The criterion {options.criterion!r} needs examples: pass --data.")
    _check_together(options)
    model = kopt.load_model(options.model, safe_mode=not options.unsafe)
    smaller, report = _zeroed(model, options) if options.sparsity is not None else _narrowed(model, options)
    with atomic_path(options.output, overwrite=options.force) as staged:
        smaller.save(staged)
    note = ""
    if not options.no_measure:
        try:
            report = kopt.prune.measured(report, model, smaller)
        except KoptError as error:
            note = f"The two models were not measured side by side (--no-measure leaves it out): {error}"
    if options.json:
        show_text(report.to_json())
    else:
        show_text(report.table(80, rows=options.rows or None))
        show_text(f"\nModel: {options.output}")
    if note:
        sys.stderr.write(f"{note}\n")
    return 0


def _check_together(options: argparse.Namespace) -> None:
    """Refuse options that the chosen goal has no use for.

    Raises:
        ConfigError: names one.
    """
    to_zeros = options.sparsity is not None
    unused = {name: _DEFAULTS[name] for name in (_OF_CHANNELS if to_zeros else ("granularity",))}
    for name, default in unused.items():
        if getattr(options, name) != default:
            with_what = "a goal for channels, as --keep" if to_zeros else "--sparsity"
            raise ConfigError(f"--{name.replace('_', '-')} goes with {with_what}. Leave it out.")


def _zeroed(model: Any, options: argparse.Namespace) -> Any:
    masked, _ = kopt.prune.magnitude(model, options.sparsity, granularity=options.granularity, skip=options.protect)
    return kopt.prune.finalize(masked)


def _narrowed(model: Any, options: argparse.Namespace) -> Any:
    data = None
    if options.data:
        split = splits_from(options, model).train
        data = (split.x, split.y)
    return kopt.prune.channels(
        model,
        keep=options.keep,
        target_macs=options.macs,
        target_params=options.params,
        target_latency_ms=options.latency_ms,
        target_latency=options.latency,
        criterion=options.criterion,
        per=options.per,
        data=data,
        loss=options.loss,
        round_to=options.round_to,
        protect=options.protect,
    )
