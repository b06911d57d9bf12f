"""The measured effect of every perturbation of every layer."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import NonFiniteError
from kopt.core.progress import Progress
from kopt.core.records.profiles.sensitivity import Perturbation
from kopt.profile.layer_sensitivity.differences import WeightedMean
from kopt.profile.layer_sensitivity.examples import Batch, Examples
from kopt.profile.layer_sensitivity.kernels import Target
from kopt.profile.layer_sensitivity.objective import Objective
from kopt.profile.layer_sensitivity.suffixes import Group, Suffix, flat_inputs
from kopt.profile.layer_sensitivity.tracing import Trace

_EXTRA_PASSES = 2  # So that the median of a full pass is one even where there is a single batch.
Function = Callable[..., list[Any]]
# Called with a layer, a perturbation and the perturbed kernels, once each; not for a layer that is passed over.
Seen = Callable[[Target, Perturbation, list[np.ndarray]], None]


@dataclasses.dataclass(frozen=True)
class Change:
    """A perturbed model beside the model as it is; see `PerturbationEffect`."""

    loss_change: float
    loss_error: float
    metric_drop: float
    metric_error: float | None


class Costs:
    """The time of suffixes in units of the time of a full pass; medians, because no machine is ever quiet."""

    def __init__(self) -> None:
        self._full: list[float] = []
        self._parts: dict[Any, list[float]] = {}
        self._runs: dict[Any, int] = {}
        self._groups = 0

    def begin_group(self) -> None:
        """A group of layers needs a full pass of its own."""
        self._groups += 1

    def add_full(self, seconds: float, examples: int) -> None:
        """Take up the time of an unperturbed pass over a batch."""
        self._full.append(seconds / examples)

    def add_run(self, suffix: Any, seconds: float, runs: int, examples: int) -> None:
        """Take up the time of all runs of a suffix over a batch."""
        self._parts.setdefault(suffix, []).append(seconds / runs / examples)
        self._runs[suffix] = runs

    @property
    def forward_passes(self) -> float:
        """The work of everything in units of a full pass over all examples."""
        full = statistics.median(self._full)
        parts = (self._runs[suffix] * statistics.median(times) / full for suffix, times in self._parts.items())
        return self._groups + sum(parts)


class Judge:
    """Gathers loss and metric of a model over the batches, with differences to those of the model as it is."""

    def __init__(self, objective: Objective):
        self._objective = objective
        self._loss, self._metric = WeightedMean(), WeightedMean()
        self._state = None if objective.whole is None else _zero_state(objective.whole)

    def add(self, judged: Sequence[Any], plain: Sequence[Any] | None, batch: Batch) -> None:
        """Take up a batch: `judged` of `Trace`, and the same of the unperturbed model if differences are wanted."""
        values = [np.asarray(one) for one in judged]
        before = [np.asarray(one) for one in plain] if plain is not None else [0.0] * len(values)
        self._loss.add(values[0] - before[0], batch.weight)
        if self._objective.metric is not None:
            self._metric.add(values[1] - before[1], batch.weight)
        elif self._objective.whole is not None:
            y, outputs = (keras.tree.flatten(one)[0] for one in (batch.y, judged[1]))  # a metric is of one output
            self._state = self._objective.whole.stateless_update_state(
                self._state, y, outputs, sample_weight=batch.weight
            )

    @property
    def examples(self) -> int:
        """Number of examples of positive weight."""
        return self._loss.count

    @property
    def loss(self) -> float:
        """Mean loss, or mean difference."""
        return self._loss.mean

    @property
    def metric(self) -> float:
        """The metric, or the mean difference of one that is a mean over examples."""
        if self._objective.whole is not None:
            return float(self._objective.whole.stateless_result(self._state))
        return self._loss.mean if self._objective.metric is None else self._metric.mean

    def change(self, plain: "Judge") -> Change:
        """Return the change against the model as it is, of a judge that was given differences."""
        loss = self._loss.mean, self._loss.error
        if self._objective.whole is not None:
            return Change(*loss, self._objective.drop(plain.metric, self.metric), None)
        metric = self._loss if self._objective.metric is None else self._metric
        return Change(*loss, self._objective.drop(0.0, metric.mean) + 0.0, metric.error)


def _zero_state(metric: Any) -> list[Any]:
    before = [variable.value for variable in metric.variables]
    kept = [np.asarray(value) for value in before]
    metric.reset_state()
    zeros = [np.asarray(variable.value) for variable in metric.variables]
    for variable, value in zip(metric.variables, kept, strict=True):
        variable.assign(value)
    return zeros


def measure(
    trace: Trace,
    groups: Sequence[Group],
    perturbations: Sequence[Perturbation],
    examples: Examples,
    objective: Objective,
    *,
    seed: int,
    seen: Seen,
    progress: Progress,
) -> tuple[Judge, dict[tuple[str, str], tuple[Change, bool]], Costs]:
    """Judge every layer of `groups` under every perturbation.

    Returns:
        The judge of the model as it is; the changes by layer and perturbation, with whether the layer was passed over;
        the costs.
    """
    changes: dict[tuple[str, str], tuple[Change, bool]] = {}
    costs, plain = Costs(), Judge(objective)
    for number, group in enumerate(groups):
        step = f"layers {number + 1} of {len(groups)}, " if len(groups) > 1 else ""
        runs = _Runs(trace, group, perturbations, objective, seed, seen)
        plain = Judge(objective)
        costs.begin_group()
        for place, batch in enumerate(examples):
            progress.step(f"{step}batch {place + 1}")
            runs.run(batch, plain, costs, is_first=place == 0)
        changes.update(runs.changes(plain))
    return plain, changes, costs


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """One perturbation of one layer."""

    target: Target
    perturbation: Perturbation
    passed_over: bool
    values: list[Any]
    judge: Judge


class _Runs:
    """All perturbations of a group of layers, batch after batch."""

    def __init__(
        self,
        trace: Trace,
        group: Group,
        perturbations: Sequence[Perturbation],
        objective: Objective,
        seed: int,
        seen: Seen,
    ):
        self._judged = len(trace.judged)
        self._kept = list({tensor.ref(): tensor for suffix in group.suffixes for tensor in suffix.kept}.values())
        self._prefix = trace.function(trace.inputs, [*trace.judged, *self._kept])
        self._runs: list[tuple[Suffix, Function, list[_Run]]] = []
        for suffix in group.suffixes:
            runs = []
            for target in suffix.targets:
                for perturbation in perturbations:
                    passed_over = perturbation.kind == "removed" and target.path in suffix.switches
                    kernels = None if passed_over else target.perturbed(perturbation, seed)
                    if kernels is not None:
                        seen(target, perturbation, kernels)
                    values = [tf.convert_to_tensor(value) for value in suffix.values(target, kernels)]
                    runs.append(_Run(target, perturbation, passed_over, values, Judge(objective)))
            self._runs.append((suffix, suffix.function(trace), runs))

    def run(self, batch: Batch, plain: Judge, costs: Costs, *, is_first: bool) -> None:
        feeds = flat_inputs(batch)
        if is_first:
            self._warm_up(feeds)
            for _ in range(_EXTRA_PASSES):
                self._timed(batch, costs)
        judged, kept = self._timed(batch, costs)
        _require_finite(judged[0], batch)
        plain.add(judged, None, batch)
        for suffix, function, runs in self._runs:
            start = time.perf_counter()
            given = [kept[tensor.ref()] for tensor in suffix.kept]
            for run in runs:
                changed = dict(zip(suffix.changed, function(*given, *run.values), strict=True))
                run.judge.add([changed.get(place, judged[place]) for place in range(self._judged)], judged, batch)
            costs.add_run(suffix, time.perf_counter() - start, len(runs), batch.size)

    def _timed(self, batch: Batch, costs: Costs) -> tuple[list[np.ndarray], dict[Any, Any]]:
        start = time.perf_counter()
        found = self._unperturbed(flat_inputs(batch))
        costs.add_full(time.perf_counter() - start, batch.size)
        return found

    def _unperturbed(self, feeds: Sequence[Any]) -> tuple[list[np.ndarray], dict[Any, Any]]:
        values = self._prefix(*feeds)
        kept = dict(zip([tensor.ref() for tensor in self._kept], values[self._judged :], strict=True))
        return [value.numpy() for value in values[: self._judged]], kept

    def _warm_up(self, feeds: Sequence[Any]) -> None:
        """Let TensorFlow optimize the graphs before anything is timed."""
        _, kept = self._unperturbed([feed[:1] for feed in feeds])
        for suffix, function, runs in self._runs:
            function(*[kept[tensor.ref()] for tensor in suffix.kept], *runs[0].values)

    def changes(self, plain: Judge) -> dict[tuple[str, str], tuple[Change, bool]]:
        return {
            (run.target.path, run.perturbation.name): (run.judge.change(plain), run.passed_over)
            for _, _, runs in self._runs
            for run in runs
        }


def _require_finite(losses: np.ndarray, batch: Batch) -> None:
    bad = ~np.isfinite(losses) & (batch.weight > 0)
    if bad.any():
        raise NonFiniteError(
            f"The loss of the unperturbed model is NaN or infinite for {int(bad.sum())} of {batch.size} examples of a "
            f"batch: there is nothing to compare with. `kopt.train.locate_nonfinite(model, x, y)` says where it comes "
            f"from."
        )
