"""Memory of a training step, from its graph; and what to do when it does not fit."""

import contextlib
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, InputError, OutOfMemoryError, UnsupportedModelError, words_of
from kopt.core.randomness import preserved_random_state
from kopt.core.records.training.finders import LayerMemory, MemoryEstimate, MemoryRemedy
from kopt.core.records.training.steps import StepConfig
from kopt.core.settings import whole
from kopt.graph import GraphView
from kopt.graph.internals import flatten_layers, graph_of
from kopt.train.internals import compute_loss
from kopt.train.memory.rematerialization import rematerialized
from kopt.train.memory.step_graph import StepGraph, by_layer, step_graph
from kopt.train.snapshot import preserved

_MOST_LAYERS = 10
_UNCOUNTED = "Not counted: scratch memory of convolutions, the runtime itself, and memory that an allocator holds back."


def estimate_memory(
    model: keras.Model, batch_size: int, *, optimizer: Any = None, data: Any = None, remat: Any = None
) -> MemoryEstimate:
    """Work out what a training step takes, without running it.

    Use it to see what a model needs before a long training, and which layers need most of it.

    The step is traced with that batch size, and its operations are gone through in order: a tensor is there from the
    operation that makes it to the last that reads it. `activations_bytes` are the tensors that the forward pass makes
    and the backward pass reads, `step_bytes` the most that is there at one moment, gradients included. For MLPs,
    convolutional networks and a transformer on a CPU, `total_bytes` was 0.86 to 1.14 times the most that TensorFlow had
    allocated; resident memory was up to half as much again, because its allocator holds memory back.

    Args:
        model: built; the state it is in is preserved. A subclassed model needs `data`. Of an accelerated model the
            model inside is taken.
        batch_size: examples in the step.
        optimizer: `None` takes the compiled one. One that is not built is built on a copy for a moment, which takes
            its memory for that moment.
        data: a batch or data set of batches `(x, y)`, of which types and shapes are used. Without, inputs of the
            model's shapes stand in, and the mean of its outputs for the loss.
        remat: as in `kopt.train.rematerialized`; `None` keeps all activations.

    Returns:
        Record of bytes; `total_bytes` is the sum to compare with the device's memory.

    Raises:
        ConfigError: `batch_size` is not a whole number of at least 1.
        InputError: a shape is not known without `data`.
        UnsupportedModelError: a subclassed model without `data`.

    Example:
        >>> needed = kopt.train.estimate_memory(model, 256)
        >>> needed.weights_bytes == 4 * model.count_params()
        True
        >>> max(needed.layers, key=lambda layer: layer.activation_bytes).layer  # of the forward pass
        'conv1'
    """
    whole("batch_size", batch_size)
    model = _inner(model)
    optimizer = getattr(model, "optimizer", None) if optimizer is None else keras.optimizers.get(optimizer)
    batch, has_targets = _batch_spec(model, batch_size, data)
    graph = _trace(model, optimizer, batch, has_targets, remat)
    layers = by_layer(graph.kept(), [layer.name for layer in flatten_layers(model)[1:]])
    return MemoryEstimate(
        model=model.name,
        batch_size=batch_size,
        weights_bytes=_bytes_of(model.variables),
        optimizer_bytes=0 if optimizer is None else _optimizer_bytes(model, optimizer),
        gradients_bytes=_bytes_of(model.trainable_variables),
        batch_bytes=graph.given_bytes,
        activations_bytes=sum(layers.values()),
        step_bytes=graph.peak_bytes(),
        layers=tuple(LayerMemory(name, size) for name, size in list(layers.items())[:_MOST_LAYERS]),
        notes=_notes(graph, optimizer, has_targets),
    )


def explain_out_of_memory(
    error: BaseException, model: keras.Model, batch: Any, *, accumulate_steps: int = 1
) -> OutOfMemoryError:
    """Return the error to raise in the place of TensorFlow's: what was needed, and what needs less.

    Args:
        error: `tf.errors.ResourceExhaustedError` or `MemoryError`.
        model: that was trained.
        batch: the batch `(x, y)` that did not fit, or its size.
        accumulate_steps: batches an update, as it was.

    Returns:
        The error. If the step cannot be traced, it says why there is no estimate, and gives the remedies without.

    Example:
        >>> error = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        >>> print(kopt.train.explain_out_of_memory(error, model, 4096))
        A training step of 'digits' with a batch of 4096 does not fit into memory (OOM when allocating tensor)...
        - batch 2048 with `accumulate_steps=2`, which updates as before: about ... MiB
        - batch 1024 with `accumulate_steps=4`, which updates as before: about ... MiB
        - mixed precision, with activations of 16 bits: about ... MiB
        ...
    """
    model = _inner(model)
    size = batch if isinstance(batch, int) else _examples(batch)
    head = (
        f"A training step of {model.name!r} with a batch of {size} does not fit into memory ({words_of(error)[:200]}). "
        f"What was trained so far is kept in the model."
    )
    try:
        estimate = estimate_memory(model, size, data=None if isinstance(batch, int) else batch)
    except InputError as refusal:
        return OutOfMemoryError(f"{head} There is no estimate: {refusal}\n{_REMEDIES}")
    lines = [head, _needs(estimate), "What needs less:"]
    data = None if isinstance(batch, int) else batch
    remedies = memory_remedies(model, estimate, data=data, accumulate_steps=accumulate_steps)
    lines += [f"- {one.words}: about {_bytes(one.total_bytes)}" for one in remedies]
    return OutOfMemoryError("\n".join([*lines, _REMEDIES]))


_REMEDIES = (
    "`kopt.train.find_batch_size` measures the largest batch that fits; `accumulate_steps` keeps the effective batch, "
    '`remat="auto"` keeps fewer activations, `kopt.train.to_precision` halves them.'
)


def _inner(model: Any) -> Any:
    # An accelerated model; to import its class from here would be a circle, since it explains its errors with this.
    return model.model if isinstance(getattr(model, "config", None), StepConfig) else model


def _needs(estimate: MemoryEstimate) -> str:
    largest = ", ".join(f"{layer.layer} {_bytes(layer.activation_bytes)}" for layer in estimate.layers[:3])
    return (
        f"It needs about {_bytes(estimate.total_bytes)}: activations {_bytes(estimate.activations_bytes)}"
        f"{f' (most: {largest})' if largest else ''}, gradients {_bytes(estimate.gradients_bytes)}, optimizer "
        f"{_bytes(estimate.optimizer_bytes)}, weights {_bytes(estimate.weights_bytes)}, and the batch itself "
        f"{_bytes(estimate.batch_bytes)}."
    )


def memory_remedies(
    model: keras.Model, estimate: MemoryEstimate, *, data: Any = None, accumulate_steps: int = 1
) -> tuple[MemoryRemedy, ...]:
    """Return what makes a training step need less, with the bytes it then needs, about.

    Smaller batches and fewer examples a replica divide what grows with the batch; rematerialization is traced; 16 bits
    halve the activations.

    Args:
        model: that will be trained.
        estimate: of its step.
        data: as for `estimate_memory`.
        accumulate_steps: batches an update, as it is.
    """
    size = estimate.batch_size
    fixed = estimate.total_bytes - estimate.step_bytes + estimate.gradients_bytes
    per_example = (estimate.step_bytes - estimate.gradients_bytes) / size
    found = []
    for parts in (2, 4):
        if size >= parts:
            smaller = size // parts
            accumulated = f"accumulate_steps={accumulate_steps * parts}"
            found.append(
                MemoryRemedy(
                    f"batch {smaller} with `{accumulated}`, which updates as before",
                    f"kopt.train.accelerate(model, {accumulated})  # and batches of {smaller}",
                    round(fixed + per_example * smaller) + estimate.gradients_bytes,
                )
            )
    if graph_of(model) is not None:
        with contextlib.suppress(InputError):  # A graph that cannot be cut is no alternative.
            cut = estimate_memory(model, size, data=data, remat="auto")
            if cut.total_bytes < estimate.total_bytes:
                words = '`remat="auto"`, with about a third more time a step'
                found.append(MemoryRemedy(words, 'kopt.train.accelerate(model, remat="auto")', cut.total_bytes))
    if model.compute_dtype == "float32":
        words, needed = "mixed precision, with activations of 16 bits", estimate.activations_bytes // 2
        code = 'kopt.train.to_precision(model, "auto")'
        found.append(MemoryRemedy(words, code, estimate.total_bytes - needed))
    halved = estimate.weights_bytes + estimate.optimizer_bytes + estimate.gradients_bytes
    if graph_of(model) is not None and len(model.layers) > 2:
        words = "layers on two devices, each with about half of the parameters"
        code = "kopt.train.place_layers(model, devices)"
        found.append(MemoryRemedy(words, code, estimate.total_bytes - halved // 2))
    return tuple(found)


def _trace(model: keras.Model, optimizer: Any, batch: Any, has_targets: bool, remat: Any) -> StepGraph:
    marks: list[int] = []

    def step(*batch: Any) -> None:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            loss = compute_loss(model, x, y, y_pred, sample_weight) if has_targets else _stand_in(model, y_pred)
        marks.append(len(tf.compat.v1.get_default_graph().get_operations()))
        gradients = tape.gradient(loss, model.trainable_variables)
        if optimizer is not None:
            optimizer.apply(gradients, model.trainable_variables)

    with preserved(model, optimizer), contextlib.ExitStack() as stack:
        if remat is not None:
            stack.enter_context(rematerialized(model, remat).active())
        function = tf.function(step, autograph=False).get_concrete_function(*batch)
        return step_graph(function.graph, marks[-1])


def _stand_in(model: keras.Model, outputs: Any) -> Any:
    means = [tf.reduce_mean(tf.cast(output, "float32")) for output in tf.nest.flatten(outputs)]
    return tf.add_n([*means, *(tf.cast(loss, "float32") for loss in model.losses)])


def _batch_spec(model: keras.Model, batch_size: int, data: Any) -> tuple[tuple[Any, ...], bool]:
    """Return the specs of a batch, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, and whether its loss is computed."""
    if data is None:
        return (_model_spec(model, batch_size),), False
    spec = data.element_spec if isinstance(data, tf.data.Dataset) else tf.nest.map_structure(_array_spec, data)
    spec = tf.nest.map_structure(lambda leaf: tf.TensorSpec((batch_size, *leaf.shape[1:]), leaf.dtype), spec)
    batch = spec if isinstance(spec, tuple) else (spec,)
    for leaf in tf.nest.flatten(batch):
        _require_known(leaf.shape, "an element of `data`")
    return batch, len(batch) > 1 and model.compiled


def _model_spec(model: keras.Model, batch_size: int) -> Any:
    if graph_of(model) is None:
        raise UnsupportedModelError(
            f"The input shapes of {type(model).__qualname__} exist only as Python code. Pass a batch or a data set as "
            f"`data`, so that a step can be traced."
        )

    def spec(tensor: Any) -> Any:
        shape = (batch_size, *tensor.shape[1:])
        _require_known(tf.TensorShape(shape), f"the model's input {tensor.name!r}")
        return tf.TensorSpec(shape, tensor.dtype)

    return keras.tree.map_structure(spec, GraphView.of(model).input_structure)


def _array_spec(value: Any) -> Any:
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        value = np.asarray(value)
    dtype = tf.as_dtype(value.dtype)
    return tf.TensorSpec(value.shape, "float32" if dtype == tf.float64 else dtype)


def _require_known(shape: Any, what: str) -> None:
    if not shape.is_fully_defined():
        raise InputError(
            f"The shape of {what} is {tuple(shape)}: how much memory it takes depends on the open sizes. Pass a batch "
            f"of arrays as `data`."
        )


def _examples(batch: Any) -> int:
    leaves = [leaf for leaf in tf.nest.flatten(batch) if leaf is not None]
    if not leaves or not len(leaves[0].shape):
        raise ConfigError(f"`batch` is a batch of arrays or its size. Received: {type(batch).__name__}.")
    return int(leaves[0].shape[0])


@preserved_random_state()
def _optimizer_bytes(model: keras.Model, optimizer: Any) -> int:
    if not optimizer.built:
        optimizer = type(optimizer).from_config(optimizer.get_config())
        optimizer.build(model.trainable_variables)
    return _bytes_of(optimizer.variables)


def _bytes_of(variables: Iterable[Any]) -> int:
    return sum(
        int(np.prod(variable.shape, dtype=np.int64)) * tf.as_dtype(variable.dtype).size for variable in variables
    )


def _notes(graph: StepGraph, optimizer: Any, has_targets: bool) -> tuple[str, ...]:
    notes = [_UNCOUNTED]
    if optimizer is None:
        notes.append("There is no optimizer: its variables count as 0 bytes.")
    if not has_targets:
        notes.append("The mean of the outputs stands in for the loss.")
    if graph.unknown:
        shown = ", ".join(graph.unknown[:3])
        notes.append(f"{len(graph.unknown)} operations give tensors of unknown size, which count as 0 bytes: {shown}.")
    if any("while" in step.name.lower() for step in graph.steps):
        notes.append("What the steps of a recurrent loop keep for the backward pass is not counted.")
    return tuple(notes)


def _bytes(size: float) -> str:
    if size < 2**20:
        return f"{size / 2**10:.0f} KiB"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
