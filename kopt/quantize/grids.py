"""The grids that TFLite's integers stand for, and rounding to them with a gradient that passes straight through.

An integer `q` stands for `scale * (q - zero_point)`. Weights are symmetric and narrow: `zero_point` is 0 and the lowest
integer is not used. Activations of 8 bits are asymmetric; those of 16 bits symmetric.
"""

import dataclasses

import numpy as np
import tensorflow as tf

# Below this width a range holds nothing but noise, and its step would divide by zero.
_LEAST_WIDTH = 1e-6
# Of a tensor that is narrower, and as good as 0: XNNPACK refuses steps far below those of what it is made from.
_WIDTH_OF_ZEROS = 1.0
# A half and what float32 may lose: means of up to a few hundred integers are no nearer to a half unless they are one.
_HALF = 0.5 + 1e-3


@dataclasses.dataclass(frozen=True)
class Grid:
    """An activation's grid, as the file has it.

    Attributes:
        scale: real value of one step.
        zero_point: the integer that stands for 0.0.
        low, high: smallest and largest real value on the grid.
    """

    scale: float
    zero_point: int
    low: float
    high: float


def grid_of(low: float, high: float, bits: int = 8) -> Grid:
    """Return the grid for a range, moved so that 0.0 is on it; the same as `quantize_activations` rounds to.

    Args:
        low: lower end of the range; 0 is taken in.
        high: upper end.
        bits: 8: asymmetric, from -128 to 127; 16: symmetric, from -32767 to 32767.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", 2018, section 2.1 and 3.1; `fake_quant_ops_functor.h` of TensorFlow, whose rounding this is.
    """
    low, high = np.float32(min(low, 0.0)), np.float32(max(high, 0.0))
    high = high if high - low >= _LEAST_WIDTH else low + np.float32(_WIDTH_OF_ZEROS)
    if bits != 8:
        high = max(high, -low)
        low = -high
    lowest, highest = integers(bits)
    scale = (high - low) / np.float32(highest - lowest)
    zero_point = int(np.floor(lowest - low / scale + np.float32(0.5)))
    return Grid(float(scale), zero_point, float(scale * (lowest - zero_point)), float(scale * (highest - zero_point)))


def integers(bits: int) -> tuple[int, int]:
    """Return the smallest and the largest integer of an activation."""
    return (-128, 127) if bits == 8 else (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)


def spread(low: tf.Tensor, high: tf.Tensor, bits: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a range that holds 0 and is not empty, symmetric for 16 bits."""
    low, high = tf.minimum(low, 0.0), tf.maximum(high, 0.0)
    high = tf.where(high - low >= _LEAST_WIDTH, high, low + _WIDTH_OF_ZEROS)
    if bits != 8:
        high = tf.maximum(high, -low)
        low = -high
    return low, high


def step_of(low: tf.Tensor, high: tf.Tensor, bits: int) -> tf.Tensor:
    """Return the real value of one step of the grid for a range."""
    low, high = spread(low, high, bits)
    lowest, highest = integers(bits)
    return (high - low) / float(highest - lowest)


def quantize_activations(x: tf.Tensor, low: tf.Tensor, high: tf.Tensor, bits: int = 8) -> tf.Tensor:
    """Return `x` rounded to the grid for a range, with a gradient inside the range only.

    Args:
        x: float32.
        low: lower end of the range, a scalar.
        high: upper end.
        bits: 8 or 16.
    """
    low, high = spread(low, high, bits)
    return tf.quantization.fake_quant_with_min_max_vars(x, low, high, num_bits=bits, narrow_range=bits != 8)


def quantize_means(x: tf.Tensor, low: tf.Tensor, high: tf.Tensor, bits: int, ties: str) -> tf.Tensor:
    """Return means of values on a grid rounded to that grid, as pooling and resizing round their many ties.

    Args:
        x: float32, inside the range.
        low: lower end of the range, a scalar.
        high: upper end.
        bits: 8 or 16.
        ties: `"away"`: an integer and a half goes away from the integer 0, as in AVERAGE_POOL_2D; `"up"`: to the next
            larger one, as in RESIZE_BILINEAR.

    Source: `average_pool` in `tensorflow/lite/kernels/internal/reference/integer_ops/pooling.h`.
    """
    low, high = spread(low, high, bits)
    lowest, highest = integers(bits)
    step = (high - low) / float(highest - lowest)
    zero_point = tf.floor(lowest - low / step + 0.5)
    integer = x / step + zero_point
    sign = tf.sign(integer) if ties == "away" else 1.0
    integer = sign * tf.floor(sign * integer + _HALF)
    return x + tf.stop_gradient((integer - zero_point) * step - x)


def quantize_with_learned_range(x: tf.Tensor, low: tf.Tensor, high: tf.Tensor, bits: int = 8) -> tf.Tensor:
    """Return `x` rounded to the grid for a range, with the gradients of learned step sizes for `low` and `high`.

    Rounding passes gradients through, so that the step gets `round(x / step) - x / step` where `x` is inside the range
    and its end where it is outside; they are scaled by `1 / sqrt(entries * integers)`.

    Source: Esser et al., "Learned Step Size Quantization", 2020, equations 3 and 5; Bhalgat et al., "LSQ+", 2020.
    """
    lowest, highest = integers(bits)
    share = tf.math.rsqrt(tf.cast(tf.size(x), tf.float32) * float(highest))
    low, high = spread(_scaled_gradient(low, share), _scaled_gradient(high, share), bits)
    step = (high - low) / float(highest - lowest)
    zero_point = _rounded(lowest - low / step)
    q = tf.clip_by_value(_rounded(x / step) + zero_point, float(lowest), float(highest))
    return (q - zero_point) * step


def kernel_steps(kernel: tf.Tensor, axes: tuple[int, ...], bits: int | tf.Tensor = 8) -> tf.Tensor:
    """Return the step of every output channel, with all axes of the kernel kept; that of an empty channel is 1.

    Args:
        kernel: float32.
        axes: that number the output channels.
        bits: of a weight, 2 to 8; a number or a scalar.
    """
    others = [axis for axis in range(len(kernel.shape)) if axis not in axes]
    largest = tf.reduce_max(tf.abs(kernel), others, keepdims=True)
    return tf.stop_gradient(tf.where(largest > 0, largest / _largest_weight(bits), 1.0))


def _largest_weight(bits: int | tf.Tensor) -> float | tf.Tensor:
    if isinstance(bits, int):
        return float(2 ** (bits - 1) - 1)
    return tf.cast(tf.bitwise.left_shift(1, bits - 1) - 1, tf.float32)


def quantize_kernel(kernel: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    """Return the kernel rounded to its grid; the gradient passes through."""
    return kernel + tf.stop_gradient(tf.round(kernel / steps) * steps - kernel)


def quantize_bias(bias: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """Return the bias rounded to the grid of the accumulator: 32 bits, steps of input times steps of weights."""
    return bias + tf.stop_gradient(tf.round(bias / step) * step - bias)


def _rounded(x: tf.Tensor) -> tf.Tensor:
    return x + tf.stop_gradient(tf.round(x) - x)


def _scaled_gradient(x: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    return x * share + tf.stop_gradient(x * (1.0 - share))
