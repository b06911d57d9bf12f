"""The variables of a layer taken together: counts, and the statistics of all their entries as one set."""

import dataclasses
import math
from collections.abc import Sequence

from kopt.core.records.profiles.parameters import ParameterProfile, ValueStatistics, VariableParameters
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class PooledStatistics(Record):
    """Statistics of the finite entries of several variables as one set, with standard errors where one was sampled.

    Attributes:
        *_error: 0 if every entry was read.
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    l1: float
    l2: float
    zero_fraction: float
    near_zero_fraction: float
    mean_error: float
    std_error: float
    l1_error: float
    l2_error: float
    zero_fraction_error: float
    near_zero_fraction_error: float


@dataclasses.dataclass(frozen=True)
class LayerParameters(Record):
    """The variables that one layer holds itself; what layers inside it hold is counted there.

    Attributes:
        path: of the layer.
        type: its class name.
        variables: paths of its variables.
        channels, dead_channels: of all its kernels.
        statistics: `None` unless all its variables have some.
    """

    path: str
    type: str
    variables: tuple[str, ...]
    parameters: int
    trainable_parameters: int
    size_bytes: int
    channels: int
    dead_channels: int
    sampled: bool
    statistics: PooledStatistics | None


def layers_of(profile: ParameterProfile) -> tuple[LayerParameters, ...]:
    """Return the layers that hold variables, in the order of the model."""
    groups: dict[str, list[VariableParameters]] = {}
    for variable in profile.variables:
        groups.setdefault(variable.layer, []).append(variable)
    return tuple(_layer(path, variables) for path, variables in groups.items())


def _layer(path: str, variables: Sequence[VariableParameters]) -> LayerParameters:
    channels = [variable.channels for variable in variables if variable.channels is not None]
    return LayerParameters(
        path=path,
        type=variables[0].layer_type,
        variables=tuple(variable.path for variable in variables),
        parameters=sum(variable.parameters for variable in variables),
        trainable_parameters=sum(variable.parameters for variable in variables if variable.trainable),
        size_bytes=sum(variable.size_bytes for variable in variables),
        channels=sum(one.count for one in channels),
        dead_channels=sum(one.dead for one in channels),
        sampled=any(variable.reading == "sample" for variable in variables),
        statistics=_pooled(variables),
    )


def _pooled(variables: Sequence[VariableParameters]) -> PooledStatistics | None:
    parts: list[tuple[int, ValueStatistics]] = []
    for variable in variables:
        if variable.statistics is None:
            return None
        if variable.statistics.finite:
            # Of a sampled variable, as many entries are finite as in its sample.
            finite = round(variable.parameters * variable.statistics.finite / variable.statistics.read)
            parts.append((finite, variable.statistics))
    if not parts:
        return None
    return pool(parts)


def pool(parts: Sequence[tuple[int, ValueStatistics]]) -> PooledStatistics:
    """Return the statistics of several sets of entries as one set.

    The mean of all is the mean of the means, weighted with the counts, and the variance the weighted mean of
    `std^2 + (mean - mean of all)^2`. The samples are independent, so squared errors add up with squared weights. The
    variance of `(x - c)^2` round the mean of all `c`, which the error of the standard deviation needs, follows from the
    moments of each variable: `m4 - m2^2 + 4 d^2 m2 + 4 d m3` with `d` its mean less `c`.

    Args:
        parts: the number of entries and the statistics of each, with at least one finite entry.
    """
    total = sum(count for count, _ in parts)
    weights = [count / total for count, _ in parts]
    sets = [one for _, one in parts]
    mean = _sum(weights, [one.mean for one in sets])
    std = math.sqrt(_sum(weights, [one.std**2 + (one.mean - mean) ** 2 for one in sets]))
    spreads = [_spread_error(count, one, one.mean - mean) for count, one in parts]
    l2 = math.hypot(*(one.l2 for one in sets))
    squares = [2 * one.l2 * (one.errors.l2 if one.errors else 0.0) for one in sets]
    return PooledStatistics(
        mean=mean,
        std=std,
        minimum=min(one.minimum for one in sets),
        maximum=max(one.maximum for one in sets),
        l1=sum(one.l1 for one in sets),
        l2=l2,
        zero_fraction=_sum(weights, [one.zero_fraction for one in sets]),
        near_zero_fraction=_sum(weights, [one.near_zero_fraction for one in sets]),
        mean_error=_error(weights, [one.errors.mean if one.errors else 0.0 for one in sets]),
        std_error=_error(weights, spreads) / (2 * std) if std else 0.0,
        l1_error=math.hypot(*(one.errors.l1 if one.errors else 0.0 for one in sets)),
        l2_error=math.hypot(*squares) / (2 * l2) if l2 else 0.0,
        zero_fraction_error=_error(weights, [one.errors.zero_fraction if one.errors else 0.0 for one in sets]),
        near_zero_fraction_error=_error(
            weights, [one.errors.near_zero_fraction if one.errors else 0.0 for one in sets]
        ),
    )


def _sum(weights: Sequence[float], values: Sequence[float]) -> float:
    return math.fsum(weight * value for weight, value in zip(weights, values, strict=True))


def _error(weights: Sequence[float], errors: Sequence[float]) -> float:
    return math.hypot(*(weight * error for weight, error in zip(weights, errors, strict=True)))


def _spread_error(size: int, part: ValueStatistics, distance: float) -> float:
    """Return the standard error of the mean of `(x - c)^2` in a sampled variable whose mean is `distance` above `c`."""
    if part.errors is None or not part.std:
        return 0.0
    second, third = part.std**2, part.skewness * part.std**3
    fourth = (part.excess_kurtosis + 3) * second**2
    variance = fourth - second**2 + 4 * distance**2 * second + 4 * distance * third
    return math.sqrt(max(variance, 0.0) / part.finite * (size - part.finite) / max(size - 1, 1))
