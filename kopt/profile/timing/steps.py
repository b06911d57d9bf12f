"""The step that is profiled: a batch, checked against the model, and one traced function that runs it."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, InputError, UnsupportedModelError, words_of
from kopt.graph import require_built, signature
from kopt.graph.internals import graph_of
from kopt.measure.feeding import match, random_inputs
from kopt.profile.timing.scopes import layer_scopes
from kopt.train.internals import build_on, call_takes_training
from kopt.train.steps.input_checks import check_inputs

_WARM_UP = 2


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a model on one batch, traced and warm.

    Attributes:
        run: runs it and waits for its end.
        graph: what was traced, with layers in the names of its operations.
        training: whether it trains.
        jitted: whether XLA compiled it.
        examples: in the batch.
    """

    run: Callable[[], None]
    graph: tf.Graph
    training: bool
    jitted: bool
    examples: int


def check_request(model: Any, data: Any, training: bool | None) -> bool:
    """Make sure that this can be profiled, before any work; return whether a training step is meant.

    Raises:
        InputError: the model is not built.
        ConfigError: training of a model that is not compiled, or without targets.
        UnsupportedModelError: the model is spread over several devices.
    """
    require_built(model)
    if training is None:
        training = bool(model.compiled) and _has_targets(data)
    if not isinstance(training, bool):
        raise ConfigError(f"`training` must be True, False or None. Received: {training!r}.")
    if training and not model.compiled:
        raise ConfigError(
            f"The model {model.name!r} is not compiled, so it has no training step. Call `model.compile(optimizer, "
            f"loss)` first, or pass `training=False` for inference."
        )
    if training and not _has_targets(data):
        raise ConfigError(
            "A training step needs targets. Pass `data` as `(x, y)`, `(x, y, sample_weight)` or a data set of these, "
            "or `training=False` for inference."
        )
    replicas = model.distribute_strategy.num_replicas_in_sync
    if replicas > 1:
        raise UnsupportedModelError(
            f"The model {model.name!r} was built under a strategy with {replicas} replicas; one replica is profiled at "
            f"a time. Load or clone it outside of `strategy.scope()`."
        )
    return training


def make_batch(model: keras.Model, data: Any, batch_size: int, training: bool) -> tuple[Any, Any, Any]:
    """Return one batch `(x, y, sample_weight)` as tensors; for inference the last two are `None`.

    Raises:
        DataError: it does not fit the model, or there is none.
    """
    if data is None:
        return _made_up(model, batch_size), None, None
    first = _first(data, batch_size)
    # Keras would take a list of inputs for inputs and targets.
    x, y, weight = keras.utils.unpack_x_y_sample_weight(first) if isinstance(first, tuple) else (first, None, None)
    if training:
        check_inputs(model, x, y, weight)
    else:
        y = weight = None
        _check_inference(model, x)
    x, y, weight = (tf.nest.map_structure(_tensor, part) for part in (x, y, weight))
    return x, y, weight


def make_step(model: keras.Model, batch: tuple[Any, Any, Any], *, training: bool, jit: bool) -> Step:
    """Trace one step with the layers in its names, and run it until it is warm. Call it inside `preserved`.

    Raises:
        DataError: the model refuses the batch.
    """

    def step(x: Any, y: Any, weight: Any) -> Any:
        if training:
            return model.train_step(keras.utils.pack_x_y_sample_weight(x, y, weight))
        return model(x, training=False) if call_takes_training(model) else model(x)

    function = tf.function(step, jit_compile=jit or None, autograph=False)
    try:
        if training:
            build_on(model, batch)
        with layer_scopes(model):
            concrete = function.get_concrete_function(*batch)
        for _ in range(_WARM_UP):
            function(*batch)
    except (ValueError, TypeError, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
        if isinstance(error, InputError):
            raise
        shapes = ", ".join(
            f"{part.dtype.name} {tuple(part.shape)}" for part in tf.nest.flatten(batch[:2]) if part is not None
        )
        raise DataError(
            f"The model {model.name!r} cannot run on a batch of {shapes}: {type(error).__name__}: "
            f"{words_of(error)[:300]} `kopt.train.check_inputs(model, x, y)` says more."
        ) from error

    def run() -> None:
        function(*batch)
        tf.test.experimental.sync_devices()

    examples = next((int(part.shape[0]) for part in tf.nest.flatten(batch[0]) if part.shape.rank), 1)
    return Step(run, concrete.graph, training, jit, examples)


def time_ms(step: Step, count: int) -> list[float]:
    """Return the milliseconds of single runs."""
    taken = []
    for _ in range(count):
        begin = time.perf_counter_ns()
        step.run()
        taken.append((time.perf_counter_ns() - begin) / 1e6)
    return taken


def _has_targets(data: Any) -> bool:
    if isinstance(data, tf.data.Dataset):
        return isinstance(data.element_spec, tuple) and len(data.element_spec) > 1
    if isinstance(data, keras.utils.PyDataset):
        data = data[0]
    return isinstance(data, tuple) and len(data) > 1 and data[1] is not None


def _first(data: Any, batch_size: int) -> Any:
    if isinstance(data, tf.data.Dataset):
        batch = next(iter(data), None)
        if batch is None:
            raise DataError("The data set is empty: there is nothing to profile on. Check its source and filters.")
        return batch
    if isinstance(data, keras.utils.PyDataset):
        return data[0]
    return tf.nest.map_structure(lambda part: None if part is None else part[:batch_size], data)


def _check_inference(model: keras.Model, x: Any) -> None:
    try:
        inputs, _ = signature(model)
    except UnsupportedModelError:
        return  # Its class alone knows what it takes; it says so when it is traced.
    named = {name: np.asarray(part) for name, part in x.items()} if isinstance(x, dict) else x
    match(inputs, named)


def _made_up(model: keras.Model, batch_size: int) -> Any:
    inputs, _ = signature(model)
    named = random_inputs(inputs, batch_size, seed=0)
    tensors = [tf.constant(named[info.name]) for info in inputs]
    graph = graph_of(model)
    if graph is None:
        if len(tensors) != 1:
            raise DataError(f"The inputs of the subclassed model {model.name!r} cannot be made up. Pass `data`.")
        return tensors[0]
    return keras.tree.pack_sequence_as(graph.input, tensors)


def _tensor(part: Any) -> Any:
    if part is None or isinstance(part, tf.Tensor):
        return part
    array = np.asarray(part)
    return tf.constant(array.astype(keras.config.floatx()) if array.dtype == np.float64 else array)
