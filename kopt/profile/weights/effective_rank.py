"""The effective rank of a kernel: exact for small matrices, estimated with random vectors for large ones."""

import math

import numpy as np

from kopt.core.records.profiles.parameters import EffectiveRank
from kopt.profile.weights.channels import pieces

ESTIMATE = "stochastic Lanczos quadrature"
_PROBES = 8
_STEPS = 100


def effective_rank(matrix: np.ndarray, exact_side: int, rng: np.random.Generator) -> EffectiveRank:
    """Return the exponential of the entropy of the normalized singular values.

    Formula: `exp(-sum p_i log p_i)` with `p_i = s_i / sum s`. It is the rank if all singular values that are not zero
    are equal, and less otherwise; unlike the rank it needs no threshold.

    Args:
        matrix: inputs x output channels, finite.
        exact_side: largest smaller side for which all singular values are worked out.
        rng: draws the random vectors of an estimate.

    Source: Roy and Vetterli 2007, The Effective Rank: A Measure of Effective Dimensionality, EUSIPCO.
    """
    rows, columns = matrix.shape
    full = min(rows, columns)
    if full <= exact_side:
        return EffectiveRank(rank_from_singular_values(singular_values(matrix)), full, rows, columns, "exact")
    value, error = estimated_rank(matrix, rng)
    return EffectiveRank(value, full, rows, columns, ESTIMATE, error)


def rank_from_singular_values(values: np.ndarray) -> float:
    """Return the exponential of the entropy of singular values that need not be normalized."""
    total = values.sum()
    if not total:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """Return the singular values, from the eigenvalues of the smaller Gram matrix.

    That matrix is summed up in float64 from pieces, so that a tall matrix needs no copy. Singular values below 1e-8 of
    the largest are lost in rounding, and those count nothing.
    """
    rows, columns = matrix.shape
    if rows < columns:
        matrix = matrix.T
    side = min(rows, columns)
    gram = np.zeros((side, side))
    step = max(1, (1 << 20) // max(side, 1))
    for start in range(0, matrix.shape[0], step):
        part = matrix[start : start + step].astype(np.float64)
        gram += part.T @ part
    eigenvalues = np.linalg.eigvalsh(gram)
    largest = eigenvalues[-1] if side else 0.0
    return np.sqrt(np.where(eigenvalues > 1e-15 * side * largest, eigenvalues, 0.0))


def estimated_rank(matrix: np.ndarray, rng: np.random.Generator, probes: int = _PROBES) -> tuple[float, float]:
    """Return an estimate of the effective rank and its standard error.

    The logarithm of the rank is `log S - T / S` with `S = sum s_i` and `T = sum s_i log s_i`, both traces of a function
    of the Gram matrix. A trace is the mean of `v' f(A'A) v` over random vectors v, times the side. Each of those is a
    quadrature whose nodes are the singular values of the small bidiagonal matrix that Golub and Kahan's process makes
    of A and v. The error is that of the mean over the vectors. That of the quadrature comes on top; it matters where
    singular values fall steeply: exp(-i / 50) for i up to 800 has the rank 132 and is read 7 % higher.

    Source: Ubaru, Chen and Saad 2017, Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature, SIAM J. Matrix
    Anal. Appl. 38(4).
    """
    matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float32)  # Matrix products know these two.
    peak = max((float(np.abs(piece).max()) for _, _, piece in pieces(matrix)), default=0.0)
    if not peak:
        return 0.0, 0.0
    nodes, weights = _quadratures(matrix, peak, rng, probes)
    logarithms = np.log(np.where(nodes > 0, nodes, 1.0))
    sums, entropies = (weights * nodes).sum(axis=1), (weights * nodes * logarithms).sum(axis=1)
    side, total, product = matrix.shape[1], float(sums.mean()), float(entropies.mean())
    value = side * total * math.exp(-product / total)
    influence = sums / total - entropies / total + product * sums / total**2
    return value, value * float(np.std(influence, ddof=1)) / math.sqrt(probes)


def _quadratures(
    matrix: np.ndarray, scale: float, rng: np.random.Generator, probes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes and weights of a quadrature for each random vector, of shape `(probes, steps)`.

    Nodes are singular values of `matrix / scale`.
    """
    steps = min(_STEPS, matrix.shape[1])
    diagonal, above = np.zeros((steps, probes)), np.zeros((steps, probes))
    right, _ = _normalized(rng.standard_normal((matrix.shape[1], probes)), 0.0)
    left: np.ndarray | float = 0.0
    for step in range(steps):  # `above[-1]`, which the first step reads, is still zero.
        left, diagonal[step] = _normalized(_product(matrix, right) / scale - above[step - 1] * left, 1e-6)
        right, above[step] = _normalized(_product(matrix.T, left) / scale - diagonal[step] * right, 1e-6)
    bidiagonal = np.zeros((probes, steps, steps))
    places = np.arange(steps)
    bidiagonal[:, places, places] = diagonal.T
    bidiagonal[:, places[:-1], places[1:]] = above[:-1].T
    _, nodes, transposed = np.linalg.svd(bidiagonal)
    return nodes, transposed[:, :, 0] ** 2


def _product(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return (matrix @ vectors.astype(matrix.dtype)).astype(np.float64)


def _normalized(vectors: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return columns of length 1 and their lengths; a column of rounding errors becomes zero: the process has ended."""
    lengths = np.linalg.norm(vectors, axis=0)
    lengths = np.where(lengths > least, lengths, 0.0)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0), lengths
