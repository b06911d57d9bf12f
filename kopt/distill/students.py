"""Students made from a teacher: narrower, shallower, of depthwise convolutions, of a given size."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras

from kopt import profile
from kopt.core.errors import ConfigError, UnsupportedModelError, words_of
from kopt.core.randomness import preserved_random_state
from kopt.core.records.changes.distillation import StudentReport
from kopt.core.settings import number
from kopt.distill.blocks import removable, tied_to_outputs
from kopt.distill.inheritance import inherit
from kopt.distill.teachers import model_forms
from kopt.graph import GraphView, rewrite, signature
from kopt.graph.configs import rebuilding, without_arrays

L = keras.layers
# The settings of a layer that number its output channels.
_WIDTHS = ("filters", "units", "key_dim", "value_dim", "output_dim")
_TRIES, _TOLERANCE = 12, 0.01


@preserved_random_state()
def smaller_student(
    teacher: keras.Model,
    *,
    width: float | None = None,
    depth: float = 1.0,
    target_macs: float | None = None,
    target_params: float | None = None,
    round_to: int = 8,
    initialize: bool = True,
    name: str = "student",
) -> tuple[keras.Model, StudentReport]:
    """Return a model of the teacher's architecture with fewer channels and fewer blocks; the teacher is not changed.

    Every layer gets `width` times its channels, but for those that the outputs show. Blocks are what a residual
    connection goes past, and layers of one shape in a row; of each kind the first are kept. `kopt.prune.channels` makes
    students, too: it chooses channels by what they do, where this takes the first of each layer.

    Args:
        teacher: built Functional or Sequential model.
        width: factor of channels, in (0, 1]. Default 1, or what the target asks for.
        depth: share of removable blocks that are kept, in [0, 1].
        target_macs: multiply-accumulates of one example: a part of the teacher's below 1, or a number from 1 on. The
            width is searched for.
        target_params: the same of parameters.
        round_to: widths above it become multiples of it.
        initialize: copy the teacher's weights where shapes allow, and the first channels of them elsewhere; else
            weights are drawn anew.
        name: of the student.

    Returns:
        The student, a plain model, and a report.

    Raises:
        ConfigError: a setting out of range, several at once, or a target that no width reaches.
        UnsupportedModelError: a subclassed model, or one whose shapes forbid other widths.

    Example:
        >>> student, report = kopt.distill.smaller_student(model, target_macs=0.5, round_to=1)
        >>> report.macs_before, report.macs_after, [student.get_layer(name).filters for name in ("conv1", "conv2")]
        (16416, 7830, [5, 10])
    """
    number("depth", depth, least=0.0, most=1.0)
    if sum(one is not None for one in (width, target_macs, target_params)) > 1:
        raise ConfigError("`width`, `target_macs` and `target_params` each set the width. Give one of them.")
    removed = removable(teacher, depth)
    fixed = tied_to_outputs(GraphView.of(teacher))

    def build(factor: float) -> keras.Model:
        return _scaled(teacher, factor, removed, fixed, round_to, name)

    chosen = 1.0 if width is None else number("width", width, least=0.0, most=1.0, open_below=True)
    base = profile.model(teacher)
    if target_macs is not None:
        chosen = _searched(build, target_macs, base.macs, lambda costs: costs.macs, "target_macs")
    elif target_params is not None:
        chosen = _searched(build, target_params, base.parameters, lambda costs: costs.parameters, "target_params")
    student = build(chosen)
    origins = inherit(teacher, student) if initialize else {"copied": (), "cut": (), "fresh": ()}
    costs = profile.model(student)
    return student, StudentReport(
        teacher.name, chosen, depth, base.parameters, costs.parameters, base.macs, costs.macs, tuple(removed), **origins
    )


@preserved_random_state()
def mobile_student(
    teacher: keras.Model,
    *,
    width: float | None = None,
    target_macs: float | None = None,
    target_params: float | None = None,
    name: str = "student",
) -> tuple[keras.Model, StudentReport]:
    """Return a network of depthwise and pointwise convolutions for the teacher's images and classes.

    A stem and blocks of 16 to 256 channels at a width of 1, halving the size of the map until it is at most 8; batch
    normalization and ReLU6, as in MobileNet; logits or probabilities as the teacher gives them.

    Args:
        teacher: with one input of images of known size, and one output of classes.
        width: factor of channels, above 0. Default 1, or what the target asks for.
        target_macs: see `smaller_student`.
        target_params: see `smaller_student`.
        name: of the student.

    Raises:
        ConfigError: a setting out of range, several at once, or a target that no width reaches.
        UnsupportedModelError: other inputs or outputs.

    Warns:
        UserWarning: without a target the student takes more multiply-accumulates than the teacher.

    Example:
        >>> student, report = kopt.distill.mobile_student(model, target_params=0.5)
        >>> student.count_params() <= 0.5 * model.count_params(), student.output_shape
        (True, (None, 10))

    Source: Howard et al., "MobileNets", 2017.
    """
    (image, *others), (classes, *more) = signature(teacher)
    if others or more or len(image.shape) != 4 or None in image.shape[1:] or len(classes.shape) != 2:
        raise UnsupportedModelError(
            f"A mobile student takes one image of known size and gives classes. The teacher {teacher.name!r} takes "
            f"{[one.shape for one in (image, *others)]} and gives {[one.shape for one in (classes, *more)]}. Use "
            f"`kopt.distill.smaller_student`."
        )
    if sum(one is not None for one in (width, target_macs, target_params)) > 1:
        raise ConfigError("`width`, `target_macs` and `target_params` each set the width. Give one of them.")
    activation = {"probabilities": "softmax", "sigmoids": "sigmoid"}.get(model_forms(teacher)[0][0])

    def build(factor: float) -> keras.Model:
        return _mobile(image.shape[1:], classes.shape[1] or 1, activation, factor, name)

    chosen = 1.0 if width is None else number("width", width, least=0.0, open_below=True)
    base = profile.model(teacher)
    if target_macs is not None:
        chosen = _searched(build, target_macs, base.macs, lambda costs: costs.macs, "target_macs", most=4.0)
    elif target_params is not None:
        chosen = _searched(
            build, target_params, base.parameters, lambda costs: costs.parameters, "target_params", most=4.0
        )
    student = build(chosen)
    costs = profile.model(student)
    if costs.macs > base.macs and target_macs is None and target_params is None:
        warnings.warn(
            f"The student takes {costs.macs:,} multiply-accumulates for an example, the teacher {base.macs:,}: its "
            f"width is a factor of 16 to 256 channels, whatever the teacher has. Give `target_macs=0.5`, or take "
            f"`kopt.distill.smaller_student`.",
            UserWarning,
            stacklevel=2,
        )
    return student, StudentReport(teacher.name, chosen, 1.0, base.parameters, costs.parameters, base.macs, costs.macs)


def _scaled(
    teacher: keras.Model, factor: float, removed: Mapping[str, int], fixed: set[int], round_to: int, name: str
) -> keras.Model:
    reached = teacher

    def replace(layer: keras.layers.Layer) -> Callable[..., Any] | None:
        nonlocal reached
        reached = layer
        if layer.name in removed:
            return _passing(removed[layer.name])
        if not layer.weights or factor == 1.0:
            return None
        with rebuilding(layer):
            config = without_arrays(layer.get_config())
            if id(layer) not in fixed:
                _narrow(config, factor, round_to)
            return type(layer).from_config(config)

    try:
        student, _ = rewrite(teacher, replace, name=name)
    except (ValueError, TypeError) as error:
        raise UnsupportedModelError(
            f"The model {teacher.name!r} has no form with {factor:.2f} times the channels, because of "
            f"{reached.name!r} ({type(reached).__name__}): {words_of(error)} Layers that name sizes, as Reshape "
            f"does, or that count heads or groups allow some widths only; use `kopt.prune.channels`, which follows "
            f"channels from layer to layer."
        ) from error
    return student


def _narrow(config: dict[str, Any], factor: float, round_to: int) -> None:
    """Scale the widths in the config of a layer, and of those that `Bidirectional` and `TimeDistributed` hold."""
    groups = config.get("groups") or 1
    for key in _WIDTHS:
        if isinstance(config.get(key), int):
            config[key] = _width(config[key], factor, round_to, groups)
    for key in ("layer", "backward_layer"):
        if isinstance(config.get(key), dict):
            config[key].pop("build_config", None)  # of the shapes that were there before
            _narrow(config[key]["config"], factor, round_to)


def _passing(position: int) -> Callable[..., Any]:
    """Return what stands in for a layer that is passed by: it gives back its input, or one of them."""

    def passing(inputs: Any, **_: Any) -> Any:
        return inputs[position] if isinstance(inputs, (list, tuple)) else inputs

    return passing


def _width(channels: int, factor: float, round_to: int, groups: int) -> int:
    step = groups if channels * factor < round_to else math.lcm(round_to, groups)
    return min(channels, max(step, round(channels * factor / step) * step))


def _searched(
    build: Callable[[float], keras.Model],
    target: float,
    whole: int,
    measure: Callable[[Any], int],
    name: str,
    most: float = 1.0,
) -> float:
    """Return the largest width found by bisection whose cost is at most the target."""
    number(name, target, least=0.0, open_below=True)
    limit = target * whole if target < 1 else target
    if most == 1.0 and limit >= whole:
        raise ConfigError(
            f"`{name}` is not below what the teacher has, {whole:,}. Received: {target!r}. Name a smaller number, or a "
            f"share below 1."
        )
    best, low, high = None, 0.0, most
    for _ in range(_TRIES):
        middle = high if best is None and low == 0.0 and high == most else (low + high) / 2
        cost = measure(profile.model(build(middle)))
        if cost <= limit:
            best, low = middle, middle
            if middle == most or cost >= limit * (1 - _TOLERANCE):
                break
        else:
            high = middle if middle < most else most - 1e-9
    if best is None:
        raise ConfigError(
            f"No width brings the student to {name}={target!r}, {limit:,.0f} of {whole:,}. Ask for more, or take out "
            f"blocks: `depth=0.5`."
        )
    return best


def _mobile(shape: Any, classes: int, activation: str | None, factor: float, name: str) -> keras.Model:
    def channels(count: int) -> int:
        return max(4, round(count * factor / 4) * 4)

    def normalized(x: Any) -> Any:
        return L.ReLU(6.0)(L.BatchNormalization()(x))

    inputs = keras.Input(shape)
    size = min(shape[:2])
    stride = 2 if size > 32 else 1
    x = normalized(L.Conv2D(channels(16), 3, stride, padding="same", use_bias=False)(inputs))
    size //= stride
    for count in (32, 64, 128, 256):
        stride = 2 if size > 8 else 1
        size //= stride
        x = normalized(L.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x))
        x = normalized(L.Conv2D(channels(count), 1, use_bias=False)(x))
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(classes, activation=activation, dtype="float32")(x), name=name)
