"""A quantized copy on which techniques are tried: its weights and ranges, what calibration saw, and its error."""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kopt.core.errors import NonFiniteError
from kopt.graph import Call, GraphView
from kopt.graph.running import infer, run
from kopt.quantize import grids
from kopt.quantize.after_training.blocks import Block, blocks_of
from kopt.quantize.after_training.estimators import ESTIMATORS
from kopt.quantize.after_training.histograms import Observation, joined, observation_of
from kopt.quantize.few_examples import widened
from kopt.quantize.judged import before_choice
from kopt.quantize.modes import unrounded
from kopt.quantize.ranges import FixedQuantizer, Quantizer
from kopt.quantize.rules import activation_of
from kopt.quantize.weights import QuantizedWeights

# Examples that pass at once, entries of a tensor that a histogram counts, and bytes of a tensor that is kept for the
# examples of a layer.
_BATCH = 32
_COUNTED = 1 << 17
_KEPT_BYTES = 256 << 20
_SATURATING = (keras.activations.softmax, keras.activations.sigmoid)
Arrays = list[np.ndarray]
# From the name of a layer to its kernel and bias.
Weights = Mapping[str, tuple[np.ndarray, np.ndarray | None]]


@dataclasses.dataclass(frozen=True)
class State:
    """The copy between two techniques.

    Attributes:
        weights: as they are rounded.
        reference: that compute what the given model computes; others differ in what rounding made of them.
        estimator: how ranges are found.
        seen: what calibration saw of every range under `reference`.
    """

    weights: Weights
    reference: Weights
    estimator: str
    seen: Mapping[str, Observation]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A tensor of the given model, and the same tensor with everything before it rounded."""

    exact: Any
    rounded: Any


# Called with a block, what it takes rounded and what it gives in float by the ids of tensors, before it is rounded.
VisitBlock = Callable[[Block, Mapping[int, Any], Mapping[int, Any]], None]
# Called with a layer, what it takes and what it gives in float, before its rounded output is computed.
Visit = Callable[[QuantizedWeights, Pair, Any, Any], None]


class Bench:
    """The copy, the examples and the outputs that it should have, before their softmax, sigmoid or argmax.

    Attributes:
        layers: with a kernel, in order.
        view: of the copy.
    """

    def __init__(self, copy: Any, rows: Arrays, held: Arrays, fixed: Mapping[str, str]):
        """Take what is compared.

        Args:
            copy: made by `rounded_copy` with `fold`.
            rows: examples from which techniques learn, by input.
            held: examples on which they are judged.
            fixed: from the name of a quantizer to its estimator, whatever is tried.

        Raises:
            NonFiniteError: an output in float is NaN or infinite.
        """
        self.view = GraphView.of(copy)
        self._rows, self._held, self._fixed = rows, held, fixed
        self._judged = keras.Model(copy.input, [_judged(self.view, tensor) for tensor in self.view.outputs])
        self.layers = [one for one in self.view.layers if isinstance(one, QuantizedWeights)]
        weights = {one.name: _weights_of(one) for one in self.layers}
        self._state = State(weights, weights, "minmax", {})
        with unrounded():
            self._expected = self.outputs()
        _require_finite(copy.name, self._expected)
        self._observe()

    @property
    def state(self) -> State:
        """What the copy is now."""
        return self._state

    @property
    def free_ranges(self) -> int:
        """How many ranges the caller has chosen no estimator for."""
        return len(self._state.seen.keys() - self._fixed.keys())

    def restore(self, state: State) -> None:
        """Make the copy what it was."""
        for layer in self.layers:
            _assign(layer, *state.weights[layer.name])
        self._state = state
        self._set_ranges()

    def change(self, weights: Weights, *, exact: bool) -> None:
        """Take other weights.

        Args:
            weights: of some layers.
            exact: they compute what the given model computes, and are what rounding is held against from now on; ranges
                are found anew.
        """
        merged = {**self._state.weights, **weights}
        self._state = dataclasses.replace(self._state, weights=merged)
        for layer in self.layers:
            if layer.name in weights:
                _assign(layer, *weights[layer.name])
        if exact:
            self._state = dataclasses.replace(self._state, reference=merged)
            self._observe()

    def estimate(self, estimator: str) -> None:
        """Find ranges in this way."""
        self._state = dataclasses.replace(self._state, estimator=estimator)
        self._set_ranges()

    def error(self) -> float:
        """Return the root mean square of the copy's error on the held examples over that of the outputs."""
        found = self.outputs()
        terms = [
            np.sqrt(np.mean(np.square(a - b)) / max(float(np.mean(np.square(b))), 1e-30))
            for a, b in zip(found, self._expected, strict=True)
        ]
        return float(np.mean(terms))

    def agreement(self) -> float | None:
        """Return the share of held examples whose largest output is the same; `None` if outputs have a single entry."""
        outputs = zip(self.outputs(), self._expected, strict=True)
        pairs = [pair for pair in outputs if pair[0].ndim > 1 and pair[0].shape[-1] > 1]
        same = [np.mean(np.argmax(a, axis=-1) == np.argmax(b, axis=-1)) for a, b in pairs]
        return float(np.mean(same)) if same else None

    def outputs(self) -> Arrays:
        """Return the outputs of the copy on the held examples, as they are judged, flattened."""
        pack = keras.tree.pack_sequence_as
        parts = [
            keras.tree.flatten(self._judged(pack(self._judged.input, batch), training=False))
            for batch in _batches(self._held)
        ]
        return [np.concatenate([np.asarray(one) for one in column]) for column in zip(*parts, strict=True)]

    def in_float(
        self, look: Callable[[Call, Sequence[Any], Sequence[Any]], None], behind: Callable[[], None] = lambda: None
    ) -> None:
        """Show every call of the copy in float, under the reference weights, for all examples in batches.

        Args:
            look: called with the call, what it takes and what it gives.
            behind: called after every batch.
        """
        for layer in self.layers:
            _assign(layer, *self._state.reference[layer.name])
        for batch in _batches(self._rows):
            with unrounded():
                run(self.view, batch, lambda path, call, taken, given: look(call, taken, given))
            behind()
        for layer in self.layers:
            _assign(layer, *self._state.weights[layer.name])

    def layer_by_layer(self, visit: Visit) -> None:
        """Visit every kernel in order with what it takes and should give; the layers before it are rounded already.

        The weights that a visit leaves are those of the copy from then on. A layer that is called again is visited at
        its last call.
        """
        calls_left = collections.Counter(id(call.operation) for call in self.view.calls)

        def both(operation: Any, args: Any, kwargs: Any) -> list[Any]:
            exact = self._exact(operation, _side(args, "exact"), _side(kwargs, "exact"))
            calls_left[id(operation)] -= 1
            if isinstance(operation, QuantizedWeights) and not calls_left[id(operation)]:
                step = _side(kwargs, "rounded").get("step")
                visit(operation, args[0], step, exact[0])
            rounded = keras.tree.flatten(infer(operation, _side(args, "rounded"), _side(kwargs, "rounded")))
            return [Pair(*parts) for parts in zip(exact, rounded, strict=True)]

        rows = [array[: self._that_fit()] for array in self._rows]
        run(self.view, [Pair(array, array) for array in rows], lambda *seen: None, both)
        weights = {one.name: _weights_of(one) for one in self.layers}
        self._state = dataclasses.replace(self._state, weights=weights)

    def block_by_block(self, visit: VisitBlock) -> None:
        """Visit every block in order, the last without a softmax at its end; those before it are rounded already.

        The weights that a visit leaves are those of the copy from then on.
        """
        view, rows = GraphView.of(self._judged), [array[: self._that_fit()] for array in self._rows]
        exact = {id(symbol): array for symbol, array in zip(view.inputs, rows, strict=True)}
        rounded = exact
        for block in blocks_of(view):
            exact = block.run(exact, self._exact)
            visit(block, rounded, exact)
            rounded = block.run(rounded, infer)
        self._state = dataclasses.replace(self._state, weights={one.name: _weights_of(one) for one in self.layers})

    def growth(self) -> float:
        """Return by what share ranges widened from the first half of the examples to all, see `widened`."""
        seen = self._state.seen.values()
        first, whole = (
            np.array([max(one.highs[:end].max(), 0.0) - min(one.lows[:end].min(), 0.0) for one in seen])
            for end in (max(len(self._rows[0]) // 2, 1), None)
        )
        return widened(first, whole)

    def _exact(self, operation: Any, args: Any, kwargs: Any) -> list[Any]:
        with unrounded():
            if isinstance(operation, QuantizedWeights):
                kernel, bias = self._state.reference[operation.name]
                outputs = operation.product(args[0], kernel)
                return [outputs if bias is None else outputs + bias]
            return keras.tree.flatten(infer(operation, args, kwargs))

    def _that_fit(self) -> int:
        """Return how many examples' tensors can be kept at a time."""
        sizes = [np.prod([size or 1 for size in tensor.shape]) for call in self.view.calls for tensor in call.outputs]
        return max(1, int(_KEPT_BYTES // (4 * max(sizes))))

    def _observe(self) -> None:
        seen: dict[str, Observation] = {}
        batch: dict[str, Observation] = {}

        def look(call: Call, taken: Sequence[Any], given: Sequence[Any]) -> None:
            settings = call.arguments[1]
            if not isinstance(call.operation, Quantizer) or settings.get("site", -1) < 0:
                return
            name, found = call.operation.name, observation_of(np.asarray(taken[0]), _COUNTED)
            batch[name] = joined(batch[name], found, same_examples=True) if name in batch else found

        def merge() -> None:
            for name, found in batch.items():
                seen[name] = joined(seen[name], found, same_examples=False) if name in seen else found
            batch.clear()

        self.in_float(look, merge)
        self._state = dataclasses.replace(self._state, seen=seen)
        self._set_ranges()

    def _set_ranges(self) -> None:
        for quantizer in (one for one in self.view.layers if isinstance(one, Quantizer)):
            seen = self._state.seen.get(quantizer.name)
            if seen is None:
                continue
            lowest, highest = grids.integers(quantizer.bits)
            ends = ESTIMATORS[self._fixed.get(quantizer.name, self._state.estimator)](seen, highest - lowest + 1)
            quantizer.ranges.assign(np.tile(np.asarray(ends, np.float32), (quantizer.sites, 1)))
            quantizer.seen.assign(np.full(quantizer.sites, -len(seen.lows)))


def _judged(view: GraphView, tensor: Any) -> Any:
    return _before_its_grid(view, before_choice(view, tensor))


def _before_its_grid(view: GraphView, tensor: Any) -> Any:
    """Return what a softmax or sigmoid is taken of, if the tensor is that; else the tensor.

    Its grid is fixed and too coarse to tell how far an input is off where the output is near 0 or 1.
    """
    call = view.producer(tensor)
    while call is not None and isinstance(call.operation, (keras.layers.Identity, FixedQuantizer)):
        (before,) = call.inputs
        call = view.producer(before)
        if call is not None and activation_of(call.operation) in _SATURATING:
            return call.inputs[0]
    return tensor


def _require_finite(name: str, outputs: Arrays) -> None:
    if not all(np.isfinite(one).all() for one in outputs):
        raise NonFiniteError(
            f"Model {name!r} gives NaN or infinity for the calibration examples, so that no error can be measured. "
            f"Check how they were prepared, and the model with `kopt.profile.check`."
        )


def _batches(arrays: Arrays) -> list[Arrays]:
    return [[array[begin : begin + _BATCH] for array in arrays] for begin in range(0, len(arrays[0]), _BATCH)]


def _side(structure: Any, name: str) -> Any:
    return keras.tree.map_structure(lambda one: getattr(one, name) if isinstance(one, Pair) else one, structure)


def _weights_of(layer: QuantizedWeights) -> tuple[np.ndarray, np.ndarray | None]:
    inner = layer.layer
    return inner.kernel.numpy(), None if inner.bias is None else inner.bias.numpy()


def _assign(layer: QuantizedWeights, kernel: np.ndarray, bias: np.ndarray | None) -> None:
    layer.layer.kernel.assign(kernel)
    if bias is not None:
        layer.layer.bias.assign(bias)
