"""How much a channel matters: pure functions of arrays.

`rows` is a weight as a matrix: one row a channel, with all numbers that make it (a filter of a convolution, a column of
a dense kernel). The larger the score, the more the channel matters.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32] | npt.NDArray[np.float64]


def l1(rows: Array) -> Array:
    """Return `sum |w|` of every row.

    Source: Li et al., "Pruning filters for efficient ConvNets", 2017.
    """
    return np.abs(rows).sum(axis=1)


def l2(rows: Array) -> Array:
    """Return `sqrt(sum w^2)` of every row.

    Source: He et al., "Soft filter pruning", 2018.
    """
    return np.sqrt(np.square(rows).sum(axis=1))


def geometric_median(rows: Array) -> Array:
    """Return `sum_j |w_i - w_j|` of every row `i`: small for a row in the midst of others, which can stand for it.

    Source: He et al., "Filter pruning via geometric median", 2019, equation 4.
    """
    squares = np.square(rows).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * (rows @ rows.T)
    np.fill_diagonal(distances, 0)
    return np.sqrt(np.maximum(distances, 0)).sum(axis=1)


def lamp(rows: Array) -> Array:
    """Return `|w_i|^2 / sum |w_j|^2` over the rows `j` that are at least as large: the largest row has 1.

    Scores are comparable between layers as they are, because each is a share of what its layer would have left.

    Source: Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", 2021, equation 3; there for weights,
    here for the norms of rows.
    """
    squares = np.square(rows).sum(axis=1)
    order = np.argsort(squares, kind="stable")
    left = np.cumsum(squares[order][::-1])[::-1]
    scores = np.zeros_like(squares)
    scores[order] = np.divide(squares[order], left, out=np.zeros_like(left), where=left > 0)
    return scores


def taylor(rows: Array, gradients: Array) -> Array:
    """Return `(sum w g)^2` of every row: how much the loss changes, to first order, when the row becomes zero.

    Args:
        rows: weights.
        gradients: of the loss, of the same shape.

    Source: Molchanov et al., "Importance estimation for neural network pruning", 2019, equation 8, by groups of
    weights.
    """
    return np.square((rows * gradients).sum(axis=1))


def gradient(rows: Array, gradients: Array) -> Array:
    """Return `sqrt(sum g^2)` of every row: how steeply the loss depends on it, whatever its weights are.

    Args:
        rows: weights, which do not count.
        gradients: of the loss, of the same shape.

    Source: Liu and Wu, "Channel pruning based on mean gradient for accelerating convolutional neural networks", 2019;
    there for feature maps, here for weights.
    """
    return np.sqrt(np.square(gradients).sum(axis=1))


def fisher(rows: Array, gradients: Array) -> Array:
    """Return `sum (w g)^2 / 2` of every row: how much the loss grows, to second order, when the row becomes zero.

    The second derivatives are taken as the diagonal of the empirical Fisher information, the mean of `g^2` over
    examples; so the mean of these scores over the gradients of single examples is `sum w^2 F / 2`. Unlike in `taylor`,
    products of one row do not cancel.

    Args:
        rows: weights.
        gradients: of the loss of one example, of the same shape.

    Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, equation 6; Liu et al.,
    "Group Fisher pruning", 2021; there for feature maps, here for weights.
    """
    return np.square(rows * gradients).sum(axis=1) / 2


def active_share(activations: Array) -> Array:
    """Return the share of positive entries of every column, one minus the average percentage of zeros (APoZ).

    Args:
        activations: `(entries, channels)`, after the activation; it tells something of ReLU and its like only.

    Source: Hu et al., "Network trimming", 2016, equation 1.
    """
    return (activations > 0).mean(axis=0)


BY_WEIGHT: dict[str, Callable[[Array], Array]] = {
    "l1": l1,
    "l2": l2,
    "geometric_median": geometric_median,
    "lamp": lamp,
}
BY_GRADIENT: dict[str, Callable[[Array, Array], Array]] = {
    "taylor": taylor,
    "gradient": gradient,
    "fisher": fisher,
}
CRITERIA = (*BY_WEIGHT, "bn_scale", "random", *BY_GRADIENT, "activation")
# Its gradients are those of single examples: the square of a batch's mean gradient is another quantity.
BY_EXAMPLE = ("fisher",)
# Comparable between layers as they are; the others are divided by their mean over the layer.
COMPARABLE = ("lamp", "random", "activation")
