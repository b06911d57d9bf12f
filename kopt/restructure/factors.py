"""Kernels as products of smaller ones: functions of arrays.

A dense kernel `(inputs, outputs)` of rank `r` is `(inputs, r) @ (r, outputs)`. A convolution kernel
`(height, width, inputs, outputs)` is a product in three ways: over its outputs (`channel`), over rows and columns
(`spatial`), and over inputs and outputs at once (Tucker-2). The first and the last are of any number of axes. Truncated
singular value decompositions are the nearest such products in the Frobenius norm (Eckart and Young, 1936); Tucker-2 by
them (HOSVD) is within a factor of sqrt(2) of the nearest.
"""

import dataclasses

import numpy as np

# Entries of a matrix above which its singular values are taken from eigenvalues: 6,272 x 2,048 takes 8 s of processor
# time instead of 52.
_LARGE = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Decomposition:
    """A kernel in a form in which every rank can be cut off and its error read.

    Attributes:
        lost: squared norm of what each rank leaves out, as a fraction of 1: `lost[r - 1]`, or `lost[r1 - 1, r2 - 1]`
            for Tucker-2. It does not rise along an axis; the largest rank loses 0.
        parts: arrays that `cut` takes, see the function that made it.
    """

    lost: np.ndarray
    parts: tuple[np.ndarray, ...]

    @property
    def full(self) -> tuple[int, ...]:
        """The largest rank along each axis."""
        return self.lost.shape

    def error(self, ranks: tuple[int, ...]) -> float:
        """Return the relative Frobenius distance at these ranks."""
        return float(np.sqrt(self.lost[tuple(rank - 1 for rank in ranks)]))


def svd(matrix: np.ndarray) -> Decomposition:
    """Decompose a matrix `(m, n)`; parts are `(m, k)` and `(k, n)` with `k = min(m, n)`, the singular values split."""
    if matrix.size > _LARGE:
        return _svd_by_eigenvectors(matrix)
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(singular)
    return Decomposition(_lost(singular[None] ** 2)[0], (left * root, root[:, None] * right))


def _svd_by_eigenvectors(matrix: np.ndarray) -> Decomposition:
    """Decompose a large matrix by the eigenvectors of its smaller product with itself.

    Singular values below 1e-8 of the largest are rounding, which float32 weights cannot show. The product of the parts
    is the matrix to rounding all the same, because the eigenvectors are orthonormal.
    """
    if matrix.shape[0] < matrix.shape[1]:
        flipped = _svd_by_eigenvectors(matrix.T)
        return Decomposition(flipped.lost, (flipped.parts[1].T, flipped.parts[0].T))
    energies, vectors = np.linalg.eigh(matrix.T @ matrix)
    energies, vectors = np.maximum(energies[::-1], 0.0), vectors[:, ::-1]
    root = np.maximum(energies, (energies[0] or 1.0) * 1e-16) ** 0.25
    return Decomposition(_lost(energies[None])[0], (matrix @ (vectors / root), root[:, None] * vectors.T))


def cut_svd(decomposition: Decomposition, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `(m, rank)` and `(rank, n)`, whose product is the nearest matrix of that rank."""
    left, right = decomposition.parts
    return left[:, :rank], right[:rank]


def channel(kernel: np.ndarray) -> Decomposition:
    """Decompose a kernel `(..., i, o)` over its outputs: a convolution to `r` channels, then one of size 1."""
    return svd(kernel.reshape(-1, kernel.shape[-1]))


def cut_channel(decomposition: Decomposition, rank: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return kernels `(..., i, rank)` and `(1, ..., rank, o)`; `shape` is that of the whole kernel."""
    left, right = cut_svd(decomposition, rank)
    return left.reshape(*shape[:-1], rank), _of_size_one(right, len(shape))


def spatial(kernel: np.ndarray) -> Decomposition:
    """Decompose a kernel `(h, w, i, o)` into columns and rows: a convolution of `(h, 1)`, then one of `(1, w)`."""
    height, width, inputs, outputs = kernel.shape
    return svd(kernel.transpose(0, 2, 1, 3).reshape(height * inputs, width * outputs))


def cut_spatial(decomposition: Decomposition, rank: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return kernels `(h, 1, i, rank)` and `(1, w, rank, o)`; `shape` is that of the whole kernel."""
    height, width, inputs, outputs = shape
    left, right = cut_svd(decomposition, rank)
    columns = left.reshape(height, inputs, rank)[:, None]
    return columns, right.reshape(rank, width, outputs).transpose(1, 0, 2)[None]


def tucker(kernel: np.ndarray) -> Decomposition:
    """Decompose a kernel `(..., i, o)` over inputs and outputs: convolutions of size 1, the kernel's and 1.

    Parts are `(i, i')`, the core `(..., i', o')` and `(o', o)`, with `i' <= i` and `o' <= o`. The columns of the first
    and the rows of the last are orthonormal, so that what ranks keep is the squared norm of that corner of the core.
    """
    inputs, outputs = kernel.shape[-2:]
    basis_in = _directions(np.moveaxis(kernel, -2, 0).reshape(inputs, -1))
    basis_out = _directions(kernel.reshape(-1, outputs).T)
    core = np.einsum("...io,ia,ob->...ab", kernel, basis_in, basis_out, optimize=True)
    energies = (core**2).sum(axis=tuple(range(core.ndim - 2)))
    return Decomposition(_lost(energies), (basis_in, core, basis_out.T))


def cut_tucker(decomposition: Decomposition, ranks: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return kernels `(1, ..., i, r1)`, `(..., r1, r2)` and `(1, ..., r2, o)`."""
    basis_in, core, basis_out = decomposition.parts
    first, second = ranks
    start, end = (_of_size_one(basis, core.ndim) for basis in (basis_in[:, :first], basis_out[:second]))
    return start, core[..., :first, :second], end


def separable(kernel: np.ndarray, multiplier: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the depthwise and pointwise kernels nearest to a kernel `(h, w, i, o)`, and their relative error.

    For each input channel alone, the slice `(h * w, o)` is cut to the rank `multiplier`, which is the nearest.

    Returns:
        Kernels `(h, w, i, multiplier)` and `(1, 1, i * multiplier, o)`, and the relative Frobenius distance.
    """
    height, width, inputs, outputs = kernel.shape
    slices = kernel.transpose(2, 0, 1, 3).reshape(inputs, height * width, outputs)
    left, singular, right = np.linalg.svd(slices, full_matrices=False)
    root = np.sqrt(singular[:, :multiplier])
    depthwise = (left[:, :, :multiplier] * root[:, None]).reshape(inputs, height, width, multiplier)
    pointwise = (root[:, :, None] * right[:, :multiplier]).reshape(1, 1, inputs * multiplier, outputs)
    energies = singular**2
    total = energies.sum()
    error = float(np.sqrt(energies[:, multiplier:].sum() / total)) if total else 0.0
    return depthwise.transpose(1, 2, 0, 3), pointwise, error


def _of_size_one(matrix: np.ndarray, rank: int) -> np.ndarray:
    """Return a matrix as the kernel of a convolution of size 1, of `rank` axes."""
    return matrix.reshape((1,) * (rank - 2) + matrix.shape)


def _directions(matrix: np.ndarray) -> np.ndarray:
    """Return left singular vectors of a wide matrix, the strongest first, as many as its rank can be.

    By the eigenvectors of `matrix @ matrix.T`, which is small; they are orthonormal to rounding, also where it is
    singular.
    """
    _, vectors = np.linalg.eigh(matrix @ matrix.T)
    return vectors[:, ::-1][:, : min(matrix.shape)]


def _lost(energies: np.ndarray) -> np.ndarray:
    """Return the share of `energies (m, n)` outside each corner of the first rows and columns, without cancellation."""
    right = _beyond(energies).cumsum(axis=0)
    below = _beyond(energies.sum(axis=1)[None])[0]
    total = energies.sum()
    return (right + below[:, None]) / total if total > 0 else np.zeros_like(energies)


def _beyond(rows: np.ndarray) -> np.ndarray:
    """Return for each entry the sum of those behind it in its row."""
    sums = np.zeros_like(rows)
    sums[:, :-1] = rows[:, :0:-1].cumsum(axis=1)[:, ::-1]
    return sums
