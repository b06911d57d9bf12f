"""The first batch and the settings of a training against the model, before the first step."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, NonFiniteError, words_of
from kopt.core.records.artifacts import TensorInfo
from kopt.core.records.training.input_checks import InputCheck, InputScale
from kopt.data.validation import as_model_inputs, fits
from kopt.graph.checks import signature
from kopt.graph.internals import flatten_layers, graph_of, node_of, was_called
from kopt.graph.view import GraphView
from kopt.train.steps.label_checks import LossKind, check_outputs, check_targets

_SCALE = 20.0
_PROBED = 8  # Examples whose outputs are looked at.
# Layers that expect numbers of any size.
_SCALING = ("Rescaling", "Normalization", "BatchNormalization", "LayerNormalization", "Embedding", "Discretization")
_SCALING_BY_NUMBERS = ("Divide", "TrueDivide", "Multiply")
# Layers and operations behind which inputs are as large as before.
_PASSING = (
    "Dropout",
    "Identity",
    "Reshape",
    "Flatten",
    "Permute",
    "Transpose",
    "Cast",
    "Subtract",
    "Add",
    "ZeroPadding2D",
)


def check_inputs(
    model: keras.Model,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batches: int | None = None,
    steps_per_epoch: int | None = None,
    steps_per_execution: int | None = None,
    accumulate_steps: int = 1,
    batch_size: int | None = None,
    dataset: tf.data.Dataset | None = None,
    loss: Any = None,
    look_at_outputs: bool = True,
) -> InputCheck:
    """Hold the first batch and the settings of a training against a model.

    Looks at one batch only, so that it costs next to nothing; of a model that is built it computes eight outputs. A
    model that is not built, or subclassed, is checked as far as it tells what it takes.

    Args:
        model: compiled or not; without a loss targets are only checked for NaN and infinity.
        x: inputs of the first batch, arrays or tensors, as the model takes them.
        y: its targets.
        sample_weight: its weights.
        batches: in an epoch; `None` if that is unknown.
        steps_per_epoch: as given to `fit`.
        steps_per_execution: steps in a call that cannot be fewer; `None` or 1 if any number will do.
        accumulate_steps: batches for one update.
        batch_size: as given by the user, if it was.
        dataset: where the batches come from, if that is a `tf.data.Dataset`.
        loss: as for `compile`, where it is not the one that the model is compiled with.
        look_at_outputs: compute eight outputs, to hold them against the loss; unnecessary when that was done before.

    Returns:
        `InputCheck`; its notes are worth showing and no reason to stop.

    Raises:
        DataError: no examples, or single ones that are not batched; no targets for a loss; names, number, shapes or
            types unlike the model's inputs; labels that the loss cannot use; negative weights.
        NonFiniteError: NaN or infinity in inputs, targets or weights.
        ConfigError: a setting below 1, a data set that never ends, a number of steps a call that nothing guarantees,
            or `from_logits` against the last layer.

    Example:
        >>> checked = kopt.train.check_inputs(model, x_train[:32], y_train[:32])
        >>> checked.examples, checked.notes
        (32, ())
        >>> kopt.train.check_inputs(model, x_train[:32], y_train[:32] + 1)
        Traceback (most recent call last):
            ...
        kopt.core.errors.DataError: Targets must lie in [0, 10). ...
    """
    _check_settings(accumulate_steps, batch_size, steps_per_execution, steps_per_epoch)
    notes = _epoch_notes(batches, steps_per_epoch, steps_per_execution, accumulate_steps, dataset)
    x, y, sample_weight = (_local(model, part) for part in (x, y, sample_weight))
    if (own := getattr(model, "own_inputs", None)) is not None:
        x = own(x)  # what a cache joins to them was checked when it was made
    loss = model.loss if loss is None and model.compiled else loss
    if getattr(model, "unlabeled", None) is not None:
        y = loss = None  # Labels that are missing on purpose look like wrong ones; the model knows which they are.
    _require_targets(model, y, loss)
    if dataset is not None or any(np.ndim(target) == 0 for _, target in _leaves(y)):
        _require_batches(model, x)
    examples = _examples(x)
    inputs, input_notes = _checked_inputs(model, x)
    notes += input_notes
    unscaled, scale_notes = _scales(model, inputs)
    notes += [*map(str, unscaled), *scale_notes]
    notes += _checked_weights(sample_weight, examples)
    notes += _checked_targets(model, x, y, examples, loss, look_at_outputs)
    return InputCheck(examples, tuple(inputs), tuple(notes), tuple(unscaled))


def _check_settings(
    accumulate_steps: int, batch_size: int | None, steps_per_execution: int | None, steps_per_epoch: int | None
) -> None:
    given = {
        "accumulate_steps": accumulate_steps,
        "batch_size": batch_size,
        "steps_per_execution": steps_per_execution,
        "steps_per_epoch": steps_per_epoch,
    }
    for name, value in given.items():
        if value is None and name != "accumulate_steps":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ConfigError(f"`{name}` must be a whole number of at least 1. Received: {value!r}.")


def _epoch_notes(
    batches: int | None,
    steps_per_epoch: int | None,
    steps_per_execution: int | None,
    accumulate_steps: int,
    dataset: tf.data.Dataset | None,
) -> list[str]:
    notes: list[str] = []
    if dataset is not None:
        batches = _batches_of(dataset, steps_per_epoch) if batches is None else batches
        sizes = {one.shape[0] for one in tf.nest.flatten(dataset.element_spec) if len(getattr(one, "shape", ())) > 0}
        if len(sizes) == 1 and None not in sizes:
            notes.append(
                f"All batches have {sizes.pop()} examples: what does not fill a batch is left out of every epoch "
                f"(`drop_remainder=True`). Batch with `drop_remainder=False` to train on everything."
            )
    if batches == 0:
        raise DataError("The data set is empty: there is no batch to train on. Look at its source and its filters.")
    if batches is None and steps_per_epoch is None and (steps_per_execution or 1) > 1:
        raise ConfigError(
            f"The length of the data set is unknown, so nothing says that its batches divide into calls of "
            f"`steps_per_execution={steps_per_execution}`. Pass `steps_per_epoch`, state the length with "
            f"`dataset.apply(tf.data.experimental.assert_cardinality(n))`, or use `steps_per_execution=1`."
        )
    if batches is not None and steps_per_epoch is not None and batches != steps_per_epoch:
        notes.append(_partial_epoch(batches, steps_per_epoch))
    steps = steps_per_epoch if steps_per_epoch is not None else batches
    if steps is not None and accumulate_steps > 1 and steps % accumulate_steps:
        notes.append(
            f"{steps} batches an epoch do not divide by accumulate_steps={accumulate_steps}: the last "
            f"{steps % accumulate_steps} make an update of their own, from fewer examples."
        )
    return notes


def _partial_epoch(batches: int, steps_per_epoch: int) -> str:
    if steps_per_epoch < batches:
        return (
            f"steps_per_epoch={steps_per_epoch} takes {steps_per_epoch} of the {batches} batches in an epoch; "
            f"validation and the logs of an epoch come before the other {batches - steps_per_epoch} were used."
        )
    return (
        f"steps_per_epoch={steps_per_epoch} asks for more than the {batches} batches of the data set, which ends "
        f"before. Use `dataset.repeat()`, or leave `steps_per_epoch` out."
    )


def _batches_of(dataset: tf.data.Dataset, steps_per_epoch: int | None) -> int | None:
    cardinality = int(dataset.cardinality())
    if cardinality == tf.data.INFINITE_CARDINALITY:
        if steps_per_epoch is None:
            raise ConfigError("The data set never ends. Pass `steps_per_epoch`, or leave out `repeat()`.")
        return None
    return None if cardinality == tf.data.UNKNOWN_CARDINALITY else cardinality


def _local(model: keras.Model, part: Any) -> Any:
    """Return what one replica gets."""
    strategy = model.distribute_strategy

    def first(leaf: Any) -> Any:
        shared = isinstance(leaf, tf.distribute.DistributedValues)
        return strategy.experimental_local_results(leaf)[0] if shared else leaf

    return tf.nest.map_structure(first, part)


def _require_targets(model: keras.Model, y: Any, loss: Any) -> None:
    """Refuse to have no targets for a loss; a model that computes its loss itself may not need any."""
    if y is None and loss is not None and type(model).compute_loss is keras.Model.compute_loss:
        raise DataError(
            f"There are no targets, and the loss {getattr(loss, 'name', loss)!r} compares outputs to targets. Pass "
            f"`y`, or a data set of `(x, y)`; for a loss of the inputs alone use `add_loss` in a layer and `loss=None`."
        )


def _require_batches(model: keras.Model, x: Any) -> None:
    """Refuse single examples of a data set that was not batched."""
    infos, leaves = _infos(model), tf.nest.flatten(x)
    if infos is None or len(infos) != len(leaves):
        return
    shapes = [_shape(leaf) for leaf in leaves]
    if all(fits(shape, info.shape[1:]) for shape, info in zip(shapes, infos, strict=True)):
        raise DataError(
            f"The data gives single examples, of shape {', '.join(map(str, shapes))}. Batch it, e.g. "
            f"`dataset.batch(32)`."
        )


def _examples(x: Any) -> int:
    leaves = [leaf for leaf in tf.nest.flatten(x) if leaf is not None]
    if not leaves:
        raise DataError("The first batch has no inputs. Pass `x`, or a data set of `(x, y)`.")
    shapes: list[tuple[Any, ...]] = [
        np.shape(leaf) if isinstance(leaf, (tf.Tensor, np.ndarray)) else _shape(leaf) for leaf in leaves
    ]
    if any(len(shape) == 0 for shape in shapes):
        raise DataError(
            f"An input of the first batch has shape (): it is one number, not a batch. Received shapes {shapes}. Batch "
            f"the data set, e.g. `dataset.batch(32)`."
        )
    if 0 in (shape[0] for shape in shapes):
        raise DataError("The first batch has no examples. Look at the source of the data and its filters.")
    return int(shapes[0][0])


def _shape(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, tf.RaggedTensor):
        return (int(leaf.nrows()), *leaf.shape[1:])
    return tuple(leaf.shape) if isinstance(leaf, tf.SparseTensor) else np.shape(leaf)


def _checked_inputs(model: keras.Model, x: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays by input name, as far as they are dense."""
    notes: list[str] = []
    infos = _infos(model)
    dense = all(isinstance(leaf, (tf.Tensor, np.ndarray)) for leaf in tf.nest.flatten(x))
    if infos is None or not dense:
        arrays = {"/".join(map(str, path)) or "input": one for path, one in _leaves(x)}
        for name, array in arrays.items():
            _check_finite(array, f"The first batch, input {name!r},")
        return arrays, notes
    arrays = tf.nest.map_structure(_as_array, x)
    if isinstance(arrays, Mapping):
        names = [info.name for info in infos]
        unused = [key for key in arrays if key not in names]
        if unused and all(name in arrays for name in names):
            arrays = {name: arrays[name] for name in names}
            notes.append(f"The model has no input for {unused}, which the data set gives: they are not used.")
    if not isinstance(arrays, Mapping):
        arrays = tf.nest.flatten(arrays)
    arrays = _as_keras_would(arrays, infos, notes)
    return as_model_inputs(arrays, infos, name="The first batch"), notes


def _as_array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == tf.bfloat16.as_numpy_dtype else array


def _infos(model: keras.Model) -> tuple[TensorInfo, ...] | None:
    """Return the inputs of a model that has a graph; a subclassed one may take other shapes than it was built on."""
    return None if graph_of(model) is None else signature(model)[0]


def _as_keras_would(arrays: Any, infos: tuple[TensorInfo, ...], notes: list[str]) -> Any:
    """Return the arrays with the changes that Keras makes silently: an axis of one entry, whole floats as integers."""
    if isinstance(arrays, Mapping):
        by_name = {info.name: info for info in infos}
        return {key: _adjusted(one, by_name[key], notes) if key in by_name else one for key, one in arrays.items()}
    if len(arrays) != len(infos):
        return arrays
    return [_adjusted(one, info, notes) for one, info in zip(arrays, infos, strict=True)]


def _adjusted(array: np.ndarray, info: TensorInfo, notes: list[str]) -> np.ndarray:
    if info.shape[-1:] == (1,) and fits(array.shape[1:], info.shape[1:-1]):
        array = array[..., None]
    elif array.ndim > 1 and array.shape[-1] == 1 and array.ndim == len(info.shape) + 1:
        array = array[..., 0]
    if array.dtype.kind == "f" and info.dtype.startswith(("int", "uint")) and (array == np.floor(array)).all():
        notes.append(
            f"The input {info.name!r} takes {info.dtype} and gets {array.dtype.name}. Convert it once, where the data "
            f"is made: `x.astype({info.dtype!r})`."
        )
        array = array.astype(info.dtype)
    return array


def _scales(model: keras.Model, inputs: dict[str, Any]) -> tuple[list[InputScale], list[str]]:
    """Return the inputs far from 0 and 1, and notes on those that never change."""
    unscaled, notes = [], []
    for name, array in inputs.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or _expects_any_scale(model, name):
            continue
        values = array.astype(np.float64)
        mean, deviation = values.mean(), values.std()
        if max(abs(mean), deviation) > _SCALE:
            pixels = values.min() >= 0 and 100 < values.max() <= 255
            fix = "`keras.layers.Rescaling(1 / 255)`" if pixels else "`keras.layers.Normalization()` (after `adapt`)"
            unscaled.append(InputScale(name, float(mean), float(deviation), fix))
        elif deviation == 0 and values.size > 1:
            notes.append(f"The input {name!r} is {mean:.3g} everywhere in the first batch: there is nothing to learn.")
    return unscaled, notes


def _expects_any_scale(model: keras.Model, name: str) -> bool:
    graph = graph_of(model)
    if graph is None:
        return any(type(layer).__name__ in _SCALING for layer in flatten_layers(model))
    names = [info.name for info in signature(model)[0]]
    return name not in names or _first_layers_scale(graph, names.index(name))


def _first_layers_scale(graph: keras.Model, index: int) -> bool:
    """Return whether every layer that takes this input scales it, at once or inside a nested model."""
    view = GraphView.of(graph)
    return _all_scale(view, view.inputs[index])


def _all_scale(view: GraphView, tensor: Any) -> bool:
    scaled = []
    for call in view.consumers(tensor):
        kind, inner = type(call.operation).__name__, graph_of(call.operation)
        if kind == "NotEqual":  # the mask of an `Embedding`
            continue
        if inner is not None:
            positions = [i for i, one in enumerate(call.inputs) if one is tensor and i < len(inner.inputs)]
            scaled += [_first_layers_scale(inner, i) for i in positions]
        elif kind in _PASSING:
            scaled += [_all_scale(view, output) for output in call.outputs]
        else:
            scaled.append(kind in _SCALING or (kind in _SCALING_BY_NUMBERS and len(call.inputs) == 1))
    return bool(scaled) and all(scaled)


def _checked_weights(sample_weight: Any, examples: int) -> list[str]:
    notes = []
    for _, weights in _leaves(sample_weight):
        _check_finite(weights, "`sample_weight` of the first batch")
        if weights.ndim == 0 or len(weights) != examples:
            raise DataError(
                f"`sample_weight` has shape {weights.shape}, but the first batch has {examples} examples. Pass one "
                f"weight an example."
            )
        if weights.size and weights.max() < 0 and np.ptp(weights) == 0:
            raise DataError(
                f"Every `sample_weight` of the first batch is negative, {weights.flat[0]:g}: the loss would grow "
                f"without end. Use weights of at least 0."
            )
        if (weights < 0).any():
            first = tuple(map(int, np.argwhere(weights < 0)[0]))
            notes.append(
                f"`sample_weight` has {int((weights < 0).sum())} negative value(s), the first at index {first}: the "
                f"loss of those examples is made larger, without end, which only gradients of a policy ask for."
            )
        if not weights.any():
            notes.append("All weights of the first batch are 0: nothing is learned from it.")
    return notes


def _checked_targets(model: keras.Model, x: Any, y: Any, examples: int, loss: Any, look_at_outputs: bool) -> list[str]:
    notes: list[str] = []
    targets = _targets(model, y)
    for what, array in targets:
        _check_finite(array, f"{what} of the first batch")
        if array.ndim == 0 or len(array) != examples:
            raise DataError(f"{what} have shape {array.shape}, but there are {examples} examples. Pass one an example.")
    losses = _losses(model, loss, len(targets))
    if not targets or not losses:
        return notes
    outputs: list[np.ndarray] = []
    if look_at_outputs:
        outputs, notes = _outputs(model, x)
    for index, ((what, array), one) in enumerate(zip(targets, losses, strict=True)):
        kind, output = LossKind.of(one), outputs[index] if len(outputs) == len(targets) else None
        notes += check_targets(array, None if output is None else (None, *output.shape[1:]), kind, what)
        if output is not None:
            name = "The output" if len(outputs) == 1 else f"Output {index} of the model"
            check_outputs(output, kind, _activation(model, index), name)
    return notes


def _targets(model: keras.Model, y: Any) -> list[tuple[str, np.ndarray]]:
    """Return targets in the order of the model's outputs, each with what messages call it."""
    names = _output_names(model)
    if isinstance(y, Mapping) and names and all(name in y for name in names):
        return [(f"Targets {name!r}", np.asarray(y[name])) for name in names]
    leaves = _leaves(y)
    return [(f"Targets {'/'.join(map(str, path))!r}" if path else "Targets", one) for path, one in leaves]


def _output_names(model: keras.Model) -> list[str]:
    graph = graph_of(model)
    if graph is None:
        return []
    return sorted(graph.output) if isinstance(graph.output, Mapping) else list(graph.output_names)


def _losses(model: keras.Model, loss: Any, count: int) -> list[Any]:
    """Return one loss a target, in the order of the outputs; none where that is not plain to see."""
    if loss is None:
        return []
    if isinstance(loss, Mapping):
        found = [loss.get(name) for name in _output_names(model) or sorted(loss)]
    elif isinstance(loss, (list, tuple)):
        found = list(loss)
    else:
        found = [loss]
    return found if len(found) == count else []


def _outputs(model: keras.Model, x: Any) -> tuple[list[np.ndarray], list[str]]:
    """Return the outputs for the first examples, or a note why there are none; nothing changes.

    A model that has no weights yet has no outputs, and no note: training itself makes them.
    """
    ready = graph_of(model) is not None or (not isinstance(model, keras.Sequential) and was_called(model))
    if not ready:
        return [], []
    if any(isinstance(leaf, tf.SparseTensor) for leaf in tf.nest.flatten(x)):
        return [], [_unseen("sparse inputs are not parted into examples")]
    count = fixed_batch(model) or _PROBED
    if count > _PROBED and any(len(leaf) < count for leaf in tf.nest.flatten(x)):
        return [], [_unseen(f"the first batch does not have the {count} examples that the model takes")]
    some = tf.nest.map_structure(lambda leaf: leaf[:count], x)

    def look() -> Any:
        with keras.StatelessScope():
            return model(some, training=False)

    # Step by step in Python, a loop over a sequence takes as many seconds as a step of it in a graph takes hundredths.
    loops = any(isinstance(layer, keras.layers.RNN) for layer in flatten_layers(model))
    try:
        outputs = tf.function(look, autograph=False)() if loops else look()
    except (tf.errors.InvalidArgumentError, ValueError) as error:
        # Such as of a layer that parts the batch: training will tell whether the whole one fits.
        return [], [_unseen(f"the model cannot compute the first {count} examples alone ({words_of(error)})")]
    floats = [one for one in tf.nest.flatten(outputs) if one.dtype.is_floating]
    return [np.asarray(tf.cast(one, tf.float32)) for one in floats], []


def _unseen(reason: str) -> str:
    return f"Outputs were not held against the loss before the first step: {reason}."


def fixed_batch(model: keras.Model) -> int | None:
    """Return the number of examples that every call has; `None` if it is open."""
    graph = graph_of(model)
    inputs = [] if graph is None else keras.tree.flatten(graph.inputs)
    return next((tensor.shape[0] for tensor in inputs if tensor.shape and tensor.shape[0] is not None), None)


def _activation(model: keras.Model, index: int) -> str:
    """Return the name of the activation that makes an output, if the graph shows it."""
    graph = graph_of(model)
    if graph is None or index >= len(graph.outputs):
        return ""
    operation = node_of(graph.outputs[index]).operation
    inner = graph_of(operation)
    if inner is not None and len(inner.outputs) == 1:
        return _activation(inner, 0)
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    return str(getattr(getattr(operation, "activation", None), "__name__", ""))


def _leaves(structure: Any) -> list[tuple[Any, np.ndarray]]:
    """Return path and array of every leaf; of sparse and ragged tensors the values that are there."""
    found = []
    for path, leaf in keras.tree.flatten_with_path(structure):
        if leaf is not None:
            values = leaf.values if isinstance(leaf, (tf.SparseTensor, tf.IndexedSlices)) else leaf
            values = leaf.flat_values if isinstance(leaf, tf.RaggedTensor) else values
            found.append((path, np.asarray(values)))
    return found


def _check_finite(array: np.ndarray, what: str) -> None:
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        raise NonFiniteError(
            f"{what} has {int(bad.sum())} value(s) that are NaN or infinite, the first at index "
            f"{tuple(map(int, np.argwhere(bad)[0]))}. Remove those examples or replace the values, e.g. "
            f"`np.nan_to_num(x)`."
        )
