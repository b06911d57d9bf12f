"""Tries options one after the other and keeps those that lower the error."""

from collections.abc import Collection

from kopt.core.progress import Progress
from kopt.core.records.changes.post_training import TriedOption
from kopt.quantize.after_training.bench import Bench, State
from kopt.quantize.after_training.options import KERNELS, OPTIONS, Option, Settings
from kopt.quantize.after_training.techniques import Done

# An option that gains less than this share of the error is within what other examples would change.
_GAIN = 0.02
# Products in all kernels for one example, up to which learned rounding is tried without being asked for.
SMALL_MACS = 5_000_000


def choose(bench: Bench, settings: Settings, passed_over: dict[str, str], progress: Progress) -> list[TriedOption]:
    """Try every option on top of what was kept before; of a group the best one is kept.

    Args:
        bench: left with what was kept.
        settings: of the techniques.
        passed_over: from the name of an option to why it is not tried.
        progress: told of every option that is tried.
    """
    progress.start(len(OPTIONS.keys() - passed_over.keys()))
    tried: list[TriedOption] = []
    least, holders = bench.error(), dict[str, int]()
    before_group: dict[str, State] = {}
    for option in OPTIONS.values():
        if option.name in passed_over:
            tried.append(_untried(option, passed_over[option.name]))
            continue
        progress.step(option.name)
        before = bench.state
        if option.group:
            # Options of a group are alternatives: each starts from what the first one found.
            start = before_group.setdefault(option.group, before)
            bench.restore(start)
        done = _applied(option, bench, settings)
        error = bench.error() if done.layers else least
        kept = done.layers > 0 and error < least * (1.0 - _GAIN)
        tried.append(_row(option, kept, error if done.layers else None, done.layers, done.note))
        if not kept:
            bench.restore(before)
            continue
        least = error
        if option.group in holders:
            tried[holders[option.group]] = _beaten(tried[holders[option.group]], option.name)
        if option.group:
            holders[option.group] = len(tried) - 1
    return tried


def apply_all(bench: Bench, settings: Settings, names: Collection[str], progress: Progress) -> list[TriedOption]:
    """Apply the named options in the order of the table, whatever they do to the error, and measure after each."""
    tried = []
    progress.start(len(OPTIONS.keys() & set(names)))
    for option in OPTIONS.values():
        if option.name not in names:
            tried.append(_untried(option, "not asked for"))
            continue
        progress.step(option.name)
        done = _applied(option, bench, settings)
        error = bench.error() if done.layers else None
        tried.append(TriedOption(option.name, option.changes, done.layers > 0, error, done.layers, done.note))
    return tried


def _applied(option: Option, bench: Bench, settings: Settings) -> Done:
    done = option.apply(bench, settings)
    shared = sum(layer.has_codebooks for layer in bench.layers)
    if not shared or KERNELS not in option.changes:
        return done
    return Done(done.layers, f"{done.note}; {shared} kernel(s) keep the values that their weights share")


def _row(option: Option, kept: bool, error: float | None, layers: int, note: str) -> TriedOption:
    if error is not None:
        note += ": the error fell" if kept else f": the error did not fall by {_GAIN:.0%}"
    return TriedOption(option.name, option.changes, kept, error, layers, note)


def _beaten(row: TriedOption, better: str) -> TriedOption:
    return TriedOption(row.name, row.changes, False, row.error, row.layers, f"{better} was better")


def _untried(option: Option, reason: str) -> TriedOption:
    return TriedOption(option.name, option.changes, False, None, 0, reason)
