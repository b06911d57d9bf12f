"""Rounding learned weight by weight: up or down, whichever gives the layer's own output back best.

Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020, section 3.3.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.quantize import grids
from kopt.quantize.affine import Affine
from kopt.quantize.after_training.bench import Bench, Pair
from kopt.quantize.after_training.techniques import Done
from kopt.quantize.preserved import VALUES
from kopt.quantize.weights import QuantizedWeights

# Ends of the stretched sigmoid (equation 23), so that 0 and 1 are reached.
_LOW, _HIGH = -0.1, 1.1
# Exponent of the regularizer, from its first to its last value, after a first part without the regularizer.
_FIRST_BETA, _LAST_BETA, _WARM_UP = 20.0, 2.0, 0.2
_RATE, _BATCH, _WEIGHT = 3e-2, 32, 1.0
# Of so many examples one is not learned from and says whether what was learned is better.
_JUDGES = 4


def learn_rounding(bench: Bench, iterations: int) -> Done:
    """Learn for every weight whether it is rounded up or down, layer by layer, from inputs that are rounded already.

    A kernel keeps its nearest rounding where that gives its output back better.
    """
    learned = total = 0

    def visit(layer: QuantizedWeights, taken: Pair, step: Any, exact: Any) -> None:
        nonlocal learned, total
        if isinstance(layer.layer, Affine) or layer.preserved == VALUES:
            return
        total += 1
        kernel = layer.layer.kernel.numpy()
        rounded = Rounding(layer, iterations).learned(taken.rounded, exact - _bias(layer))
        layer.layer.kernel.assign(rounded)
        learned += int(not np.array_equal(rounded, kernel))

    bench.layer_by_layer(visit)
    if not total:
        return Done(0, "no kernel sums several products")
    return Done(learned, f"rounding of {learned} of {total} kernel(s) learned")


def stretched_sigmoid(x: tf.Tensor) -> tf.Tensor:
    """Return `clip(sigmoid(x) * (1.1 + 0.1) - 0.1, 0, 1)`: the share by which a weight is rounded up."""
    return tf.clip_by_value(tf.sigmoid(x) * (_HIGH - _LOW) + _LOW, 0.0, 1.0)


def inverse_of_share(share: np.ndarray) -> np.ndarray:
    """Return `x` with `stretched_sigmoid(x) == share`."""
    return np.asarray(-np.log((_HIGH - _LOW) / (share - _LOW) - 1.0), np.float32)


def undecided(share: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
    """Return the mean of `1 - |2 * share - 1| ** beta`: 0 if every share is 0 or 1."""
    return tf.reduce_mean(1.0 - tf.abs(2.0 * share - 1.0) ** beta)


def beta_at(progress: float) -> float:
    """Return the exponent after a share of the iterations, falling along a cosine once the warm-up is over."""
    after = max(0.0, progress - _WARM_UP) / (1.0 - _WARM_UP)
    return _LAST_BETA + (_FIRST_BETA - _LAST_BETA) * 0.5 * (1.0 + float(np.cos(np.pi * after)))


class Rounding:
    """Learns the rounding of one kernel."""

    def __init__(self, layer: QuantizedWeights, iterations: int):
        """Take a layer and how many steps are made."""
        self._layer, self._iterations = layer, iterations
        self._kernel = layer.layer.kernel.numpy()
        self._steps = grids.kernel_steps(tf.convert_to_tensor(self._kernel), layer.channels, layer.bits).numpy()
        self._most = 2 ** (layer.bits - 1) - 1
        integers = self._kernel / self._steps
        self._down = np.floor(integers)
        # Zeros stay zero, and the largest weight of a channel stays at the end of the grid, which it sets.
        fixed = (self._kernel == 0) | (np.abs(integers) > self._most - 0.5)
        self._down = np.where(fixed, np.rint(integers), self._down).astype(np.float32)
        self._free = (~fixed).astype(np.float32)
        self._share = np.clip(integers - self._down, 0.0, 1.0) * self._free

    def learned(self, inputs: Any, wanted: Any) -> np.ndarray:
        """Return the kernel on its grid.

        Args:
            inputs: of the layer, rounded, examples first.
            wanted: output in float without its bias.
        """
        inputs, wanted = tf.convert_to_tensor(inputs), tf.convert_to_tensor(wanted)
        nearest = self._on_grid(np.rint(self._share))
        taught = max(1, len(inputs) - len(inputs) // _JUDGES)
        least = max(self._loss(inputs[:taught], wanted[:taught], nearest), 1e-30)
        found = self._on_grid(np.rint(self._optimized(inputs[:taught], wanted[:taught], least)))
        judged = slice(taught if taught < len(inputs) else 0, None)
        losses = [self._loss(inputs[judged], wanted[judged], kernel) for kernel in (found, nearest)]
        return found if losses[0] < losses[1] else nearest

    def _on_grid(self, up: Any) -> Any:
        return (self._down + up * self._free) * self._steps

    def _loss(self, inputs: Any, wanted: Any, kernel: Any) -> float:
        return float(tf.reduce_mean(tf.square(self._apply(inputs, kernel) - wanted)))

    def _apply(self, inputs: Any, kernel: Any) -> Any:
        return self._layer.kind.apply(self._layer.layer, inputs, tf.cast(kernel, tf.float32))

    def _optimized(self, inputs: tf.Tensor, wanted: tf.Tensor, least: float) -> np.ndarray:
        """Return the shares after all steps; the loss counts in terms of that of the nearest rounding."""
        variable = tf.Variable(inverse_of_share(self._share))
        optimizer = keras.optimizers.Adam(_RATE)
        optimizer.build([variable])

        def step(rows: tf.Tensor, beta: tf.Tensor, weight: tf.Tensor) -> None:
            with tf.GradientTape() as tape:
                share = stretched_sigmoid(variable)
                off = self._apply(tf.gather(inputs, rows), self._on_grid(share)) - tf.gather(wanted, rows)
                loss = tf.reduce_mean(tf.square(off)) / least + weight * undecided(share, beta)
            optimizer.apply([tape.gradient(loss, variable)], [variable])

        compiled = tf.function(step)
        generator, count = np.random.default_rng(0), len(inputs)
        for number in range(self._iterations):
            rows = generator.choice(count, min(_BATCH, count), replace=False)
            progress = number / self._iterations
            weight = _WEIGHT if progress >= _WARM_UP else 0.0
            compiled(tf.constant(rows), tf.constant(beta_at(progress)), tf.constant(weight))
        return np.asarray(stretched_sigmoid(variable))


def _bias(layer: QuantizedWeights) -> Any:
    bias = layer.layer.bias
    return 0.0 if bias is None else tf.convert_to_tensor(bias.value)
