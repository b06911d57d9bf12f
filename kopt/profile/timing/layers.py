"""Which layers of a model take the time of a step, forward and backward, and what the optimizer takes."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from kopt.core.records.profiles.time import LayerTime, LayerTimes, OpProfile, OpTime
from kopt.graph import layer_paths
from kopt.graph.internals import flatten_layers, inner_layers
from kopt.profile.tensorboard import InTensorBoard
from kopt.profile.timing.ops import ops
from kopt.report.profiles.times import LAYER_TIMES


@dataclasses.dataclass(frozen=True)
class LayerProfile(InTensorBoard, LayerTimes):
    """What `layer_times` found, with ways to show it.

    Example:
        >>> times = kopt.profile.layer_times(model, x_train, training=False, steps=2)
        >>> [layer.layer for layer in times.layers], times.backward_ms
        (['conv1', 'norm1', 'relu1', 'conv2', 'flat', 'classes'], None)
    """

    look = LAYER_TIMES

    def _scalars(self) -> Iterator[tuple[str, float]]:
        yield from ((f"total_ms/{layer.layer}", layer.total_ms) for layer in self.layers)


def layer_times(
    model: keras.Model,
    data: Any = None,
    *,
    training: bool | None = None,
    steps: int = 10,
    batch_size: int = 32,
) -> LayerProfile:
    """Say how long each layer takes in a step, forward and backward, and how long the optimizer does.

    Use it to see which layers are worth shrinking or replacing. It is the profile of `kopt.profile.ops`, its operations
    added up by layer: nothing is measured in isolation, so caches, fusion and parallel layers are as in the real step.

    A layer has the `wall_ms` of its own operations; those of layers inside it have rows of their own. So the layers,
    the update, other operations (loss, metrics) and the rest (Python, dispatch) add up to `step_ms`. Where a layer is
    computed again for the backward pass (rematerialization), both times count as forward.

    Args:
        model: built. It is left as it was.
        data: as for `kopt.profile.ops`.
        training: profile a training step, else inference. `None`: training if the model is compiled and `data` has
            targets.
        steps: that are profiled.
        batch_size: examples to take from arrays.

    Returns:
        The layers with `.table(width, rows=20, sort="total")` and `.plot(path)`.

    Raises:
        InputError: the model is not built.
        ConfigError: an impossible setting, or training without `compile` or targets.
        DataError: `data` does not fit the model.
        UnsupportedModelError: the model is spread over several devices by a strategy.
        MeasurementError: a profiler is running in this process already; it goes on undisturbed.

    Example:
        >>> times = kopt.profile.layer_times(model, (x_train, y_train), steps=2)
        >>> times.step, [layer.layer for layer in times.layers]
        ('training', ['conv1', 'norm1', 'relu1', 'conv2', 'flat', 'classes'])
        >>> path = times.plot("times.svg")
    """
    profile = ops(model, data, training=training, steps=steps, batch_size=batch_size, jit_compile=False)
    return LayerProfile(**vars(by_layer(profile, model)))


def by_layer(profile: OpProfile, model: keras.Model) -> LayerTimes:
    """Add the operations of a profile up by layer. Layers that hold no others are listed even where nothing ran."""
    training = profile.step == "training"
    own: dict[str, list[OpTime]] = {}
    for op in profile.ops:
        if op.layer is not None:
            own.setdefault(op.layer, []).append(op)
    layers = {id(layer): layer for layer in flatten_layers(model)}
    rows = tuple(
        _row(path, layers[number], own.get(path, []), training)
        for number, path in layer_paths(model).items()
        if _is_listed(layers[number]) or path in own
    )
    notes = list(profile.notes)
    if training and model.jit_compile:
        notes.append("`fit` compiles this model with XLA; the times are those of the step without XLA.")
    return LayerTimes(
        model=profile.model,
        step=profile.step,
        batch_examples=profile.batch_examples,
        steps=profile.steps,
        step_ms=profile.step_ms,
        plain_step_ms=profile.plain_step_ms,
        layers=rows,
        update_ms=_sum(profile.ops, "update") if training else None,
        other_ms=sum(op.wall_ms for op in profile.ops if op.layer is None and op.phase != "update"),
        notes=tuple(notes),
    )


def _row(path: str, layer: keras.layers.Layer, ops: list[OpTime], training: bool) -> LayerTime:
    return LayerTime(
        layer=path,
        type=type(layer).__name__,
        forward_ms=_sum(ops, "forward"),
        backward_ms=_sum(ops, "backward") if training else None,
        busy_ms=sum((op.busy_ms for op in ops), 0.0),
        ops=len(ops),
    )


def _sum(ops: Any, phase: str) -> float:
    return sum((op.wall_ms for op in ops if op.phase == phase), 0.0)


def _is_listed(layer: keras.layers.Layer) -> bool:
    return not inner_layers(layer) and not isinstance(layer, keras.layers.InputLayer)
