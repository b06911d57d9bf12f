"""Batch normalization as part of the weights beside it: functions of arrays.

Inference computes `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta` channel by channel, which is
`y = scale * x + shift`; a convolution is linear, so that both become one.
"""

import numpy as np

from kopt.restructure.kinds import DEPTHWISE, SEPARABLE, TRANSPOSE


def scale_and_shift(
    gamma: np.ndarray | None, beta: np.ndarray | None, mean: np.ndarray, variance: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return `scale` and `shift`, each of the shape of `mean` (channels), with `y = scale * x + shift`."""
    scale = 1.0 / np.sqrt(variance + epsilon)
    if gamma is not None:
        scale = scale * gamma
    shift = -mean * scale
    return scale, shift if beta is None else shift + beta


def fold_after(
    kind: str, weights: dict[str, np.ndarray], scale: np.ndarray, shift: np.ndarray
) -> dict[str, np.ndarray]:
    """Return weights of `scale * layer(x) + shift`.

    Args:
        kind: of the layer, see `kinds`.
        weights: in Keras' layouts, with `"bias"`.
        scale: of the layer's output channels.
        shift: of the same.
    """
    folded = dict(weights)
    if kind == SEPARABLE:
        folded["pointwise_kernel"] = weights["pointwise_kernel"] * scale
    elif kind == DEPTHWISE:
        folded["kernel"] = weights["kernel"] * scale.reshape(weights["kernel"].shape[-2:])
    elif kind == TRANSPOSE:
        folded["kernel"] = weights["kernel"] * scale[:, None]
    else:
        folded["kernel"] = weights["kernel"] * scale
    folded["bias"] = weights["bias"] * scale + shift
    return folded


def fold_before(
    kind: str, weights: dict[str, np.ndarray], scale: np.ndarray, shift: np.ndarray
) -> dict[str, np.ndarray]:
    """Return weights of `layer(scale * x + shift)`.

    Exact where every output sees the whole kernel: no padding with zeros, which would have to become `-shift / scale`.

    Args:
        kind: of the layer, see `kinds`.
        weights: in Keras' layouts, with `"bias"`.
        scale: of the layer's input channels. A grouped convolution is known by its smaller kernel.
        shift: of the same.
    """
    folded = dict(weights)
    if kind == SEPARABLE:
        depthwise, pointwise = weights["depthwise_kernel"], weights["pointwise_kernel"]
        folded["depthwise_kernel"] = depthwise * scale[:, None]
        constant = _over_space(depthwise * shift[:, None], 2).reshape(-1)
        folded["bias"] = weights["bias"] + constant @ pointwise.reshape(constant.size, -1)
    elif kind == DEPTHWISE:
        folded["kernel"] = weights["kernel"] * scale[:, None]
        folded["bias"] = weights["bias"] + _over_space(weights["kernel"] * shift[:, None], 2).reshape(-1)
    elif kind == TRANSPOSE:
        folded["kernel"] = weights["kernel"] * scale
        folded["bias"] = weights["bias"] + _over_space(weights["kernel"] * shift, 2).sum(axis=-1)
    else:
        kernel = weights["kernel"]
        channels = _input_channels(kernel.shape[-2], kernel.shape[-1], scale.size)
        folded["kernel"] = kernel * scale[channels]
        folded["bias"] = weights["bias"] + _over_space(kernel * shift[channels], 1)
    return folded


def _input_channels(a_group: int, outputs: int, inputs: int) -> np.ndarray:
    """Return which input channel each entry of the last two kernel axes reads, for a convolution in groups."""
    groups = inputs // a_group
    return np.arange(a_group)[:, None] + (np.arange(outputs) // (outputs // groups)) * a_group


def _over_space(kernel: np.ndarray, kept: int) -> np.ndarray:
    """Return the sum over all but the last `kept` axes."""
    return kernel.sum(axis=tuple(range(kernel.ndim - kept)))
