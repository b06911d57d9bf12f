"""Width, depth and resolution of a model scaled together."""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any

import keras

from kopt.core.errors import ConfigError, InputError
from kopt.core.records.changes.restructuring import ScalingReport
from kopt.core.settings import number, whole
from kopt.graph import require_built
from kopt.report.changes.scaling import SCALING
from kopt.report.look import Shown
from kopt.restructure.accounting import Costs

# Found by Tan and Le for EfficientNet-B0 under alpha * beta**2 * gamma**2 = 2: depth, width, resolution.
ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15
_ARGUMENTS = ("width", "depth", "resolution")
_KEPT = 0.9


@dataclasses.dataclass(frozen=True)
class Scaling(Shown, ScalingReport):
    """What compound scaling made, with ways to show it."""

    look = SCALING


def scale(
    builder: Callable[..., keras.Model],
    *,
    width: float = 1.0,
    depth: float = 1.0,
    resolution: float = 1.0,
    phi: float | None = None,
    alpha: float = ALPHA,
    beta: float = BETA,
    gamma: float = GAMMA,
    pixels: int = 224,
    divisor: int = 8,
) -> tuple[keras.Model, Scaling]:
    """Build a model larger or smaller in width, depth and resolution together, as EfficientNet's family was.

    Use it to grow or shrink an architecture to a budget. `builder` gets `width` and `depth` as factors, for which it
    calls `scaled_channels` and `scaled_repeats`, and `resolution` as the side of the input in pixels.

    Formula: `depth = alpha**phi`, `width = beta**phi`, `resolution = gamma**phi`; the arithmetic of convolutions grows
    by `depth * width**2 * resolution**2`, with the default constants by about `2**phi`.

    Args:
        builder: function with the keyword arguments `width`, `depth` and `resolution` that returns a built model.
        width: factor of channels, in place of `phi`.
        depth: factor of repeated layers, in place of `phi`.
        resolution: factor of `pixels`, in place of `phi`.
        phi: compound coefficient; 0 is the model as it is, -1 about half of its arithmetic.
        alpha: of depth.
        beta: of width.
        gamma: of resolution.
        pixels: side of the input at a resolution of 1.
        divisor: the scaled side is rounded to the nearest multiple of it.

    Returns:
        The scaled model, and a report that holds it against the model at factors of 1: parameters, multiply-accumulates
        and the ratio that the formula expects.

    Raises:
        ConfigError: a factor that is not above 0, or `phi` and factors together.
        InputError: `builder` does not take the arguments, or returns no built Keras model.

    Example:
        >>> def build(width, depth, resolution):
        ...     x = inputs = keras.Input((resolution, resolution, 3))
        ...     for _ in range(kopt.restructure.scaled_repeats(3, depth)):
        ...         filters = kopt.restructure.scaled_channels(32, width)
        ...         x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        ...     return keras.Model(inputs, x)
        >>> larger, report = kopt.restructure.scale(build, phi=2, pixels=32)
        >>> larger.input_shape, len(larger.layers) - 1, larger.layers[1].filters
        ((None, 40, 40, 3), 5, 40)

    Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019.
    """
    _check_builder(builder)
    whole("pixels", pixels)
    whole("divisor", divisor)
    factors = _factors((width, depth, resolution), phi, (beta, alpha, gamma))
    side = max(divisor, int(pixels * factors[2] / divisor + 0.5) * divisor)
    base = Costs.of(_built(builder, 1.0, 1.0, pixels)).total
    model = _built(builder, factors[0], factors[1], side)
    costs = Costs.of(model).total
    report = Scaling(
        model=model.name,
        phi=None if phi is None else float(phi),
        width=factors[0],
        depth=factors[1],
        resolution=side / pixels,
        pixels=side,
        parameters_before=base.parameters,
        parameters_after=costs.parameters,
        macs_before=base.macs,
        macs_after=costs.macs,
    )
    return model, report


def scaled_channels(channels: int, width: float, *, divisor: int = 8) -> int:
    """Return `channels * width` rounded to the nearest multiple of `divisor`, but to no less than 90 % of it.

    Raises:
        ConfigError: `channels` or `divisor` is no whole number of at least 1, or `width` is not above 0.

    Example:
        >>> kopt.restructure.scaled_channels(32, 1.1), kopt.restructure.scaled_channels(32, 1.4)
        (32, 48)
    """
    whole("channels", channels)
    whole("divisor", divisor)
    wanted = channels * number("width", width, least=0.0, open_below=True)
    rounded = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < _KEPT * wanted else rounded


def scaled_repeats(repeats: int, depth: float) -> int:
    """Return `repeats * depth`, rounded up.

    Raises:
        ConfigError: `repeats` is no whole number of at least 1, or `depth` is not above 0.

    Example:
        >>> kopt.restructure.scaled_repeats(3, 1.2)
        4
    """
    whole("repeats", repeats)
    product = repeats * number("depth", depth, least=0.0, open_below=True)
    # 5 * 1.2 is above 6 in floating point.
    return max(1, math.ceil(product - 1e-9))


def _factors(
    given: tuple[float, float, float], phi: float | None, bases: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return the factors of width, depth and resolution."""
    checked = [number(name, value, least=0.0, open_below=True) for name, value in zip(_ARGUMENTS, given, strict=True)]
    for name, base in zip(("beta", "alpha", "gamma"), bases, strict=True):
        number(name, base, least=0.0, open_below=True)
    if phi is None:
        return checked[0], checked[1], checked[2]
    if any(value != 1.0 for value in checked):
        raise ConfigError(
            f"`phi` sets all three factors; leave `width`, `depth` and `resolution` out, or `phi`. Received: "
            f"phi={phi!r}, width={given[0]!r}, depth={given[1]!r}, resolution={given[2]!r}."
        )
    exponent = number("phi", phi)
    return bases[0] ** exponent, bases[1] ** exponent, bases[2] ** exponent


def _check_builder(builder: Any) -> None:
    if not callable(builder) or isinstance(builder, keras.Model):
        raise InputError(
            f"`builder` must be a function that builds a model, called as `builder(width=1.0, depth=1.0, "
            f"resolution=224)`. Received: {type(builder).__module__}.{type(builder).__qualname__}."
        )
    parameters = inspect.signature(builder).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    missing = [name for name in _ARGUMENTS if name not in parameters]
    if missing:
        raise InputError(
            f"`builder` must take the keyword arguments width, depth and resolution. It takes: "
            f"{', '.join(parameters) or 'none'}; missing: {', '.join(missing)}."
        )


def _built(builder: Callable[..., keras.Model], width: float, depth: float, resolution: int) -> keras.Model:
    model = builder(width=width, depth=depth, resolution=resolution)
    require_built(model)
    return model
