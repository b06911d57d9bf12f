"""How kernels fill their grids: pure functions of arrays."""

import keras
import numpy as np

from kopt.core.records.changes.quantization_diagnosis import KernelRange
from kopt.quantize.diagnosis.signals import spread
from kopt.quantize.weights import QuantizedWeights

# What a bias of an integer operator can hold.
_LARGEST_BIAS = 2**31 - 1


def kernel_range(weights: QuantizedWeights, input_step: float | None) -> KernelRange:
    """Return how the kernel of a layer fills its grids.

    Args:
        weights: the layer.
        input_step: of the grid of what it takes; `None` if that is not rounded, so that there is no grid of biases.
    """
    kernel, bias = (np.asarray(part) for part in weights.exact_weights())
    axes = weights.channels
    return measured(kernel, bias, axes, input_axes(weights.layer, kernel.ndim, axes), weights.bits, input_step)


def measured(
    kernel: np.ndarray,
    bias: np.ndarray,
    channels: tuple[int, ...],
    inputs: tuple[int, ...],
    bits: int,
    input_step: float | None,
) -> KernelRange:
    """Return how a kernel fills its grids, one for each output channel, symmetric.

    Args:
        kernel: float.
        bias: one for each output channel.
        channels: axes that number the output channels.
        inputs: axes that number the input channels.
        bits: of a weight.
        input_step: see `kernel_range`.
    """
    widths = _widths(kernel, channels)
    largest = 2 ** (bits - 1) - 1
    steps = np.where(widths > 0, widths / largest, 1.0)
    others = tuple(axis for axis in range(kernel.ndim) if axis not in channels)
    lost = (np.rint(kernel / np.expand_dims(steps, others)) == 0) & (kernel != 0)
    used = int(np.count_nonzero(kernel))
    outside = int(np.count_nonzero(~np.isfinite(kernel)))
    if input_step is not None:
        outside += int(np.count_nonzero(np.abs(bias.ravel() / (input_step * steps.ravel())) > _LARGEST_BIAS))
    return KernelRange(
        weights=kernel.size,
        bits=bits,
        spread=spread(widths.ravel()),
        input_spread=spread(_widths(kernel, inputs).ravel()) if inputs else 1.0,
        lost=float(np.count_nonzero(lost)) / used if used else 0.0,
        outside=outside,
    )


def input_axes(layer: keras.layers.Layer, rank: int, channels: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes of a kernel that number input channels: neither output channels nor places."""
    places = 0 if isinstance(layer, keras.layers.EinsumDense) else max(rank - 2, 0)
    return tuple(axis for axis in range(places, rank) if axis not in channels)


def _widths(kernel: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return the largest magnitude for every index along `axes`."""
    return np.abs(kernel).max(tuple(axis for axis in range(kernel.ndim) if axis not in axes))
