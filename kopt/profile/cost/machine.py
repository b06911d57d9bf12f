"""What this machine can do at best: operations and bytes a second, measured with TensorFlow once a process."""

import functools
import time
from collections.abc import Callable

import tensorflow as tf

from kopt.core.records.profiles.cost import MachinePeaks

_SIDE = 1536
_ENTRIES = 24 << 20  # 96 MB in float32: no cache holds it.
_RUNS = 7


@functools.lru_cache(maxsize=1)
def measured_peaks() -> MachinePeaks:
    """Return the peaks in float32 of the device TensorFlow computes on; takes a second the first time.

    Operations: a product of two square matrices, `2 n^3`. Bytes: a sum of two long arrays, which reads two and writes
    one. The fastest of several runs counts, because whatever disturbs one makes it slower.
    """
    device = "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"
    with tf.device(device):
        square, long = tf.random.stateless_uniform((_SIDE, _SIDE), (0, 1)), tf.ones(_ENTRIES)
        product = tf.function(lambda: square @ square, autograph=False)
        total = tf.function(lambda: long + long * 1.0001, autograph=False)
        flops = 2 * _SIDE**3 / _fastest(product)
        # Two operations, not fused: the product reads one array and writes one, the sum reads two and writes one.
        moved = 5 * 4 * _ENTRIES / _fastest(total)
    method = f"fastest of {_RUNS} products of {_SIDE} x {_SIDE} matrices and sums of {4 * _ENTRIES >> 20} MiB arrays"
    return MachinePeaks(flops, moved, "float32", device, method)


def _fastest(run: Callable[[], tf.Tensor]) -> float:
    run()
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        result = run()
        tf.test.experimental.sync_devices()
        times.append(time.perf_counter() - start)
        del result
    return min(times)
