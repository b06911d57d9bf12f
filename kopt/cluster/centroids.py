"""The first centroids of a kernel: pure functions of NumPy arrays.

Weights are points on a line, so that k-means needs them sorted once; an iteration is then a search for the borders of
the clusters and a difference of running sums.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
_ITERATIONS = 100


def linear(values: Values, clusters: int, rng: np.random.Generator) -> Values:
    """Return `clusters` values in equal distances from the smallest to the largest of `values`."""
    return np.linspace(values[0], values[-1], clusters)


def density(values: Values, clusters: int, rng: np.random.Generator) -> Values:
    """Return quantiles: as many values lie round one centroid as round another."""
    return np.asarray(np.quantile(values, (np.arange(clusters) + 0.5) / clusters))


def at_random(values: Values, clusters: int, rng: np.random.Generator) -> Values:
    """Return values drawn evenly between the smallest and the largest of `values`."""
    return np.sort(rng.uniform(values[0], values[-1], clusters))


def k_means_plus_plus(values: Values, clusters: int, rng: np.random.Generator) -> Values:
    """Return some of `values`, each drawn in proportion to its squared distance from those drawn before.

    Source: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.
    """
    chosen = [rng.choice(values)]
    squares = np.square(values - chosen[0])
    while len(chosen) < clusters:
        total = squares.sum()
        chosen.append(rng.choice(values) if total == 0 else rng.choice(values, p=squares / total))
        squares = np.minimum(squares, np.square(values - chosen[-1]))
    return np.sort(np.array(chosen))


INITIALIZATIONS: dict[str, Callable[[Values, int, np.random.Generator], Values]] = {
    "k-means++": k_means_plus_plus,
    "linear": linear,
    "density": density,
    "random": at_random,
}


def k_means(values: Values, centroids: Values, iterations: int = _ITERATIONS) -> Values:
    """Return centroids that are the means of the values nearest to them, by Lloyd's iterations.

    Args:
        values: in ascending order.
        centroids: to begin with, in ascending order. One that no value is nearest to stays where it is.
        iterations: at most; it ends as soon as nothing changes.

    Source: Lloyd, "Least squares quantization in PCM", 1982.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    for _ in range(iterations):
        middles = (centroids[1:] + centroids[:-1]) / 2
        borders = np.concatenate([[0], np.searchsorted(values, middles), [values.size]])
        counts = np.diff(borders)
        means = np.divide(np.diff(sums[borders]), counts, out=centroids.copy(), where=counts > 0)
        if np.array_equal(means, centroids):
            break
        centroids = np.sort(means)
    return centroids


def fitted(values: Values, clusters: int, initialization: str, rng: np.random.Generator, iterations: int) -> Values:
    """Return the centroids of some weights, of any shape, in ascending order."""
    ordered = np.sort(np.asarray(values, np.float64), axis=None)
    return k_means(ordered, INITIALIZATIONS[initialization](ordered, clusters, rng), iterations)


def codebook(
    rows: npt.NDArray[np.float32],
    clusters: int,
    keep_zeros: bool,
    initialization: str,
    rng: np.random.Generator,
    iterations: int,
) -> npt.NDArray[np.float32]:
    """Return the centroids of each row, shape `(rows, clusters)`.

    Args:
        rows: weights that share a codebook, one row a codebook.
        clusters: centroids of a row.
        keep_zeros: whether the first centroid is zero and the others are for the weights that are not.
        initialization: one of `INITIALIZATIONS`.
        rng: what draws.
        iterations: of k-means afterwards, at most; 0 keeps the first centroids.
    """
    found = np.zeros((len(rows), clusters))
    for row, centroids in zip(rows, found, strict=True):
        free = centroids[1:] if keep_zeros else centroids
        values = row[row != 0] if keep_zeros else row
        if values.size:
            free[:] = fitted(values, free.size, initialization, rng, iterations)
    return found.astype(np.float32)
