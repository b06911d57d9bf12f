"""Bringing inner tensors of two models to one shape."""

import math
from typing import Any

import tensorflow as tf

Shape = tuple[int | None, ...]


def common_positions(student: Shape, teacher: Shape) -> Shape:
    """Return the axes between examples and channels at which two tensors can be compared.

    Equal ones stay. Of as many axes the smaller size is taken; of unequal numbers of axes, a row of positions if there
    are as many on both sides, as of patches and pixels. Else both are averaged over all positions.
    """
    ours, theirs = student[1:-1], teacher[1:-1]
    if ours == theirs:
        return ours
    if None in ours or None in theirs:
        return ()
    sizes, others = [one or 0 for one in ours], [one or 0 for one in theirs]
    if len(sizes) == len(others):
        smaller = tuple(min(pair) for pair in zip(sizes, others, strict=True))
        return smaller if len(sizes) < 3 or (_divides(sizes, smaller) and _divides(others, smaller)) else ()
    if sizes and others and math.prod(sizes) == math.prod(others):
        return (math.prod(sizes),)
    return ()


def brought(tensor: Any, positions: Shape) -> Any:
    """Return `tensor` at `positions`, which `common_positions` gave for it: averaged, interpolated or in a row."""
    own = tuple(tensor.shape[1:-1])
    if own == tuple(positions):
        return tensor
    if not positions:
        return tf.reduce_mean(tensor, axis=list(range(1, tensor.shape.rank - 1)))
    if len(own) != len(positions):
        return tf.reshape(tensor, (-1, *positions, tensor.shape[-1]))
    return _averaged(tensor, own, positions) if _divides(own, positions) else _interpolated(tensor, positions)


def bridge_of(student: Shape, teacher: Shape, positions: Shape, projected: bool) -> str:
    """Return in words what is done to two tensors before they are compared."""
    words = []
    if student[1:-1] != positions or teacher[1:-1] != positions:
        words.append(f"both at positions {positions}" if positions else "both averaged over positions")
    if projected:
        words.append(f"projector from {student[-1]} to {teacher[-1]} channels")
    return ", ".join(words)


def _divides(own: Any, positions: Any) -> bool:
    return all(size % wanted == 0 for size, wanted in zip(own, positions, strict=True))


def _averaged(tensor: Any, own: Shape, positions: Shape) -> Any:
    split = [part for size, to in zip(own, positions, strict=True) for part in (to, (size or 0) // (to or 1))]
    tensor = tf.reshape(tensor, (-1, *split, tensor.shape[-1]))
    return tf.reduce_mean(tensor, axis=[2 + 2 * axis for axis in range(len(positions))])


def _interpolated(tensor: Any, positions: Shape) -> Any:
    if len(positions) == 2:
        return tf.image.resize(tensor, positions)
    return tf.image.resize(tensor[:, :, None, :], (positions[0], 1))[:, :, 0, :]
