"""Channels, heads and weights that go."""

from typing import Any

import keras

from kopt import prune
from kopt.core.records.changes.channel_pruning import NEED_DATA
from kopt.core.records.search.techniques import ChannelsConfig, ConstantChannelsConfig, HeadsConfig, MagnitudeConfig
from kopt.search.techniques.outcome import Outcome
from kopt.search.techniques.work import Work

# Masks are final before the last third of the training, which recovers what they cost.
_RAMP = 0.67


def channels(model: keras.Model, config: ChannelsConfig, work: Work) -> Outcome:
    """Remove the channels that matter least."""
    smaller, report = prune.channels(model, keep=config.keep, criterion=config.criterion, **_examples(config, work))
    return _removed(smaller, report)


def heads(model: keras.Model, config: HeadsConfig, work: Work) -> Outcome:
    """Remove the attention heads that matter least."""
    smaller, report = prune.heads(model, keep=config.keep, criterion=config.criterion, **_examples(config, work))
    return _removed(smaller, report)


def constant_channels(model: keras.Model, config: ConstantChannelsConfig, work: Work) -> Outcome:
    """Remove the channels that are the same for every calibration example."""
    arrays = list(work.calibration.values())
    inputs = arrays[0] if len(arrays) == 1 else keras.tree.pack_sequence_as(model.input, arrays)
    smaller, report = prune.constant_channels(model, inputs, tolerance=config.tolerance)
    if not report.removed:
        return Outcome(smaller, f"no channel that could go was constant on {report.examples} examples", changed=False)
    return Outcome(smaller, f"{report.removed} constant channel(s) went; {_costs(report)}")


def magnitude(model: keras.Model, config: MagnitudeConfig, work: Work) -> Outcome:
    """Train while the smallest weights become zero."""
    end = max(1, int(_RAMP * work.steps(config.epochs)))
    schedule = prune.schedules.Polynomial(config.sparsity, begin=1, end=end)
    masked, _ = prune.magnitude(model, schedule)
    trained = work.fit(masked, epochs=config.epochs, rate=config.rate)
    plain, report = prune.finalize(masked)
    assert isinstance(report, prune.Magnitude)
    return Outcome(plain, f"{len(report.variables)} kernel(s) with {config.sparsity:.0%} zeros; {trained}")


def _examples(config: ChannelsConfig, work: Work) -> dict[str, Any]:
    if config.criterion not in NEED_DATA:
        return {}
    assert work.train is not None
    return {"data": (work.train.x, work.train.y), "loss": work.loss}


def _removed(smaller: keras.Model, report: prune.ChannelPruning) -> Outcome:
    if report.parameters_after == report.parameters_before:
        return Outcome(smaller, "nothing went: the widths are rounded to what they are", changed=False)
    return Outcome(smaller, _costs(report))


def _costs(report: Any) -> str:
    return (
        f"{report.macs_before:,} multiply-accumulates became {report.macs_after:,}, {report.parameters_before:,} "
        f"parameters {report.parameters_after:,}"
    )
