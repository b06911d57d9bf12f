"""Rounded and exact passes over the same examples, and what lies between them."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.progress import Progress
from kopt.quantize.diagnosis.calibrating import Batches
from kopt.quantize.diagnosis.signals import Signal, power
from kopt.quantize.diagnosis.tracing import RoundedTrace, Switched
from kopt.quantize.grids import Grid, grid_of
from kopt.quantize.ranges import FixedQuantizer

# Cutting out a function takes one or two seconds of a deep model; operators that share one run a little more than they
# need, which costs less where examples are a hundred.
_MOST_GROUPS = 6
Function = Callable[..., list[Any]]


class Answers:
    """The outputs of the float model and of the rounded model, example by example.

    Attributes:
        exact, rounded: largest entry of the first output that has several; empty if none has.
        noise: squared error of all outputs together.
        signal: squares of the float outputs.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {"noise": [], "signal": [], "exact": [], "rounded": []}

    def add(self, exact: Sequence[np.ndarray], rounded: Sequence[np.ndarray]) -> None:
        """Take up the outputs of a batch."""
        pairs = list(zip(exact, rounded, strict=True))
        self._parts["noise"].append(np.sum([_squares(other - one) for one, other in pairs], axis=0))
        self._parts["signal"].append(np.sum([_squares(one) for one in exact], axis=0))
        answers = next(((a, b) for a, b in pairs if a.ndim > 1 and a.shape[-1] > 1), None)
        if answers is not None:
            self._parts["exact"].append(answers[0].reshape(len(answers[0]), -1).argmax(1))
            self._parts["rounded"].append(answers[1].reshape(len(answers[1]), -1).argmax(1))

    def __getattr__(self, name: str) -> np.ndarray:
        parts = self._parts[name]
        return np.concatenate(parts) if parts else np.zeros(0)


@dataclasses.dataclass(frozen=True, eq=False)
class _Group:
    """Operators whose errors are found by running what comes after the first of them."""

    members: tuple[int, ...]
    leaves: tuple[tf.Tensor, ...]
    kept: tuple[tf.Tensor, ...]
    fetched: tuple[tf.Tensor, ...]
    function: Function


class Passes:
    """The passes over every batch: exact, all rounded, and each operator rounded alone.

    An operator alone needs only the part of the model behind it; what comes before is kept from the exact pass.

    Attributes:
        signals: of the output of every operator.
        alone: squared error of the model's outputs with one operator rounded, for each.
        answers: of the model.
    """

    def __init__(self, trace: RoundedTrace):
        self._trace, count = trace, len(trace.operators)
        self.signals = [Signal(_grid(one)) for one in trace.operators]
        self.alone = [0.0] * count
        self.answers = Answers()
        bounds = [round(part * count / _MOST_GROUPS) for part in range(_MOST_GROUPS + 1)]
        self._groups = [self._group(range(a, b)) for a, b in itertools.pairwise(bounds) if a < b]
        self._kept = list({tensor.ref(): tensor for group in self._groups for tensor in group.kept}.values())
        taken = [one.taken for one in trace.operators]
        given = [one.given for one in trace.operators]
        self._exact = trace.function(trace.inputs, [*trace.outputs, *taken, *self._kept])
        self._rounded = trace.function([*trace.inputs, *trace.leaves], [*trace.outputs, *given])
        self._on = trace.settings(lambda one: one.settings())

    def run(self, batches: Batches, progress: Progress) -> None:
        """Take up all examples."""
        for number, batch in enumerate(batches):
            progress.step(f"batch {number + 1}")
            self._run(batch)

    def kernel_errors(self, batches: Batches, choices: Sequence[int]) -> dict[tuple[int, int], float]:
        """Return the squared error of the model's outputs with one kernel rounded and nothing else.

        Returns:
            By the number of the operator and the bits of a weight.
        """
        errors: dict[tuple[int, int], float] = {}
        for batch in batches:
            outputs, _, kept = self._exact_pass(batch)
            for group in self._groups:
                given = [kept[tensor.ref()] for tensor in group.kept]
                for number in group.members:
                    if self._trace.operators[number].bits is None:
                        continue
                    for bits in choices:
                        own = self._trace.operators[number].settings(rounds=False, bits=bits)
                        found = self._found(group, given, number, own)
                        error = self._output_error(found, outputs)
                        errors[number, bits] = errors.get((number, bits), 0.0) + error
        return errors

    def _exact_pass(self, batch: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray], dict[Any, Any]]:
        """Return the outputs without rounding, those of all operators, and what the groups start from."""
        count, operators = len(self._trace.outputs), len(self.signals)
        values = self._exact(*batch)
        kept = dict(zip([tensor.ref() for tensor in self._kept], values[count + operators :], strict=True))
        return _arrays(values[:count]), _arrays(values[count : count + operators]), kept

    def _run(self, batch: Sequence[np.ndarray]) -> None:
        count = len(self._trace.outputs)
        outputs, taken, kept = self._exact_pass(batch)
        found = _arrays(self._rounded(*batch, *self._on))
        self.answers.add(outputs, found[:count])
        for signal, exact, rounded in zip(self.signals, taken, found[count:], strict=True):
            signal.add(exact)
            signal.add_noise("all", exact, rounded)
        for group in self._groups:
            self._run_group(group, [kept[tensor.ref()] for tensor in group.kept], outputs, taken)

    def _run_group(
        self, group: _Group, kept: Sequence[Any], outputs: Sequence[np.ndarray], taken: Sequence[np.ndarray]
    ) -> None:
        for number in group.members:
            one, signal, exact = self._trace.operators[number], self.signals[number], taken[number]
            found = self._found(group, kept, number, one.settings())
            self.alone[number] += self._output_error(found, outputs)
            signal.add_noise("kernel", exact, np.asarray(found.get(one.taken.ref(), exact)))
            signal.add_noise("alone", exact, np.asarray(found[one.given.ref()]))

    def _output_error(self, found: dict[Any, Any], outputs: Sequence[np.ndarray]) -> float:
        pairs = zip(self._trace.outputs, outputs, strict=True)
        return sum(power(np.asarray(found[t.ref()]) - old) for t, old in pairs if t.ref() in found)

    def _found(self, group: _Group, kept: Sequence[Any], number: int, settings: Sequence[Any]) -> dict[Any, Any]:
        """Return what a group gives where one operator has these settings, with all calls of its kernel."""
        values: dict[Any, Any] = {}
        for other in group.members:
            one = self._trace.operators[other]
            off = one.settings(rounds=False, bits=0)
            values.update(zip([leaf.ref() for leaf in one.leaves], off, strict=True))
        own = self._trace.operators[number]
        values.update(zip([leaf.ref() for leaf in own.leaves], settings, strict=True))
        given = group.function(*kept, *(values[leaf.ref()] for leaf in group.leaves))
        return dict(zip([tensor.ref() for tensor in group.fetched], given, strict=True))

    def _group(self, members: Sequence[int]) -> _Group:
        trace = self._trace
        chosen = [trace.operators[number] for number in members]
        leaves = tuple({leaf.ref(): leaf for one in chosen for leaf in one.leaves}.values())
        reached = trace.reached(leaves)
        kept = tuple(trace.frontier(reached))
        wanted = [*trace.outputs, *(tensor for one in chosen for tensor in (one.taken, one.given))]
        fetched = tuple({tensor.ref(): tensor for tensor in wanted if tensor.ref() in reached}.values())
        return _Group(tuple(members), leaves, kept, fetched, trace.function([*kept, *leaves], fetched))


def _grid(one: Switched) -> Grid:
    quantizer = one.operator.quantizer
    if isinstance(quantizer, FixedQuantizer):
        return grid_of(quantizer.low, quantizer.high, quantizer.bits)
    return quantizer.grid


def _arrays(values: Sequence[Any]) -> list[np.ndarray]:
    return [np.asarray(value) for value in values]


def _squares(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.sum(np.square(x.reshape(len(x), -1)), axis=1, dtype=np.float64))
