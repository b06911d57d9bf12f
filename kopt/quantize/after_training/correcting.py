"""Techniques for what rounding does to weights: outliers clipped, and the mean error taken out of the bias."""

from typing import Any

import numpy as np
import tensorflow as tf

from kopt.quantize import grids
from kopt.quantize.after_training.bench import Bench, Pair
from kopt.quantize.after_training.techniques import Done
from kopt.quantize.weights import QuantizedWeights

# Shares of the largest weight of a channel that are tried as the end of its grid.
_SHARES = np.linspace(1.0, 0.3, 71)


def clip(bench: Bench) -> Done:
    """Clip the weights of every channel where its grid then has the least squared error."""
    changed = {}
    for layer in bench.layers:
        kernel, bias = bench.state.weights[layer.name]
        if layer.has_codebooks:
            continue
        clipped = clipped_kernel(kernel, layer.channels, layer.bits)
        if not np.array_equal(clipped, kernel):
            changed[layer.name] = clipped, bias
    if not changed:
        return Done(0, "no channel has a weight far out")
    bench.change(changed, exact=False)
    return Done(len(changed), f"weights of {len(changed)} kernel(s) clipped")


def clipped_kernel(kernel: np.ndarray, axes: tuple[int, ...], bits: int) -> np.ndarray:
    """Return the kernel with every output channel cut where the squared error of its grid is least.

    Args:
        kernel: of a layer.
        axes: that number its output channels.
        bits: of a weight.
    """
    others = tuple(axis for axis in range(kernel.ndim) if axis not in axes)
    largest = np.abs(kernel).max(axis=others, keepdims=True)
    most = 2 ** (bits - 1) - 1
    best, end = np.full(largest.shape, np.inf), largest
    for share in _SHARES:
        step = np.where(largest > 0, share * largest / most, 1.0)
        rounded = np.clip(np.rint(kernel / step), -most, most) * step
        error = np.square(rounded - kernel).sum(axis=others, keepdims=True)
        best, end = np.minimum(best, error), np.where(error < best, share * largest, end)
    return np.asarray(np.clip(kernel, -end, end), kernel.dtype)


def correct_analytically(bench: Bench) -> Done:
    """Take from every bias what the rounding of its kernel adds to the mean output, reckoned from the mean input.

    A kernel is linear, so that its rounding adds to the mean output what the difference of both kernels makes of the
    mean input, borders included. The mean input is measured in float.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2,
    where means come from normalizations, because there are no examples.
    """

    def correction(layer: QuantizedWeights, taken: Pair, step: Any, exact: Any) -> Any:
        mean = tf.reduce_mean(taken.exact, axis=0, keepdims=True)
        kernel = tf.convert_to_tensor(layer.layer.kernel.value)
        rounded = grids.quantize_kernel(kernel, grids.kernel_steps(kernel, layer.channels, layer.bits))
        reference = bench.state.reference[layer.name][0]
        return -layer.product(mean, rounded - reference)

    return _correct(bench, correction)


def correct_empirically(bench: Bench) -> Done:
    """Take from every bias the mean by which its output is off, the layers before it rounded and corrected.

    Source: as `correct_analytically`, appendix D.
    """

    def correction(layer: QuantizedWeights, taken: Pair, step: Any, exact: Any) -> Any:
        return exact - layer(taken.rounded, step=step, training=False)

    return _correct(bench, correction)


def _correct(bench: Bench, correction: Any) -> Done:
    count = 0

    def visit(layer: QuantizedWeights, taken: Pair, step: Any, exact: Any) -> None:
        nonlocal count
        if layer.layer.bias is None:
            return
        bias = layer.layer.bias
        off = correction(layer, taken, step, exact)
        axes = list(range(len(off.shape) - len(bias.shape)))
        bias.assign(bias + tf.reshape(tf.reduce_mean(off, axis=axes), bias.shape))
        count += 1

    bench.layer_by_layer(visit)
    return Done(count, f"biases of {count} layer(s) corrected")
