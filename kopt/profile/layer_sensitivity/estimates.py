"""First- and second-order estimates of what a change of the weights does to the loss.

`L(w + dw) - L(w)` is about `g . dw + dw . H dw / 2` with the gradient `g` and the Hessian `H`. The second term is
estimated in two ways: with the mean curvature of the layer, `trace(H) / n * ||dw||^2 / 2` (HAWQ-V2, Dong et al. 2020,
https://arxiv.org/abs/1911.03852), the trace being Hutchinson's `E[v . H v]` over random signs `v`; and with the
diagonal of the empirical Fisher information, `sum(F dw^2) / 2`, where `F` is the mean squared gradient of single
examples.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kopt.core.errors import DataError
from kopt.profile.layer_sensitivity.examples import Batch, Examples
from kopt.profile.layer_sensitivity.kernels import Target
from kopt.profile.layer_sensitivity.suffixes import flat_inputs
from kopt.profile.layer_sensitivity.tracing import Trace


@dataclasses.dataclass(frozen=True, eq=False)
class LayerDerivatives:
    """Derivatives of the loss by the kernels of one layer.

    Attributes:
        gradients: one array a kernel.
        fisher: diagonal of the empirical Fisher information, one array a kernel; `None` if it was not to be had.
        trace: of the layer's block of the Hessian; `None` likewise.
        trace_error: its standard error over the random vectors; NaN for one vector.
        gradient_weight: sum of `|g w|`.
    """

    gradients: tuple[np.ndarray, ...]
    fisher: tuple[np.ndarray, ...] | None
    trace: float | None
    trace_error: float | None
    gradient_weight: float

    @property
    def fisher_trace(self) -> float | None:
        """Sum of the diagonal."""
        return None if self.fisher is None else float(sum(np.sum(one, dtype=np.float64) for one in self.fisher))

    def first_order(self, changes: Sequence[np.ndarray]) -> float:
        """Return `g . dw`."""
        return _dot(self.gradients, changes)

    def second_order(self, changes: Sequence[np.ndarray]) -> float | None:
        """Return `trace / n * ||dw||^2 / 2`."""
        if self.trace is None:
            return None
        count = sum(gradient.size for gradient in self.gradients)
        return 0.5 * self.trace / count * _dot(changes, changes)

    def fisher_order(self, changes: Sequence[np.ndarray]) -> float | None:
        """Return `sum(F dw^2) / 2`."""
        if self.fisher is None:
            return None
        return 0.5 * _dot(self.fisher, [change**2 for change in changes])


class GradientMoments:
    """Mean and mean square of the gradients of examples, from gradients of batches of equal size.

    The mean of `b` independent gradients has a `b`-th of their variance, so that
    `E[g_i^2] = b * Var(g_batch) + E[g]^2`. By Welford's recurrence: the difference of two large sums would lose a
    small variance.
    """

    def __init__(self, batch_size: int):
        self.batches = 0
        self._size = batch_size
        self._mean: list[Any] = []
        self._deviations: list[Any] = []

    def add(self, gradients: Sequence[np.ndarray]) -> None:
        """Take up the gradient of the mean loss of one batch."""
        self.batches += 1
        if self.batches == 1:
            self._mean = [np.array(gradient) for gradient in gradients]
            self._deviations = [np.zeros_like(gradient) for gradient in gradients]
            return
        for mean, deviation, gradient in zip(self._mean, self._deviations, gradients, strict=True):
            change = gradient - mean
            mean += change / self.batches
            deviation += change * (gradient - mean)

    @property
    def mean(self) -> list[np.ndarray]:
        """Gradient of the mean loss."""
        return self._mean

    @property
    def mean_square(self) -> list[np.ndarray] | None:
        """Estimate of `E[g_i^2]`; `None` below two batches."""
        if self.batches < 2:
            return None
        factor = self._size / (self.batches - 1)
        return [factor * one + mean**2 for one, mean in zip(self._deviations, self._mean, strict=True)]


def differentiate(
    trace: Trace,
    targets: Sequence[Target],
    examples: Examples,
    *,
    count: int,
    batch_size: int,
    probes: int,
    seed: int,
    step: Callable[[str], None],
) -> tuple[dict[str, LayerDerivatives], int, list[str]]:
    """Return the derivatives by the path of the layer, the number of examples they come from, and what is missing.

    Args:
        trace: of the model.
        targets: layers, in the order of the trace.
        examples: of which the first `count` are taken.
        count: at most so many examples.
        batch_size: in which gradients are taken.
        probes: random vectors for the trace of the Hessian; 0 for none.
        seed: of these.
        step: called with what begins.
    """
    batches = list(_micro_batches(examples, count, batch_size))
    if not batches:
        raise DataError("Every example has a weight of 0, so that no layer has a part in the loss. Pass other weights.")
    used = sum(batch.size for batch in batches)
    try:
        gradients = trace.gradients(trace.mean_loss)
    except LookupError as error:
        return {}, 0, [f"No estimates: the model has an operation without gradient ({error})."]
    step("gradients")
    moments = _moments(trace, gradients, batches)
    fisher = moments.mean_square
    notes = [] if fisher else [f"No Fisher information: {used} examples make less than two batches of {batch_size}."]
    traces, more = _traces(trace, gradients, batches, probes, seed, step)
    return _by_layer(targets, moments.mean, fisher, traces), used, notes + more


def _micro_batches(examples: Examples, count: int, size: int) -> list[Batch]:
    """Return batches of one size; what is left over is dropped, unless there is nothing else."""
    taken = [batch.rows(start, start + size) for batch in examples.taken(count) for start in range(0, batch.size, size)]
    weighted = [batch for batch in taken if batch.weight.any()]
    return [batch for batch in weighted if batch.size == size] or weighted[:1]


def _moments(trace: Trace, gradients: Sequence[Any], batches: Sequence[Batch]) -> GradientMoments:
    function = trace.function([trace.weight, *trace.inputs], gradients)
    moments = GradientMoments(batches[0].size)
    for batch in batches:
        moments.add([gradient.numpy() for gradient in function(batch.weight, *flat_inputs(batch))])
    return moments


def _traces(
    trace: Trace,
    gradients: Sequence[Any],
    batches: Sequence[Batch],
    probes: int,
    seed: int,
    step: Callable[[str], None],
) -> tuple[np.ndarray | None, list[str]]:
    """Return `v . H v` of every probe (rows) and kernel (columns), mean over the batches."""
    if not probes:
        return None, []
    try:
        vectors, products = trace.curvature(gradients)
    except LookupError as error:
        return None, [f"No Hessian trace: the model has an operation without second derivative ({error})."]
    function = trace.function([trace.weight, *trace.inputs, *vectors], products)
    random = np.random.default_rng(seed)
    rows = []
    for probe in range(probes):
        step(f"curvature {probe + 1} of {probes}")
        signs = [random.choice((-1.0, 1.0), one.shape).astype(one.dtype.as_numpy_dtype) for one in vectors]
        sums = [[float(value) for value in function(b.weight, *flat_inputs(b), *signs)] for b in batches]
        rows.append(np.mean(sums, axis=0))
    return np.array(rows), []


def _by_layer(
    targets: Sequence[Target], gradients: Sequence[Any], fisher: Sequence[Any] | None, traces: np.ndarray | None
) -> dict[str, LayerDerivatives]:
    found, first = {}, 0
    for target in targets:
        own = slice(first, first + len(target.kernels))
        first = own.stop
        by_probe = None if traces is None else traces[:, own].sum(axis=1)
        weights = [kernel.value() for kernel in target.kernels]
        found[target.path] = LayerDerivatives(
            gradients=tuple(gradients[own]),
            fisher=None if fisher is None else tuple(fisher[own]),
            trace=None if by_probe is None else float(by_probe.mean()),
            trace_error=None if by_probe is None else _error_of_mean(by_probe),
            gradient_weight=_dot([np.abs(one) for one in gradients[own]], [np.abs(one) for one in weights]),
        )
    return found


def _error_of_mean(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _dot(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    return sum(float(np.vdot(one, other)) for one, other in zip(some, others, strict=True))
