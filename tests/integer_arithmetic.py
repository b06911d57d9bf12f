"""TFLite's integer arithmetic in NumPy, written after its reference kernels and gemmlowp's fixed-point functions."""

import math

import numpy as np


def quantized(x, grid):
    """Return the int8 integers that stand for `x` on a `Grid`: rounded, half away from zero, and clamped."""
    steps = np.asarray(x, np.float64) / grid.scale
    return np.clip(np.trunc(steps + np.copysign(0.5, steps)) + grid.zero_point, -128, 127).astype(np.int64)


def multiplier(real):
    """Return a factor as a 31-bit mantissa and an exponent: `QuantizeMultiplier`."""
    fraction, shift = math.frexp(real)
    mantissa = round(fraction * 2**31)
    return (mantissa // 2, shift + 1) if mantissa == 2**31 else (mantissa, shift)


def scaled(accumulator, real):
    """Return `accumulator * real` in integers: `MultiplyByQuantizedMultiplier` with one rounding.

    This is TFLITE_SINGLE_ROUNDING, and what XNNPACK computes but for ties. The default of the reference kernels rounds
    twice, first to 31 bits and then to the result, by which 52.4996 can become 53.
    """
    mantissa, shift = multiplier(real)
    total = 31 - shift
    return (accumulator.astype(np.int64) * mantissa + (1 << (total - 1))) >> total


def scaled_twice(accumulator, real):
    """Return `accumulator * real` as the built-in kernels do: rounded to 31 bits, then to the result.

    `SaturatingRoundingDoublingHighMul` and `RoundingDivideByPOT` of gemmlowp; for factors below 1.
    """
    mantissa, shift = multiplier(real)
    product = accumulator.astype(np.int64) * mantissa
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = np.trunc((product + nudge) / 2.0**31).astype(np.int64)
    right = -shift
    remainder, threshold = high & ((1 << right) - 1), ((1 << right) - 1) // 2 + (high < 0)
    return (high >> right) + (remainder > threshold)


def kernel_integers(kernel, axes):
    """Return the int8 weights and the scale of every output channel: symmetric, -127 to 127."""
    others = tuple(axis for axis in range(kernel.ndim) if axis not in axes)
    scales = np.abs(kernel).max(others, keepdims=True).astype(np.float64) / 127
    return np.rint(kernel / scales).astype(np.int64), scales


def dense(x, kernel, bias, taken, given, relu=False):
    """Return the int8 output of FULLY_CONNECTED.

    Args:
        x: (batch, in) int8 integers on the grid `taken`.
        kernel: (in, out) float.
        bias: (out,) float, which becomes int32.
        taken: grid of the input.
        given: grid of the output.
        relu: whether the operator ends with RELU.
    """
    weights, scales = kernel_integers(kernel, (1,))
    steps = taken.scale * scales[0]
    accumulators = (x - taken.zero_point) @ weights + np.rint(bias / steps).astype(np.int64)
    columns = [scaled(accumulators[:, n], steps[n] / given.scale) for n in range(kernel.shape[1])]
    lowest = given.zero_point if relu else -128
    return np.clip(np.stack(columns, 1) + given.zero_point, lowest, 127)


def depthwise(x, kernel, bias, taken, given):
    """Return the int8 output of DEPTHWISE_CONV_2D, stride 1, no padding, one kernel a channel.

    Args:
        x: (height, width, channels) int8 integers.
        kernel: (rows, columns, channels, 1) float, with a scale for each channel.
        bias: (channels,) float.
        taken: grid of the input.
        given: grid of the output.
    """
    weights, scales = kernel_integers(kernel, (2, 3))
    steps = taken.scale * scales.reshape(-1)
    rows, columns = kernel.shape[:2]
    height, width = x.shape[0] - rows + 1, x.shape[1] - columns + 1
    windows = sum(
        (x[r : r + height, c : c + width] - taken.zero_point) * weights[r, c, :, 0]
        for r in range(rows)
        for c in range(columns)
    )
    accumulators = windows + np.rint(bias / steps).astype(np.int64)
    made = [scaled(accumulators[..., n], steps[n] / given.scale) for n in range(len(bias))]
    return np.clip(np.stack(made, -1) + given.zero_point, -128, 127)


def add(a, b, first, second, given):
    """Return the int8 output of ADD: both inputs 20 bits up, on the grid of twice the larger scale, and down again."""
    twice = 2 * max(first.scale, second.scale)
    left = [scaled((x - grid.zero_point) << 20, grid.scale / twice) for x, grid in ((a, first), (b, second))]
    return np.clip(scaled(left[0] + left[1], twice / (2**20 * given.scale)) + given.zero_point, -128, 127)


def average(x):
    """Return the int8 output of AVERAGE_POOL_2D over 2 x 2: the sum over the count, rounded half away from zero."""
    height, width, channels = x.shape
    sums = x.reshape(height // 2, 2, width // 2, 2, channels).sum((1, 3))
    return np.where(sums >= 0, (sums + 2) // 4, -((2 - sums) // 4))
