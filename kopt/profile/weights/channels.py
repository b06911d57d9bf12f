"""Which axes of a kernel number its output channels, the kernel as a matrix, and channels that are dead."""

from collections.abc import Iterator

import keras
import numpy as np

from kopt.core.records.profiles.parameters import Channels
from kopt.graph import naming

# Entries of a piece of a matrix, in float64 2 MiB.
_PIECE = 1 << 18
_LISTED = 100
# Arrays of these are scales and offsets, not maps from inputs to outputs.
_NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.RMSNormalization,
    keras.layers.UnitNormalization,
)


def channel_axes(layer: keras.layers.Layer, name: str, rank: int) -> tuple[int, ...] | None:
    """Return the axes of a layer's variable that number its output channels, or `None` if it has none.

    See `kopt.graph.naming.channel_axes`; but of an embedding they are the rows, and an array of two or more axes in a
    layer of another class counts as a kernel.

    Args:
        layer: that holds the variable.
        name: of the variable, e.g. `"kernel"`.
        rank: its number of axes.
    """
    if rank < 2 or name.endswith("bias") or isinstance(layer, _NORMALIZATIONS):
        return None
    if isinstance(layer, keras.layers.Embedding) and name == "embeddings":
        return (0,)
    return naming.channel_axes(layer, name, rank)


def as_matrix(kernel: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return `kernel` as inputs x output channels; a view unless channels stand between inputs."""
    last = tuple(range(kernel.ndim - len(axes), kernel.ndim))
    moved = np.moveaxis(kernel, axes, last)
    columns = int(np.prod([kernel.shape[axis] for axis in axes]))
    if axes == tuple(range(len(axes))):
        return kernel.reshape(columns, -1).T  # Of an embedding, without the copy that reshaping `moved` would make.
    return moved.reshape(-1, columns)


def pieces(matrix: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Yield the matrix in float64 pieces with the rows and the columns where each stands."""
    if not matrix.size:
        return
    by_rows = matrix.strides[0] >= matrix.strides[1]  # Along memory.
    length = matrix.shape[0 if by_rows else 1]
    step = max(1, _PIECE * length // matrix.size)
    for start in range(0, length, step):
        part = slice(start, start + step)
        rows, columns = (part, slice(None)) if by_rows else (slice(None), part)
        yield rows, columns, matrix[rows, columns].astype(np.float64)


def channel_norms(matrix: np.ndarray) -> np.ndarray:
    """Return the L2 norm of every column; what is not finite counts as zero."""
    squares = np.zeros(matrix.shape[1])
    for _, columns, piece in pieces(matrix):
        sums = np.einsum("ij,ij->j", piece, piece)
        if not np.isfinite(sums).all():
            piece = np.where(np.isfinite(piece), piece, 0.0)
            sums = np.einsum("ij,ij->j", piece, piece)
        squares[columns] += sums
    return np.sqrt(squares)


def dead_channels(norms: np.ndarray, threshold: float) -> np.ndarray:
    """Tell which channels are all zero or have a norm of at most `threshold` times the median of the others."""
    positive = norms[norms > 0]
    return norms <= (threshold * np.median(positive) if positive.size else 0.0)


def channels_of(matrix: np.ndarray, axes: tuple[int, ...], threshold: float) -> Channels:
    """Return the record of the output channels of a kernel as a matrix."""
    dead = np.flatnonzero(dead_channels(channel_norms(matrix), threshold))
    return Channels(axes, matrix.shape[1], int(dead.size), tuple(map(int, dead[:_LISTED])))
