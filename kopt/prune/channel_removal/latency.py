"""Latency of smaller models: rebuilt, exported, and timed in turns with the model as it was."""

from collections.abc import Callable

import keras
import numpy as np

from kopt.core.errors import ConfigError
from kopt.core.files import scratch_directory
from kopt.core.records.changes.channel_pruning import LatencyProbe
from kopt.graph.channels import ChannelGraph
from kopt.measure import Runner
from kopt.prune.channel_removal.goals import Goal
from kopt.prune.channel_removal.latency_search import Point, fastest_enough
from kopt.prune.channel_removal.rebuilding import rebuild
from kopt.prune.shipping import THREADS, quickest_turns, shipped

# Of measuring a file that seems too slow.
_MORE_TRIES = 2
# A share of the latency that is not told from none.
_LEAST_SAVING = 0.01


def reach_latency(
    goal: Goal,
    model: keras.Model,
    runtime: str,
    last: int,
    macs: Callable[[int], int],
    rebuilt: Callable[[int], keras.Model],
    staying: str,
) -> tuple[int, tuple[LatencyProbe, ...]]:
    """Return the step of the widest model found that is fast enough, and what was measured.

    Args:
        goal: milliseconds, or a share of the present latency.
        model: as it is.
        runtime: see `kopt.prune.shipping`.
        last: step with the smallest widths.
        macs: multiply-accumulates of a step.
        rebuilt: the model of a step.
        staying: what cannot shrink, for messages.

    Raises:
        ConfigError: the model is fast enough, or the smallest one is not.
    """
    probes: dict[int, LatencyProbe] = {}
    with scratch_directory() as scratch:
        _, reference = shipped(model, scratch, "reference", runtime)

        def measure(step: int) -> float:
            smaller = rebuilt(step)
            _, runner = shipped(smaller, scratch, f"step-{step}", runtime)
            reference_ms, latency_ms = _undisturbed(goal, reference, runner)
            probes[step] = LatencyProbe(macs(step), smaller.count_params(), latency_ms, reference_ms)
            return probes[step].share

        least = Point(last, macs(last), measure(last))
        reference_ms = probes[last].reference_ms
        target = goal.value if goal.quantity == "target_latency" else goal.value / reference_ms
        _require_reachable(goal, target, probes[last], reference.runtime, staying)
        found = fastest_enough(target, Point(0, macs(0), 1.0), least, macs, measure)
    return found.step, tuple(probes.values())


def _undisturbed(goal: Goal, reference: Runner, runner: Runner) -> tuple[float, float]:
    """Return the milliseconds of both files, measured again while the second one seems too slow.

    Other work makes turns only longer, so the quickest of all measurements are taken.
    """
    before, after = quickest_turns(reference, runner)
    for _ in range(_MORE_TRIES):
        if after <= (goal.value * before if goal.quantity == "target_latency" else goal.value):
            break
        again = quickest_turns(reference, runner)
        before, after = min(before, again[0]), min(after, again[1])
    return before, after


def _require_reachable(goal: Goal, target: float, least: LatencyProbe, runtime: str, staying: str) -> None:
    where = f"in {runtime} with {THREADS} thread"
    if target >= 1:
        raise ConfigError(
            f"`{goal.text}` is not below what the model takes: {least.reference_ms:.3g} ms, measured {where}. Give "
            f"fewer milliseconds."
        )
    if least.share > target:
        raise ConfigError(
            f"`{goal.text}` cannot be reached: with every group at its smallest width the model takes "
            f"{least.latency_ms:.3g} ms, {least.share:.3f} of the {least.reference_ms:.3g} ms that it takes now, "
            f"measured {where}. Lower `round_to` or `min_channels`, or protect fewer layers.{staying}"
        )


def latency_savings(model: keras.Model, graph: ChannelGraph, runtime: str) -> list[float]:
    """Return the milliseconds that one unit of every free group saves: those of the first half of its units, a unit.

    Every group takes an export. What is below a hundredth of the latency is taken to be nothing.
    """
    kept, saved = np.ones(graph.unit_count, np.bool_), []
    with scratch_directory() as scratch:
        _, reference = shipped(model, scratch, "reference", runtime)
        for place, group in enumerate(graph.free):
            half = group.units[: group.units.size // 2]
            kept[half] = False
            _, runner = shipped(rebuild(model, graph, kept), scratch, f"group-{place}", runtime)
            kept[half] = True
            reference_ms, latency_ms = quickest_turns(reference, runner)
            difference = reference_ms - latency_ms
            saved.append(difference / half.size if difference >= _LEAST_SAVING * reference_ms else 0.0)
    return saved
