"""Numbers by which channels between two layers are divided in the first and multiplied in the second.

Positive numbers pass through ReLU, pooling and padding with zeros, so that the model computes what it did before.
"""

import numpy as np

# A channel that calibration saw stays below this share of a cap when it is enlarged: other examples may be larger.
_UNDER_CAP = 0.8


def by_weights(made: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Return `sqrt(made / taken)`, which makes both ranges equal to `sqrt(made * taken)`; 1 for a channel without one.

    Args:
        made: largest absolute weight that makes each channel, in the first layer.
        taken: largest absolute weight that takes it, in the second.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, equation 11.
    """
    alive = (made > 0) & (taken > 0)
    return np.where(alive, np.sqrt(np.where(alive, made, 1.0) / np.where(alive, taken, 1.0)), 1.0)


def by_activations(seen: np.ndarray, taken: np.ndarray, alpha: float) -> np.ndarray:
    """Return `seen ** alpha / taken ** (1 - alpha)`: the share `alpha` of the spread of activations goes into weights.

    Args:
        seen: largest absolute value of each channel in calibration.
        taken: largest absolute weight that takes it.
        alpha: 0: weights become equal; 1: activations do.

    Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
    2022, equation 4.
    """
    alive = (seen > 0) & (taken > 0)
    seen, taken = np.where(alive, seen, 1.0), np.where(alive, taken, 1.0)
    return np.where(alive, seen**alpha / taken ** (1.0 - alpha), 1.0)


def under_cap(scales: np.ndarray, seen: np.ndarray, cap: float) -> np.ndarray:
    """Return scales that move no channel into a cap such as that of ReLU6, or out of it.

    A channel that reaches the cap stays as it is; others are enlarged to 80 % of it at most.

    Args:
        scales: by which channels are divided.
        seen: largest value of each channel before the cap, in calibration.
        cap: what the activation lets pass at most.
    """
    return np.where(seen < cap, np.maximum(scales, np.maximum(seen, 0.0) / (_UNDER_CAP * cap)), 1.0)
