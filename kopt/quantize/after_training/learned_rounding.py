"""Rounding learned weight by weight: up or down, whichever gives the output of a layer or a block back best.

Sources: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020, section 3.3; Li et al.,
"BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", 2021, section 3.2.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.graph.running import infer
from kopt.quantize import grids
from kopt.quantize.affine import Affine
from kopt.quantize.after_training.bench import Bench, Pair
from kopt.quantize.after_training.blocks import Block
from kopt.quantize.after_training.techniques import Done
from kopt.quantize.weights import QuantizedWeights

# Ends of the stretched sigmoid (equation 23), so that 0 and 1 are reached.
_LOW, _HIGH = -0.1, 1.1
# Exponent of the regularizer, from its first to its last value, after a first part without the regularizer.
_FIRST_BETA, _LAST_BETA, _WARM_UP = 20.0, 2.0, 0.2
_RATE, _BATCH, _WEIGHT = 3e-2, 32, 10.0
# Of so many examples one is not learned from and says whether what was learned is better.
_JUDGES = 4
_NO_KERNEL = "no kernel sums products of weights that may change one by one"
# By the names of layers; and from rows of the examples and such kernels to outputs.
Kernels = Mapping[str, Any]
Compute = Callable[[Any, Kernels], Sequence[Any]]


def learn_rounding(bench: Bench, iterations: int) -> Done:
    """Learn for every weight whether it is rounded up or down, layer by layer, from inputs that are rounded already.

    A kernel keeps its nearest rounding where that gives its output back better.
    """
    learned = total = 0

    def visit(layer: QuantizedWeights, taken: Pair, step: Any, exact: Any) -> None:
        nonlocal learned, total
        if not _can_belearn(layer):
            return
        total += 1

        def compute(rows: Any, kernels: Kernels) -> list[Any]:
            return [layer.product(_rows_of(taken.rounded, rows), kernels[layer.name])]

        learned += learn([layer], compute, [exact - _bias(layer)], iterations)

    bench.layer_by_layer(visit)
    if not total:
        return Done(0, _NO_KERNEL)
    return Done(learned, f"rounding of {learned} of {total} kernel(s) learned")


def reconstruct(bench: Bench, iterations: int) -> Done:
    """Learn the same block by block: the kernels of a block together, with the rounding of the activations inside.

    The kernels of a block keep their nearest rounding where that gives its output back better.
    """
    blocks = learned = total = 0

    def visit(block: Block, taken: Mapping[int, Any], exact: Mapping[int, Any]) -> None:
        nonlocal blocks, learned, total
        layers = [layer for layer in block.layers if _can_belearn(layer)]
        if not layers:
            return
        blocks, total = blocks + 1, total + len(layers)

        def compute(rows: Any, kernels: Kernels) -> list[Any]:
            def called(operation: Any, args: Any, kwargs: Any) -> Any:
                if not isinstance(operation, QuantizedWeights):
                    return infer(operation, args, kwargs)
                kernel, bias = operation.rounded_weights(kwargs.get("step"))
                return operation.apply(args[0], kernels.get(operation.name, kernel), bias)

            some = {key: _rows_of(value, rows) for key, value in taken.items()}
            return list(block.run(some, called).values())

        learned += learn(layers, compute, list(exact.values()), iterations * len(layers))

    bench.block_by_block(visit)
    if not total:
        return Done(0, _NO_KERNEL)
    return Done(learned, f"rounding of {learned} of {total} kernel(s) learned in {blocks} block(s)")


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
    """What can be rounded up or down in one kernel.

    Attributes:
        share: by which each weight is above the lower integer, shape of the kernel.
    """

    def __init__(self, layer: QuantizedWeights):
        """Take a layer with the kernel that it has."""
        kernel = layer.layer.kernel.numpy()
        self._steps = grids.kernel_steps(tf.convert_to_tensor(kernel), layer.channels, layer.bits).numpy()
        most = 2 ** (layer.bits - 1) - 1
        integers = kernel / self._steps
        # Zeros stay zero, and the largest weight of a channel stays at the end of the grid, which it sets.
        fixed = (kernel == 0) | (np.abs(integers) > most - 0.5)
        self._down = np.where(fixed, np.rint(integers), np.floor(integers)).astype(np.float32)
        self._free = (~fixed).astype(np.float32)
        self.share = np.clip(integers - self._down, 0.0, 1.0) * self._free

    def on_grid(self, up: Any) -> Any:
        """Return the kernel whose weights are rounded up by this share of a step."""
        return tf.cast((self._down + up * self._free) * self._steps, tf.float32)


def learn(layers: Sequence[QuantizedWeights], compute: Compute, wanted: Sequence[Any], iterations: int) -> int:
    """Give layers the kernels on their grids that give an output back best, and return how many are other ones.

    Args:
        layers: whose kernels are learned together.
        compute: from some rows and kernels, by the names of layers, to outputs.
        wanted: outputs in float.
        iterations: steps that are made.
    """
    roundings = {layer.name: Rounding(layer) for layer in layers}
    wanted = [tf.convert_to_tensor(one) for one in wanted]
    count = len(wanted[0])
    taught = max(1, count - count // _JUDGES)

    def loss(rows: Any, kernels: Kernels) -> Any:
        pairs = zip(compute(rows, kernels), wanted, strict=True)
        return tf.add_n([tf.reduce_mean(tf.square(found - tf.gather(right, rows))) for found, right in pairs])

    def nearest(shares: Mapping[str, Any]) -> dict[str, Any]:
        return {name: one.on_grid(np.rint(shares[name])) for name, one in roundings.items()}

    plain = nearest({name: one.share for name, one in roundings.items()})
    least = max(float(loss(tf.range(taught), plain)), 1e-30)
    found = nearest(_optimized(roundings, lambda rows, kernels: loss(rows, kernels) / least, taught, iterations))
    judges = tf.range(taught if taught < count else 0, count)
    kernels = found if loss(judges, found) < loss(judges, plain) else plain
    for layer in layers:
        layer.layer.kernel.assign(kernels[layer.name])
    return sum(not np.array_equal(kernels[name], plain[name]) for name in roundings)


def _optimized(
    roundings: Mapping[str, Rounding], loss: Callable[[Any, Kernels], Any], count: int, iterations: int
) -> dict[str, np.ndarray]:
    """Return the shares after all steps; the loss counts in terms of that of the nearest rounding."""
    variables = {name: tf.Variable(inverse_of_share(one.share)) for name, one in roundings.items()}
    optimizer = keras.optimizers.Adam(_RATE)
    optimizer.build(list(variables.values()))

    def step(rows: tf.Tensor, beta: tf.Tensor, weight: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            shares = {name: stretched_sigmoid(one) for name, one in variables.items()}
            off = loss(rows, {name: roundings[name].on_grid(share) for name, share in shares.items()})
            total = off + weight * tf.add_n([undecided(share, beta) for share in shares.values()]) / len(shares)
        gradients = tape.gradient(total, list(variables.values()))
        optimizer.apply(gradients, list(variables.values()))

    compiled = tf.function(step)
    generator = np.random.default_rng(0)
    for number in range(iterations):
        rows = generator.choice(count, min(_BATCH, count), replace=False)
        progress = number / iterations
        weight = _WEIGHT if progress >= _WARM_UP else 0.0
        compiled(tf.constant(rows), tf.constant(beta_at(progress)), tf.constant(weight))
    return {name: np.asarray(stretched_sigmoid(one)) for name, one in variables.items()}


def _can_belearn(layer: QuantizedWeights) -> bool:
    return not isinstance(layer.layer, Affine) and not layer.has_codebooks


def _rows_of(value: Any, rows: Any) -> Any:
    return tf.gather(tf.convert_to_tensor(value), rows)


def _bias(layer: QuantizedWeights) -> Any:
    bias = layer.layer.bias
    return 0.0 if bias is None else tf.convert_to_tensor(bias.value)
