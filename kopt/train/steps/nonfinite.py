"""Where a training step first went NaN or infinite."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DivergedError
from kopt.core.records.training.input_checks import NonFiniteReport
from kopt.graph.checks import require_built
from kopt.graph.internals import flatten_layers, graph_of
from kopt.train.interception import replaced
from kopt.train.internals import copy_mask, nodes_in_order


def locate_nonfinite(
    model: keras.Model,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    compute_loss: Callable[[Any, Any, Any], Any] | None = None,
) -> NonFiniteReport | None:
    """Find the first place at which a training step on this batch is NaN or infinite.

    For a training that stopped, with the weights and the batch of the step that failed. One forward and backward pass
    runs eagerly, layer by layer; weights, batch statistics, seeds and metrics stay as they are. In this order: the
    batch, the weights, the first layer in order of execution whose output is bad, the loss, and the first layer in
    backward order that turns finite gradients into bad ones.

    Args:
        model: built; Functional, Sequential or subclassed.
        x: inputs as the model takes them.
        y: targets, in the form the loss takes.
        sample_weight: as `compute_loss` takes them.
        compute_loss: maps `(y, outputs, sample_weight)` to the loss; that of `model.compile` by default. Losses that
            layers add are added to it.

    Returns:
        The place, with `str(report)` in words; `None` if loss, gradients and weights are all finite. Dropout draws
        other masks than in the step that failed, so that a rare failure need not come again.

    Raises:
        ConfigError: the model is not compiled and `compute_loss` is missing.
        InputError: the model is not built.

    Example:
        >>> x = x_train[:8].copy()
        >>> x[2, 0, 0] = np.nan
        >>> print(kopt.train.locate_nonfinite(model, x, y_train[:8]))
        The batch (input) has 1 NaN and 0 infinite of 512 float32 numbers, the first at index (2, 0, 0, 0). ...
    """
    require_built(model)
    if compute_loss is None and not model.compiled:
        raise ConfigError(
            "Without `compute_loss` the loss is that of `model.compile`, which was not called. Do either."
        )
    bad_weights = ((variable.path, _Bad.of(variable.value)) for variable in model.variables)
    bad_weight = next(((path, bad) for path, bad in bad_weights if bad), None)
    step = _Step(model, compute_loss)
    step.run(*(tf.nest.map_structure(_tensor, part) for part in (x, y, sample_weight)))
    if not bad_weight and not _Bad.of(step.loss) and not any(_Bad.of(one) for one in step.weight_gradients):
        return None
    found = _in_batch(x, y, sample_weight) or (bad_weight and _of_weight(*bad_weight))
    return found or step.first_activation() or step.of_loss() or step.first_gradient()


def diverged(model: keras.Model, batch: Any, in_a_row: int, place: str) -> DivergedError:
    """Return the error that ends a training, with the first place that is not finite.

    Args:
        model: the compiled one.
        batch: the last one; `None` if it is gone.
        in_a_row: steps that were left out.
        place: where the last of them was, in words.
    """
    found = None if batch is None else locate_nonfinite(model, *keras.utils.unpack_x_y_sample_weight(batch))
    where = "The last batch is finite everywhere when it is computed again." if found is None else str(found)
    return DivergedError(
        f"{in_a_row} steps in a row were NaN or infinite, up to {place}; their updates were left out, the weights are "
        f"those before. {where}"
    )


@dataclasses.dataclass(frozen=True)
class _Bad:
    """The NaN and infinite entries of a tensor; false if there are none."""

    nans: int
    infinities: int
    size: int
    index: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, tensor: Any) -> "_Bad":
        if isinstance(tensor, (tf.IndexedSlices, tf.SparseTensor)):
            tensor = tensor.values
        tensor = None if tensor is None else tf.convert_to_tensor(tensor)
        if tensor is None or not tensor.dtype.is_floating:
            return cls(0, 0, 0, (), "")
        nan, infinite = tf.math.is_nan(tensor).numpy(), tf.math.is_inf(tensor).numpy()
        bad = np.argwhere(nan | infinite)
        first = tuple(map(int, bad[0])) if len(bad) else ()
        return cls(int(nan.sum()), int(infinite.sum()), int(nan.size), first, tensor.dtype.name)

    def __bool__(self) -> bool:
        return self.nans + self.infinities > 0

    def report(self, kind: str, name: str, what: str, detail: str, hint: str) -> NonFiniteReport:
        return NonFiniteReport(
            kind, name, what, self.nans, self.infinities, self.size, self.index, self.dtype, detail, hint
        )


@dataclasses.dataclass(eq=False)
class _Call:
    """One call of a layer: its tensors, and the calls it made itself."""

    operation: keras.Operation
    inputs: list[Any]
    outputs: list[Any] = dataclasses.field(default_factory=list)
    inner: list["_Call"] = dataclasses.field(default_factory=list)
    in_gradients: list[Any] = dataclasses.field(default_factory=list)
    out_gradients: list[Any] = dataclasses.field(default_factory=list)


class _Step:
    """One forward and backward pass in which every layer's tensors are kept."""

    def __init__(self, model: keras.Model, compute_loss: Callable[[Any, Any, Any], Any] | None):
        self._model, self._compute_loss = model, compute_loss
        self._calls: list[_Call] = []  # In the order in which they end: those inside another before it.
        self._open: list[_Call] = []
        self.loss: Any = None
        self.weight_gradients: list[Any] = []

    def run(self, x: Any, y: Any, sample_weight: Any) -> None:
        model, variables = self._model, self._model.trainable_variables
        # Assignments inside the scope are dropped. Without values for the weights Keras' regularizers fail in it.
        with tf.GradientTape() as tape:
            with keras.StatelessScope([(one, one.value) for one in variables], collect_losses=True) as scope:
                with self._watching():
                    outputs = model(x, training=True)
                if self._compute_loss is None:
                    loss = model.compute_loss(x, y, outputs, sample_weight, training=True)
                else:
                    loss = self._compute_loss(y, outputs, sample_weight)
                    loss = sum([tf.cast(one, loss.dtype) for one in model.losses], loss)
            del scope
        self.loss = loss
        values = [one.value for one in variables]
        tensors = [tensor for call in self._calls for tensor in (*call.inputs, *call.outputs)]
        gradients = tape.gradient(loss, [*values, *tensors])
        self.weight_gradients = gradients[: len(values)]
        rest = iter(gradients[len(values) :])
        for call in self._calls:
            call.in_gradients = [next(rest) for _ in call.inputs]
            call.out_gradients = [next(rest) for _ in call.outputs]

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for operation in _operations(self._model):
                stack.enter_context(replaced(operation, "call", self._watched(operation)))
            yield

    def _watched(self, operation: keras.Operation) -> Callable[..., Any]:
        plain = operation.call

        def call(*args: Any, **kwargs: Any) -> Any:
            # Copies, whose gradient is this call's alone even if other calls take the same tensor.
            args, kwargs = tf.nest.map_structure(_copied, (args, kwargs))
            record = _Call(operation, [one for one in tf.nest.flatten((args, kwargs)) if _is_float(one)])
            if self._open:
                self._open[-1].inner.append(record)
            self._open.append(record)
            try:
                outputs = plain(*args, **kwargs)
            finally:
                self._open.pop()
            record.outputs = [one for one in tf.nest.flatten(outputs) if _is_float(one)]
            self._calls.append(record)
            return outputs

        return call

    def first_activation(self) -> NonFiniteReport | None:
        for call in self._calls:
            bad = next(filter(None, map(_Bad.of, call.outputs)), None)
            if bad:
                return self._of_activation(call, bad)
        return None

    def _of_activation(self, call: _Call, bad: _Bad) -> NonFiniteReport:
        name, what = _named(call.operation)
        detail, taken = f"The output of layer {name!r} ({what})", next(filter(None, map(_Bad.of, call.inputs)), None)
        outer = next((one for one in self._calls if call in one.inner), None)
        if taken and outer:  # No layer gave it.
            inner, bad = name, taken
            name, what = _named(outer.operation)
            detail = f"What the `call` of {name!r} ({what}) computes itself and gives to layer {inner!r}"
        return bad.report("activation", name, what, detail, _OVERFLOW if bad.dtype == "float16" else _ACTIVATION)

    def of_loss(self) -> NonFiniteReport | None:
        bad = _Bad.of(self.loss)
        return bad.report("loss", "loss", "", "The loss", _LOSS) if bad else None

    def first_gradient(self) -> NonFiniteReport | None:
        own = {id(v): g for v, g in zip(self._model.trainable_variables, self.weight_gradients, strict=True)}
        guilty = {id(call) for call in self._calls if self._spoils(call, own)}
        for call in reversed(self._calls):
            if id(call) in guilty and not any(id(inner) in guilty for inner in _inside(call)):
                return self._of_gradient(call, own)
        # No layer spoiled it, so it came from the loss.
        gradients = [one for call in reversed(self._calls) for one in call.out_gradients] + self.weight_gradients
        bad = next(filter(None, map(_Bad.of, gradients)))
        return bad.report("gradient", "loss", "", "The gradient of the loss by the outputs of the model", _GRADIENT)

    def _spoils(self, call: _Call, own: dict[int, Any]) -> bool:
        if any(map(_Bad.of, call.out_gradients)):
            return False
        return any(map(_Bad.of, [*call.in_gradients, *(gradient for _, gradient in _weights_of(call, own))]))

    def _of_gradient(self, call: _Call, own: dict[int, Any]) -> NonFiniteReport:
        name, what = _named(call.operation)
        parts = [("its input", one) for one in call.in_gradients]
        parts += [(f"its weight {variable.name!r}", one) for variable, one in _weights_of(call, own)]
        by, bad = next((by, bad) for by, one in parts if (bad := _Bad.of(one)))
        detail = f"The gradient of layer {name!r} ({what}) by {by}"
        return bad.report("gradient", name, what, detail, _OVERFLOW if bad.dtype == "float16" else _GRADIENT)


_COMPOSITE = (tf.RaggedTensor, tf.SparseTensor)
_WEIGHT = (
    "An earlier update made it so: restore an earlier checkpoint, and train with a lower learning rate, warm-up or "
    "`global_clip_norm`."
)
_OVERFLOW = (
    "float16 ends at 65504: train in bfloat16, keep this layer in float32 (`dtype='float32'`), or scale its inputs."
)
_ACTIVATION = (
    "What it takes is finite, so it divides by, or takes a logarithm or root of, zero or less, or its numbers "
    "grew too large: add `keras.config.epsilon()` there, normalize before it, or lower the learning rate."
)
_LOSS = (
    "The outputs of the model are finite. A loss of probabilities then takes the logarithm of zero: use "
    "`from_logits=True` with a last layer without softmax or sigmoid. A square or exponential overflows when outputs "
    "or targets are huge: scale the targets, lower the learning rate or set `global_clip_norm`. Look at sample "
    "weights, too."
)
_GRADIENT = (
    "The values are finite but a slope is not, as of a root, norm or division at zero: add `keras.config.epsilon()` "
    "inside it. Clipping does not help, because NaN stays NaN."
)
_INPUT = "Remove those examples or replace the values, e.g. `np.nan_to_num(x)`."


def _in_batch(x: Any, y: Any, sample_weight: Any) -> NonFiniteReport | None:
    for part, values in (("input", x), ("targets", y), ("sample weights", sample_weight)):
        for path, leaf in keras.tree.flatten_with_path(values):
            bad = _Bad.of(leaf)
            if bad:
                key = "/".join(map(str, path))
                name = f"{part} {key!r}" if key else part
                return bad.report("input", name, "", f"The batch ({name})", _INPUT)
    return None


def _of_weight(path: str, bad: _Bad) -> NonFiniteReport:
    return bad.report("weight", path, "", f"The weight {path!r}", _WEIGHT)


def _operations(model: keras.Model) -> list[keras.Operation]:
    """Return every layer of `model` and `model` itself, and the `keras.ops` operations of its graphs."""
    found: dict[int, keras.Operation] = {}
    for layer in flatten_layers(model):
        found[id(layer)] = layer
        graph = graph_of(layer)
        if graph is not None:
            found.update({id(node.operation): node.operation for node in nodes_in_order(graph)})
    return list(found.values())


def _inside(call: _Call) -> Iterator[_Call]:
    for inner in call.inner:
        yield inner
        yield from _inside(inner)


def _weights_of(call: _Call, gradients: dict[int, Any]) -> list[tuple[keras.Variable, Any]]:
    variables = getattr(call.operation, "trainable_variables", ())
    return [(variable, gradients[id(variable)]) for variable in variables if id(variable) in gradients]


def _named(operation: keras.Operation) -> tuple[str, str]:
    return str(getattr(operation, "path", None) or operation.name), type(operation).__name__


def _is_float(value: Any) -> bool:
    return isinstance(value, tf.Tensor) and value.dtype.is_floating


def _copied(value: Any) -> Any:
    if not _is_float(value):
        return value
    copy = tf.identity(value)
    copy_mask(value, copy)
    return copy


def _tensor(value: Any) -> Any:
    return value if value is None or isinstance(value, _COMPOSITE) else tf.convert_to_tensor(value)
