"""Latency of smaller models: rebuilt, exported, and timed in turns with the model as it was."""

from collections.abc import Callable

import keras
import numpy as np
import numpy.typing as npt

from kopt.core.channel_pruning_records import LatencyProbe
from kopt.core.errors import ConfigError
from kopt.core.files import scratch_directory
from kopt.measure.timing import paired_rounds
from kopt.prune.channel_removal.goals import Goal
from kopt.prune.channel_removal.latency_search import Point, fastest_enough
from kopt.prune.shipping import THREADS, shipped

# Of timing a probe: at least 20 turns of either side are taken, whatever they need.
_SECONDS = 1.0


def reach_latency(
    goal: Goal,
    model: keras.Model,
    runtime: str,
    last: int,
    macs: Callable[[int], int],
    rebuilt: Callable[[int], keras.Model],
) -> tuple[int, tuple[LatencyProbe, ...]]:
    """Return the step of the widest model found that is fast enough, and what was measured.

    Args:
        goal: milliseconds, or a share of the present latency.
        model: as it is.
        runtime: see `kopt.prune.shipping`.
        last: step with the smallest widths.
        macs: multiply-accumulates of a step.
        rebuilt: the model of a step.

    Raises:
        ConfigError: the model is fast enough, or the smallest one is not.
    """
    probes: dict[int, LatencyProbe] = {}
    with scratch_directory() as scratch:
        _, reference = shipped(model, scratch, "reference", runtime)

        def measure(step: int) -> float:
            smaller = rebuilt(step)
            _, runner = shipped(smaller, scratch, f"step-{step}", runtime)
            probes[step] = _probe(
                smaller, macs(step), paired_rounds(reference, runner, None, batch_size=1, seconds=_SECONDS)
            )
            return probes[step].share

        least = Point(last, macs(last), measure(last))
        reference_ms = probes[last].reference_ms
        target = goal.value if goal.quantity == "target_latency" else goal.value / reference_ms
        _require_reachable(goal, target, probes[last], reference.runtime)
        found = fastest_enough(target, Point(0, macs(0), 1.0), least, macs, measure)
    return found.step, tuple(probes.values())


def _probe(model: keras.Model, macs: int, rounds: npt.NDArray[np.float64]) -> LatencyProbe:
    # What else runs on the machine makes a turn longer, never shorter, and long calls more often than short ones: with
    # four processes on each core the ratio of the medians lay between 0.17 and 0.66, that of the minima at 0.68 +-0.02.
    before, after = (float(side) for side in rounds.min(axis=0))
    return LatencyProbe(macs, model.count_params(), latency_ms=after, reference_ms=before)


def _require_reachable(goal: Goal, target: float, least: LatencyProbe, runtime: str) -> None:
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
            f"measured {where}. Lower `round_to` or `min_channels`, or protect fewer layers."
        )
