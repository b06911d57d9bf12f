"""Statistics of batch normalization, estimated anew from data."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from kopt.core.errors import DataError, NonFiniteError, UnsupportedModelError
from kopt.core.randomness import preserved_random_state
from kopt.core.records.training.batch_norm import BatchNormChange, BatchNormReport
from kopt.core.settings import choice, whole
from kopt.data import from_arrays
from kopt.graph import clone_layer, copy_weights, require_built, rewrite
from kopt.graph.configs import rebuilding
from kopt.graph.internals import flatten_layers, graph_of
from kopt.train.interception import replaced

Array = npt.NDArray[Any]
_MODES = ("joint", "sequential")
_SETTLING_BATCHES = 100  # statistics are steady long before that


@dataclasses.dataclass
class Moments:
    """Count, mean and variance of the values of each channel, over everything that was added."""

    count: float = 0.0
    mean: Any = 0.0
    variance: Any = 0.0

    def add(self, count: float, mean: Array, variance: Array) -> None:
        """Join the moments of a further batch, by the law of total variance.

        `mean = sum(n_b mean_b) / n` and `variance = sum(n_b (variance_b + (mean_b - mean)^2)) / n`, pairwise, in
        float64.
        """
        total = self.count + count
        if total == 0:
            return
        part = count / total
        shift = np.asarray(mean, np.float64) - self.mean
        self.variance = (1 - part) * self.variance + part * variance + part * (1 - part) * shift**2
        self.mean = self.mean + part * shift
        self.count = total


def reestimate_batch_norm(
    model: keras.Model,
    data: Any,
    *,
    batches: int | None = None,
    batch_size: int = 32,
    mode: str = "joint",
) -> tuple[keras.Model, BatchNormReport]:
    """Return a copy of `model` whose batch normalizations have the exact statistics of `data`.

    Use it after weights were changed without training, by pruning, quantization or averaging: activations shift, and
    the moving statistics no longer fit them. No labels are needed, nothing is trained, momenta are left alone.

    Formula: for each channel, mean and (biased) variance of all values that reach the layer over all batches together,
    by the law of total variance; every example counts the same, unlike in a moving average.

    What the layers before a batch normalization do meanwhile: everything else runs in inference mode (dropout off).
    Earlier batch normalizations

    - normalize with the statistics of the present batch in mode `"joint"`, as they do in training: one pass over the
      data, close to exact for batches that are not small;
    - normalize with the statistics already found in mode `"sequential"`: one pass over the data for each layer, and
      exactly the statistics that the returned model has in inference.

    Args:
        model: built; not changed. Functional, Sequential, nested, or subclassed with a `get_config` that rebuilds it.
        data: `tf.data.Dataset` of batches `x`, `(x, y)` or `(x, y, sample_weight)`; or the inputs as arrays, as
            `kopt.data.from_arrays` takes them.
        batches: how many to read at most. Default `None`: all.
        batch_size: of arrays. Default 32.
        mode: `"joint"` (default) or `"sequential"`.

    Returns:
        An uncompiled model, and what changed, layer by layer. Layers with `renorm=True` and such as no batch reaches
        are left as they were and listed. Of a model with masks or codebooks it is a plain one, with the weights that
        they left.

    Raises:
        ConfigError: a setting is out of range.
        DataError: no batches, or a data set that never ends without `batches`.
        NonFiniteError: a layer gets NaN or infinity.
        UnsupportedModelError: there is no batch normalization, or the model cannot be copied.

    Example:
        >>> pruned, _ = kopt.prune.magnitude(model, 0.5)
        >>> ready, report = kopt.train.reestimate_batch_norm(pruned, x_train, batch_size=128)
        >>> report.examples, [change.layer for change in report.layers]
        (512, ['norm1'])

    Source: P. Izmailov et al., 2018, section 3.2, for the joint mode; X. Sun et al., "Hybrid 8-bit floating point
    training", 2019, for statistics re-estimated before inference.
    """
    choice("mode", mode, _MODES)
    require_built(model)
    if not layers_of(model):
        raise UnsupportedModelError(f"Model {model.name!r} has no batch normalization, so nothing can be re-estimated.")
    dataset = input_batches(data, batches, batch_size)
    twin = _copy(model, dataset)
    return twin, reestimate_in_place(twin, dataset, batches=batches, mode=mode)


def layers_of(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Return the batch normalizations of `model`, those inside of nested models and layers too."""
    return [layer for layer in flatten_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]


def settle_statistics(model: keras.Model, data: Any) -> bool:
    """Estimate the statistics of `model` anew on some batches, and return whether there were any to estimate.

    For use around a training: moving averages fit the weights of before, and need hundreds of updates to follow. Those
    of frozen layers, which training leaves alone, stay.
    """
    if hasattr(model, "quantization") or not any(one.trainable and not uses_renorm(one) for one in layers_of(model)):
        return False
    return bool(reestimate_in_place(model, data, batches=_SETTLING_BATCHES, frozen=False).layers)


def uses_renorm(layer: keras.layers.BatchNormalization) -> bool:
    """Return whether a layer is batch renormalization, which Keras 3.12 does not know yet."""
    return bool(getattr(layer, "renorm", False))


def reestimate_in_place(
    model: keras.Model, data: Any, *, batches: int | None = None, mode: str = "joint", frozen: bool = True
) -> BatchNormReport:
    """Do what `reestimate_batch_norm` does, to `model` itself; `frozen`: also to layers that are not trained."""
    dataset = input_batches(data, batches)
    every = [layer for layer in layers_of(model) if frozen or layer.trainable]
    chosen = [layer for layer in every if not uses_renorm(layer)]
    old = {id(layer): (layer.moving_mean.numpy(), layer.moving_variance.numpy()) for layer in chosen}
    measured = _measure(model, chosen, dataset, batches, joint=mode == "joint")
    moments = dict(measured.moments)
    for layer in measured.order:
        if mode == "sequential" and layer is not measured.order[0]:
            moments.update(_measure(model, [layer], dataset, batches, joint=False).moments)
        if moments[id(layer)].count:
            layer.moving_mean.assign(moments[id(layer)].mean)
            layer.moving_variance.assign(moments[id(layer)].variance)
    changed = [layer for layer in measured.order if moments[id(layer)].count]
    skipped = tuple((path_of(layer), _reason(layer)) for layer in every if not any(layer is other for other in changed))
    changes = tuple(_change(layer, *old[id(layer)], moments[id(layer)]) for layer in changed)
    return BatchNormReport(mode, measured.batches, measured.examples, changes, skipped)


def path_of(layer: keras.layers.BatchNormalization) -> str:
    """Return the path of `layer` in its model, as its variables carry it."""
    return layer.moving_mean.path.rpartition("/")[0] or layer.name


@dataclasses.dataclass
class _Measured:
    """Moments by `id` of the layer, the layers in the order of their first call, and what was read."""

    moments: dict[int, Moments]
    order: list[keras.layers.BatchNormalization]
    batches: int = 0
    examples: int = 0


def _measure(
    model: keras.Model, layers: Sequence[Any], dataset: tf.data.Dataset, batches: int | None, *, joint: bool
) -> _Measured:
    """Run `model` in inference mode, without a graph: tracing it once a layer would take longer than it saves."""
    measured = _Measured({id(layer): Moments() for layer in layers}, [])

    def record(layer: Any, count: Any, mean: Any, variance: Any) -> None:
        if not any(layer is known for known in measured.order):
            measured.order.append(layer)
        mean, variance = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise NonFiniteError(f"Layer {path_of(layer)!r} gets NaN or infinity in batch {measured.batches}.")
        measured.moments[id(layer)].add(float(count), mean, variance)

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(replaced(layer, "call", _recording_call(layer, record, joint)))
        for batch in itertools.islice(dataset, batches):
            x = keras.utils.unpack_x_y_sample_weight(batch)[0]
            model(x, training=False)
            measured.batches += 1
            measured.examples += int(keras.tree.flatten(x)[0].shape[0])
    if not measured.batches:
        raise DataError("There are no batches to estimate statistics from.")
    return measured


def _recording_call(layer: Any, record: Callable[..., None], joint: bool) -> Callable[..., Any]:
    def call(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        values = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        count, mean, variance = batch_moments(values, layer.axis, mask)
        record(layer, count, mean, variance)
        if not joint:
            return type(layer).call(layer, inputs, training=False, mask=mask)
        beta, gamma = (
            None if weight is None else ops.cast(weight, values.dtype) for weight in (layer.beta, layer.gamma)
        )
        outputs = ops.batch_normalization(values, mean, variance, layer.axis, beta, gamma, layer.epsilon)
        return ops.cast(outputs, layer.compute_dtype)

    return call


def batch_moments(values: Any, axis: int, mask: Any = None) -> tuple[Any, Any, Any]:
    """Return how many values each channel along `axis` has, their mean and their biased variance.

    Args:
        values: floats of any shape.
        axis: of the channels.
        mask: where to look, with the shape of `values` less its last axis; everywhere by default.
    """
    axes = [i for i in range(len(values.shape)) if i != axis % len(values.shape)]
    if mask is None:
        count = ops.cast(ops.prod([ops.shape(values)[i] for i in axes]), values.dtype)
        return count, *ops.moments(values, axes)
    weights = ops.cast(ops.expand_dims(mask, -1), values.dtype) * ops.ones_like(values)
    count = ops.sum(weights, axes, keepdims=True)
    mean = ops.sum(values * weights, axes, keepdims=True) / ops.maximum(count, 1)
    variance = ops.sum(weights * ops.square(values - mean), axes) / ops.maximum(ops.squeeze(count, axes), 1)
    return ops.max(count), ops.squeeze(mean, axes), variance


def input_batches(data: Any, batches: int | None, batch_size: int = 32) -> tf.data.Dataset:
    """Return batches of inputs, with whatever labels they have, for who runs a model and does not train it.

    Args:
        data: a `tf.data.Dataset` of batches, which is given back, or the inputs as arrays.
        batches: how many will be read; needed where the data set never ends.
        batch_size: of arrays.

    Raises:
        ConfigError: `batches` is no positive whole number.
        DataError: a data set that never ends, without `batches`, or arrays that do not go together.
    """
    if batches is not None:
        whole("batches", batches)
    if not isinstance(data, tf.data.Dataset):
        return from_arrays(data, batch_size=batch_size)
    if batches is None and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise DataError("The data set never ends: pass `batches`, the number to read.")
    return data


def _copy(model: keras.Model, dataset: tf.data.Dataset) -> keras.Model:
    if graph_of(model) is not None:
        return rewrite(model, lambda layer: None)[0]
    example = next(iter(dataset), None)
    if example is None:
        raise DataError("There are no batches to estimate statistics from.")
    with preserved_random_state(), rebuilding(model):
        twin = clone_layer(model, model.name)
        twin(keras.utils.unpack_x_y_sample_weight(example)[0], training=False)
    copy_weights(model, twin)
    return twin


def _change(layer: Any, old_mean: Array, old_variance: Array, moments: Moments) -> BatchNormChange:
    spread = old_variance + layer.epsilon
    shift = np.sqrt(np.mean((moments.mean - old_mean) ** 2 / spread))
    ratio = np.exp(np.mean(np.log((moments.variance + layer.epsilon) / spread)))
    return BatchNormChange(path_of(layer), round(moments.count), float(shift), float(ratio))


def _reason(layer: Any) -> str:
    if uses_renorm(layer):
        return "batch renormalization keeps further statistics, which only training gives"
    return "no value of the data reaches it"
