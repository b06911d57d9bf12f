"""Initial values of kernels: functions of shapes and generators.

A sum of `fan_in` products with weights of variance `v` has `fan_in * v` times the mean square of what comes in. He
keeps that at 1 behind a ReLU, which halves it (`v = 2 / fan_in`), Glorot on average over both directions of a linear
layer (`v = 2 / (fan_in + fan_out)`).

Sources: He et al., "Delving Deep into Rectifiers", 2015; Glorot and Bengio, 2010; Saxe et al., 2014 (orthogonal).
"""

import math

import numpy as np

from kopt.restructure.kinds import CONV, DENSE, DEPTHWISE, TRANSPOSE

INITIALIZERS = ("he_normal", "glorot_uniform", "orthogonal", "fixup")
# Standard deviation of a standard normal distribution cut off at 2; Keras divides by it, too.
_TRUNCATED_STD = 0.87962566103423978
_CUT = 2.0


def fans(kind: str, shape: tuple[int, ...], strides: tuple[int, ...] = ()) -> tuple[float, float]:
    """Return how many inputs an output of a layer sums, and how many outputs an input goes into.

    Args:
        kind: see `kinds`; of a separable convolution, `"depthwise"` and `"conv"` one after the other.
        shape: of the kernel.
        strides: of a transposed convolution, whose outputs see the fewer of the kernel's entries the larger they are.
    """
    if kind == DENSE:
        return shape[0], shape[1]
    if kind == CONV:
        size = math.prod(shape[:-2])
        return size * shape[-2], size * shape[-1]
    size = math.prod(shape[:-2])
    if kind == DEPTHWISE:
        return size, size * shape[-1]
    if kind == TRANSPOSE:
        return size * shape[-1] / math.prod(strides), size * shape[-2]
    raise ValueError(kind)


def he_normal(generator: np.random.Generator, shape: tuple[int, ...], fan_in: float, gain: float = 2.0) -> np.ndarray:
    """Draw from a normal distribution of variance `gain / fan_in`, cut off at two standard deviations."""
    drawn = generator.standard_normal(shape)
    while (outside := np.abs(drawn) > _CUT).any():
        drawn[outside] = generator.standard_normal(int(outside.sum()))
    return drawn * (math.sqrt(gain / fan_in) / _TRUNCATED_STD)


def glorot_uniform(generator: np.random.Generator, shape: tuple[int, ...], fan_in: float, fan_out: float) -> np.ndarray:
    """Draw evenly within `+-sqrt(6 / (fan_in + fan_out))`, of variance `2 / (fan_in + fan_out)`."""
    limit = math.sqrt(6.0 / (fan_in + fan_out))
    return generator.uniform(-limit, limit, shape)


def orthogonal(
    generator: np.random.Generator, shape: tuple[int, ...], kind: str = DENSE, groups: int = 1
) -> np.ndarray:
    """Draw a kernel that, as a matrix of `shape[-1]` columns, has orthonormal columns, or rows if they are fewer.

    Channels of a depthwise kernel, and groups of a grouped one, take nothing from each other: each has a matrix.

    Args:
        generator: of the numbers.
        shape: of the kernel.
        kind: as in `fans`.
        groups: of the layer.
    """
    if kind == DEPTHWISE:
        each = [_orthogonal(generator, (*shape[:-2], shape[-1])) for _ in range(shape[-2])]
        return np.stack(each, axis=-2)
    return np.concatenate([_orthogonal(generator, (*shape[:-1], shape[-1] // groups)) for _ in range(groups)], axis=-1)


def _orthogonal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    rows, columns = math.prod(shape[:-1]), shape[-1]
    square, triangle = np.linalg.qr(generator.standard_normal((max(rows, columns), min(rows, columns))))
    # The signs make it uniform over all orthogonal matrices (Mezzadri, 2007).
    square = square * np.where(np.diag(triangle) < 0, -1.0, 1.0)
    return (square if rows >= columns else square.T).reshape(shape)


def fixup_scale(branches: int, layers: int) -> float:
    """Return the factor of the inner layers of a residual branch.

    Formula: `branches ** (-1 / (2 * layers - 2))`, so that an update of the weights changes the sum of all branches as
    much as it would change one.

    Args:
        branches: residual branches of the model.
        layers: kernels in this one, at least 2; the last is set to zero and none of the inner ones.

    Source: Zhang, Dauphin, Ma, "Fixup Initialization", 2019.
    """
    return float(branches ** (-1.0 / (2 * layers - 2)))
