"""Scaling and shifting channels in kernels and biases: functions of arrays."""

import numpy as np


def largest_made(kernel: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return the largest absolute weight of every output channel.

    Args:
        kernel: of a layer.
        axes: that number its output channels, next to each other.
    """
    others = tuple(axis for axis in range(kernel.ndim) if axis not in axes)
    return np.abs(kernel).max(axis=others).reshape(-1)


def largest_taken(kernel: np.ndarray, axis: int, inputs: int, channels: int) -> np.ndarray:
    """Return the largest absolute weight that takes every channel.

    Args:
        kernel: of a layer.
        axis: that numbers its input channels, or those of a group.
        inputs: how many channels its input has; more than the axis is long if the layer computes in groups.
        channels: how many different ones these are, which repeat behind a Flatten.
    """
    weights = np.abs(_by_group(kernel, axis, inputs))
    # Groups first, then the channels of a group.
    taken = weights.max(axis=tuple(range(2, weights.ndim))).reshape(-1)
    return taken.reshape(-1, channels).max(axis=0)


def divided(kernel: np.ndarray, axes: tuple[int, ...], scales: np.ndarray) -> np.ndarray:
    """Return the kernel with every output channel divided by its scale."""
    shape = [size if axis in axes else 1 for axis, size in enumerate(kernel.shape)]
    return kernel / scales.reshape(shape).astype(kernel.dtype)


def multiplied(kernel: np.ndarray, axis: int, inputs: int, scales: np.ndarray) -> np.ndarray:
    """Return the kernel with the weights that take a channel multiplied by its scale; arguments as above."""
    every = np.tile(scales, inputs // len(scales))
    grouped = _by_group(kernel, axis, inputs)
    scaled = grouped * every.reshape(*grouped.shape[:2], *[1] * (grouped.ndim - 2)).astype(kernel.dtype)
    return _from_groups(scaled, axis, kernel.shape)


def _by_group(kernel: np.ndarray, axis: int, inputs: int) -> np.ndarray:
    """Return the kernel as (groups, channels of a group, outputs of a group, ...)."""
    a_group = kernel.shape[axis]
    groups = inputs // a_group
    if groups == 1:
        return np.moveaxis(kernel, axis, 0)[None]
    # Only convolutions have groups: (..., inputs of a group, outputs), and a group's outputs lie together.
    split = kernel.reshape(*kernel.shape[:-1], groups, kernel.shape[-1] // groups)
    return np.moveaxis(split, (-2, -3), (0, 1))


def _from_groups(grouped: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    if len(grouped) == 1:
        return np.moveaxis(grouped[0], 0, axis)
    return np.moveaxis(grouped, (0, 1), (-2, -3)).reshape(shape)
