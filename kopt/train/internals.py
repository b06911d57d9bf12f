"""The parts of Keras' trainer that the public API does not give; the only file of training that touches them.

`tests/unit/train/test_train_internals.py` fails when a Keras release changes one of them.
"""

import contextlib
import copy
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.backend.common import global_state, stateless_scope
from keras.src.backend.tensorflow.trainer import TFEpochIterator
from keras.src.losses.loss import unscale_loss_for_distribution
from keras.src.trainers.data_adapters.array_slicing import train_validation_split
from keras.src.utils.python_utils import pythonify_logs
from keras.src.utils.tracking import Tracker
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context as eager_context
from tensorflow.python.ops import stateful_random_ops
from tensorflow.python.trackable.data_structures import ListWrapper, _DictWrapper

from kopt.train.interception import replaced

# What Keras and TensorFlow put in the place of a list or dict that is assigned to an attribute, and Keras' own
# bookkeeping of the variables below an object.
TRACKING_TYPES: tuple[type, ...] = (Tracker, ListWrapper, _DictWrapper)
_GLOBAL_SEED_GENERATOR = "global_seed_generator"  # Keras 3.12 has no constant for it.


def accumulated_steps(optimizer: Any) -> int:
    """Return after how many calls an optimizer updates the weights: 1, or its `gradient_accumulation_steps`."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return getattr(inner, "gradient_accumulation_steps", None) or 1


def is_updating(optimizer: Any) -> tf.Tensor:
    """Return whether an optimizer updates the weights in the call under way, in which constraints are applied."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    calls = tf.convert_to_tensor(calls_of_apply(inner).value)
    return tf.equal((calls + 1) % accumulated_steps(optimizer), 0)


def loss_weights(model: keras.Model) -> Any:
    """Return `loss_weights` as given to `compile`: a number, a list, a dict or `None`."""
    return model._compile_loss._user_loss_weights if model._compile_loss is not None else None


class EpochData:
    """What `fit` was given, in any form that Keras takes, as batches by epoch.

    Attributes:
        dataset: the batches of one epoch, a `tf.data.Dataset` or a distributed one.
        batches: number of them in an epoch; `None` while that is unknown.
        created: how many iterators were made. Each one moves on what a data set reshuffles by.
    """

    def __init__(self, strategy: Any, **given: Any):
        self._epochs = TFEpochIterator(distribute_strategy=strategy, **given)
        self._keeps_iterator = given.get("steps_per_epoch") is not None
        self.created = 0
        self.dataset = _without_last_optionals(self._epochs._distributed_dataset)
        self.batches: int | None = self._epochs.num_batches

    def iterator(self) -> Any:
        """Return a new iterator; like `fit`, which makes one at the end of an epoch and another for the next one.

        The one in between is never used, but it moves on a shuffle that is anew every time.
        """
        if self.created and self.batches and not self._keeps_iterator:
            self._create()
        return self._create()

    def go_to(self, created: int) -> Any:
        """Make iterators until so many were made; return the last one, or `None` if that many are there."""
        iterator = None
        while self.created < created:
            iterator = self._create()
        return iterator

    def _create(self) -> Any:
        self.created += 1
        return iter(self.dataset)

    def begin(self) -> None:
        """Tell a `PyDataset` or generator that an epoch begins."""
        self._epochs.data_adapter.on_epoch_begin()

    def end(self) -> None:
        """Tell a `PyDataset` or generator that an epoch has ended."""
        self._epochs.data_adapter.on_epoch_end()


def _without_last_optionals(dataset: Any) -> Any:
    """Return `(x, y)` of a generator's `(x, y, None)`, for which Keras has an optional."""
    spec = getattr(dataset, "element_spec", None)
    if not isinstance(dataset, tf.data.Dataset) or not isinstance(spec, tuple):
        return dataset
    count = len(spec)
    while count > 1 and isinstance(spec[count - 1], tf.OptionalSpec):
        count -= 1
    return dataset if count == len(spec) else dataset.map(lambda *parts: parts[:count])


def split_validation(arrays: tuple[Any, ...], fraction: float) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return training and validation arrays as `fit(validation_split=...)` divides them."""
    return train_validation_split(arrays, validation_split=fraction)


def compute_loss(model: keras.Model, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor:
    """Return the loss that `fit` minimizes; under a `tf.distribute` strategy divided by the number of replicas."""
    return model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)


def track_loss(model: keras.Model, loss: tf.Tensor, examples: tf.Tensor) -> None:
    """Add the loss of a batch to the mean that the logs show."""
    if model._loss_tracker is not None:
        model._loss_tracker.update_state(unscale_loss_for_distribution(loss), sample_weight=examples)


def variables_of_own_metrics(model: keras.Model) -> list[Any]:
    """Return the variables of metrics that a forward pass or `compute_loss` moves: all but those of `compile`.

    Those of `compile` get what is accepted, afterwards; but the means of single losses move as the loss is computed.
    """
    compiled = [one for one in (model._loss_tracker, model._compile_metrics) if one is not None]
    own = [metric for metric in model.metrics if not any(metric is one for one in compiled)]
    found = [variable for metric in own for variable in metric.variables]
    return list({id(variable): variable for variable in found}.values())


def direction_of(model: keras.Model, name: str) -> str | None:
    """Return `"up"` or `"down"`, as a metric says of itself; `None` where it says nothing, or there is none."""
    metrics = [one for metric in model.metrics for one in getattr(metric, "metrics", [metric])]
    return next((one._direction for one in metrics if one.name == name and hasattr(one, "_direction")), None)


def without_optionals(batch: Any) -> Any:
    """Return a batch with `None` where Keras' pipeline of a generator has an optional in its place."""
    return tf.nest.map_structure(lambda part: None if isinstance(part, tf.experimental.Optional) else part, batch)


def in_order_of_metrics(model: keras.Model, logs: dict[str, Any]) -> Any:
    """Return logs as `train_on_batch` does: a list with the loss first, or its one number."""
    return model._flatten_metrics_in_order(logs)


def compiled_losses(model: keras.Model) -> list[Any]:
    """Return the losses given to `compile`, flattened: objects, functions or names."""
    return [loss for loss in tf.nest.flatten(model.loss) if loss is not None]


def mask_of(y_pred: Any) -> Any:
    """Return the mask that Keras attached to an output, or `None`."""
    return get_keras_mask(y_pred)


def as_numbers(logs: dict[str, Any]) -> dict[str, Any]:
    """Return logs with Python numbers in the place of tensors."""
    return pythonify_logs(logs)


def call_takes_training(model: keras.Model) -> bool:
    """Return whether `model(x, training=...)` is accepted."""
    return bool(model._call_has_training_arg)


def build_on(model: keras.Model, batch: Any) -> None:
    """Build a model, its optimizer, loss and metrics on the shapes of a batch, if they are not built."""
    metrics_built = model._compile_metrics is None or model._compile_metrics.built
    if model.built and metrics_built and (model._compile_loss is None or model._compile_loss.built):
        if not model.optimizer.built:
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)
        return
    local = tf.nest.map_structure(
        lambda value: value.values[0] if isinstance(value, tf.distribute.DistributedValues) else value, batch
    )
    with model.distribute_strategy.scope():
        model._symbolic_build(data_batch=keras.utils.unpack_x_y_sample_weight(without_optionals(local)))


def compile_state(model: keras.Model) -> tuple[int, ...]:
    """Return something that changes when `compile` is called again, or what stands round the optimizer's update."""
    optimizer: Any = model.optimizer
    while (inner := getattr(optimizer, "inner_optimizer", None)) is not None:
        optimizer = inner
    watched = id(vars(optimizer).get(_UPDATE_ALL))
    return id(model.optimizer), id(model._compile_loss), id(model._compile_metrics), watched


def monitors(callback: Any) -> bool:
    """Return whether a callback such as `EarlyStopping` has found out in which direction its metric is better."""
    return getattr(callback, "monitor_op", None) is not None


def begin_monitoring(callback: Any) -> None:
    """Let a callback find that out now, as it does once, at the end of an epoch; it turns the sign of `min_delta`."""
    if not monitors(callback):
        callback._set_monitor_op()


def first_epoch(model: keras.Model, initial_epoch: int) -> int:
    """Return the epoch to begin with: `BackupAndRestore` sets one on the model."""
    return int(model._initial_epoch or initial_epoch)


def validates(model: keras.Model, epoch: int, validation_freq: Any) -> bool:
    """Return whether `fit` validates after `epoch`, counted from 0."""
    return bool(model._should_eval(epoch, validation_freq))


def wrapped_dict(value: Any) -> dict[Any, Any] | None:
    """Return the dict inside TensorFlow's stand-in for a dict; `None` for anything else."""
    return value.__wrapped__ if type(value) is _DictWrapper else None


def global_seed_generator() -> keras.random.SeedGenerator | None:
    """Return the generator that Keras draws from where no seed is given; `None` before its first use."""
    return global_state.get_global_attribute(_GLOBAL_SEED_GENERATOR)


def set_global_seed_generator(generator: keras.random.SeedGenerator | None) -> None:
    """Put a generator in the place that `global_seed_generator` reads."""
    global_state.set_global_attribute(_GLOBAL_SEED_GENERATOR, generator)


def global_generator() -> Any:
    """Return the generator of `tf.random.get_global_generator`; `None` before its first use, which would make it."""
    return stateful_random_ops.global_generator


@contextlib.contextmanager
def separate_eager_seeds() -> Iterator[None]:
    """Let TensorFlow's eager random operations draw their seeds from a generator of their own inside the block.

    After `tf.random.set_seed`, every eager call of e.g. `tf.random.uniform` takes its operation seed from one Python
    generator, and TensorFlow keeps the kernel of every seed with the numbers it has drawn so far. Setting that
    generator back would therefore not repeat the numbers; other seeds inside the block leave both alone.
    """
    state = vars(eager_context.context())
    saved = {name: state[name] for name in ("_seed", "_rng") if name in state}
    if "_rng" in saved:
        state["_rng"] = random.Random(str(saved["_rng"].getstate()))
    try:
        yield
    finally:
        state.pop("_rng", None)
        state.update(saved)


# Looked up on the instance by `Functional.call`: what is put there runs the graph in its place.
RUN_GRAPH = "_run_through_graph"
_CALL_CONTEXT, _AUTOCAST = "current_call_ctx", "autocast_scope"


def nodes_in_order(graph: keras.Model) -> list[Any]:
    """Return the calls of a Functional model in the order in which Keras makes them, without the input layers."""
    by_depth = graph._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def copy_mask(source: Any, target: Any) -> None:
    """Give `target` the Keras mask of `source`, if that has one."""
    mask = get_keras_mask(source)
    if mask is not None:
        set_keras_mask(target, mask)


def call_state() -> tuple[Any, Any]:
    """Return what the layer around this point hands down to those inside: `training`, and the type to cast to."""
    context = global_state.get_global_attribute(_CALL_CONTEXT)
    return copy.copy(context), global_state.get_global_attribute(_AUTOCAST)


@contextlib.contextmanager
def restored_call_state(state: tuple[Any, Any]) -> Iterator[None]:
    """Call layers as if at the point where `call_state` was taken."""
    current = {name: global_state.get_global_attribute(name) for name in (_CALL_CONTEXT, _AUTOCAST)}
    global_state.set_global_attribute(_CALL_CONTEXT, copy.copy(state[0]))
    global_state.set_global_attribute(_AUTOCAST, state[1])
    try:
        yield
    finally:
        for name, value in current.items():
            global_state.set_global_attribute(name, value)


def stored_value(variable: keras.Variable) -> Any:
    """Return the tensor that `variable` holds, as no `StatelessScope` and no autocasting shows it."""
    return tf.convert_to_tensor(variable._value)


def is_initialized(variable: keras.Variable) -> bool:
    """Return whether `variable` has a value yet; one that is made inside a `StatelessScope` gets it at the end."""
    return variable._value is not None


def loss_owner(layers: Iterable[keras.layers.Layer], loss: Any) -> keras.layers.Layer | None:
    """Return the layer whose `add_loss` put `loss` into the current `StatelessScope`; `None` if it is none of them."""
    return next((layer for layer in layers if id(loss) in layer._loss_ids), None)


def hook_updates(
    optimizer: keras.optimizers.Optimizer,
    rate_factor: Callable[[int], Any],
    observe: Callable[[int, Any], None] | None = None,
) -> None:
    """Scale the learning rate with which `optimizer`, this object alone, changes each variable.

    Both functions get the position of the variable among those that the optimizer was built with. `observe` sees the
    gradient as it is applied: summed over replicas, accumulated, clipped. `rate_factor` gives what the learning rate is
    multiplied with, for the update and for the decoupled weight decay alike; the number 0.0 leaves the variable and its
    slots untouched. Hooks add up.
    """
    if "update_step" not in vars(optimizer):
        _decay_in_update(optimizer)
    update = optimizer.update_step

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = optimizer._get_variable_index(variable)
        if observe is not None:
            observe(index, gradient)
        factor = rate_factor(index)
        if isinstance(factor, float) and factor == 0.0:
            return
        # Multiplying by one would cost nothing but the bit-equality with an optimizer that has no hook.
        update(
            gradient, variable, learning_rate if isinstance(factor, float) and factor == 1.0 else learning_rate * factor
        )

    # Past `__setattr__`: TensorFlow would look for variables in it.
    object.__setattr__(optimizer, "update_step", update_step)


# Called by `apply` with all gradients as they are to be applied: clipped, accumulated, of a loss that is not scaled.
_UPDATE_ALL = "_backend_update_step"


@contextlib.contextmanager
def around_update(
    optimizer: keras.optimizers.Optimizer, around: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Let `around(update)` stand in for the update of all variables of `optimizer`, this object alone, in the block.

    The function takes gradients, variables and learning rate. What was traced before does not know of it.
    """
    with replaced(optimizer, _UPDATE_ALL, around(getattr(optimizer, _UPDATE_ALL))):
        yield


def trained_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return the variables that a built optimizer changes, in its order."""
    return list(optimizer._trainable_variables)


def calls_of_apply(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Return the count of steps, of which `gradient_accumulation_steps` make one of `optimizer.iterations`."""
    return optimizer._iterations


def _decay_in_update(optimizer: keras.optimizers.Optimizer) -> None:
    """Decay each variable in the call that updates it, where its own learning rate is known, not before all calls."""
    update = optimizer.update_step

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        decay = optimizer.weight_decay
        if decay is not None and optimizer._use_weight_decay(variable):
            variable.assign_sub(variable * tf.cast(decay, variable.dtype) * tf.cast(learning_rate, variable.dtype))
        update(gradient, variable, learning_rate)

    object.__setattr__(optimizer, "update_step", update_step)
    object.__setattr__(optimizer, "_apply_weight_decay", lambda variables: None)


def decays_in_its_own_way(optimizer: keras.optimizers.Optimizer) -> bool:
    """Return whether the class of `optimizer` replaces Keras' decoupled weight decay, as `Muon` does."""
    return type(optimizer)._apply_weight_decay is not keras.optimizers.Optimizer._apply_weight_decay


def ema_pairs(optimizer: keras.optimizers.Optimizer) -> list[tuple[keras.Variable, keras.Variable]]:
    """Return every trainable variable with the average that `use_ema=True` keeps of it; empty without that."""
    averages = getattr(optimizer, "_model_variables_moving_average", [])
    pairs = zip(optimizer._trainable_variables, averages, strict=True) if averages else ()
    return [(variable, average) for variable, average in pairs if average is not None]


def rate_variable(optimizer: Any) -> keras.Variable:
    """Return the variable that the steps of `optimizer` read their learning rate from.

    Where the rate is a schedule or a function, which cannot be set, a variable takes its place; whoever calls this puts
    the optimizer back (`kopt.train.preserved` does).
    """
    while (inner := getattr(optimizer, "inner_optimizer", None)) is not None:
        optimizer = inner
    if not isinstance(optimizer._learning_rate, keras.Variable):
        rate = keras.Variable(0.0, dtype="float32", trainable=False, name="learning_rate")
        vars(optimizer)["_learning_rate"] = rate
    return optimizer._learning_rate


def share_value(source: keras.Variable, target: keras.Variable) -> None:
    """Let `target` hold the very `tf.Variable` that `source` holds, in place of its own.

    Optimizers know a variable by its `tf.Variable`, and saving and exporting ask the Keras variable for it each time.
    """
    target._value = source._value


def prepares_input(layer: keras.layers.Layer) -> bool:
    """Return whether `layer` is one of Keras' own preprocessing or augmentation layers."""
    return type(layer).__module__.startswith("keras.src.layers.preprocessing.")


def configure_coordination(tasks: dict[str, int], leader: str, *, heartbeat_timeout_s: float) -> None:
    """Set when a process of a cluster counts as dead; before the strategy is made, which would set a default.

    Args:
        tasks: number of tasks by job.
        leader: device name of the task that all others report to.
        heartbeat_timeout_s: seconds without a sign of life.
    """
    jobs = [coordination_config_pb2.CoordinatedJob(name=job, num_tasks=count) for job, count in tasks.items()]
    eager_context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=leader,
        heartbeat_timeout_in_ms=int(heartbeat_timeout_s * 1000),
        coordinated_jobs=jobs,
    )


def in_stateless_scope() -> bool:
    """Return whether variables are read from a `StatelessScope` here, as in shape inference."""
    return stateless_scope.in_stateless_scope()


def targets_loss(model: keras.Model, y: Any, y_pred: Any, sample_weight: Any) -> Any:
    """Return the loss given to `compile`, without those that layers add."""
    return model._compile_loss(y, y_pred, sample_weight)


def added_losses(model: keras.Model) -> list[Any]:
    """Return what regularizers and `add_loss` add to the loss that `fit` minimizes."""
    return [model._aggregate_additional_loss(loss) for loss in model.losses]
