"""Perturbed kernels: pure functions of arrays."""

import dataclasses

import numpy as np

from kopt.core.records.profiles.sensitivity import Perturbation


@dataclasses.dataclass(frozen=True)
class Granularity:
    """Which weights of a kernel share one scale when it is quantized.

    Attributes:
        axes: those along which every index has a scale of its own; none: one scale for the whole kernel.
        gates: equal parts of the last axis that have scales of their own, as the gates of an LSTM.
    """

    axes: tuple[int, ...] = ()
    gates: int = 1


def perturb(kernel: np.ndarray, perturbation: Perturbation, granularity: Granularity, seed: list[int]) -> np.ndarray:
    """Return the kernel as `perturbation` leaves it, in its dtype.

    Args:
        kernel: floating-point array of any shape.
        perturbation: what to do; `"removed"` gives zeros.
        granularity: for quantization.
        seed: of the noise, as for `numpy.random.default_rng`.
    """
    if perturbation.kind == "noise":
        return add_noise(kernel, perturbation.amount, seed)
    if perturbation.kind == "quantized":
        return fake_quantize(kernel, int(perturbation.amount), granularity)
    if perturbation.kind == "pruned":
        return prune_smallest(kernel, perturbation.amount)
    return np.zeros_like(kernel)


def add_noise(kernel: np.ndarray, relative: float, seed: list[int]) -> np.ndarray:
    """Return `w + relative * rms(w) * n` with `n` from a standard normal distribution.

    The relative size of the change, `||dw|| / ||w||`, is about `relative` whatever the layer.
    """
    values = kernel.astype(np.float64)
    noise = np.random.default_rng(seed).standard_normal(kernel.shape)
    return (values + relative * np.sqrt(np.mean(values**2)) * noise).astype(kernel.dtype)


def fake_quantize(kernel: np.ndarray, bits: int, granularity: Granularity) -> np.ndarray:
    """Return the kernel rounded to symmetric integers and back.

    Formula: `s = max|w| / (2^(bits-1) - 1)` over the weights that share a scale, `w -> s * round(w / s)`. The integers
    reach from `-(2^(bits-1) - 1)` to `2^(bits-1) - 1`: for 8 bits -127 to 127, as TFLite stores weights. Biases, which
    it stores in 32 bits, are not changed, nor are activations.

    Source: https://ai.google.dev/edge/litert/models/quantization_spec
    """
    values = kernel.astype(np.float32)
    shape = values.shape
    keep = {axis % values.ndim for axis in granularity.axes}
    if granularity.gates > 1:
        values = values.reshape(*shape[:-1], granularity.gates, shape[-1] // granularity.gates)
        keep = {values.ndim - 2}
    others = tuple(axis for axis in range(values.ndim) if axis not in keep)
    scales = np.max(np.abs(values), axis=others, keepdims=True) / np.float32(2 ** (bits - 1) - 1)
    scales = np.where(scales > 0, scales, np.float32(1))
    return (np.rint(values / scales) * scales).reshape(shape).astype(kernel.dtype)


def prune_smallest(kernel: np.ndarray, sparsity: float) -> np.ndarray:
    """Return the kernel with the `round(sparsity * size)` smallest magnitudes set to zero; of equal ones the first.

    Source: Han et al. 2015, https://arxiv.org/abs/1506.02626 (magnitude pruning, one threshold a kernel).
    """
    order = np.argsort(np.abs(kernel), axis=None, kind="stable")
    pruned = kernel.copy().reshape(-1)
    pruned[order[: round(sparsity * kernel.size)]] = 0
    return pruned.reshape(kernel.shape)
