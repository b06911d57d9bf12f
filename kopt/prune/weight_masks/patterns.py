"""Which weights stay: masks from magnitudes, as pure functions of tensors.

Where tfmot has a pattern, its masks are those of `tfmot.sparsity.keras.prune_low_magnitude`, bit for bit.
"""

from collections.abc import Sequence

import tensorflow as tf


def element_mask(weights: tf.Tensor, sparsity: tf.Tensor) -> tf.Tensor:
    """Keep the largest magnitudes: `max(1, round(size (1 - sparsity)))` of them, and what equals the least of these.

    Args:
        weights: any shape.
        sparsity: scalar, float32.

    Returns:
        Mask of the same shape, bool.
    """
    magnitudes = tf.abs(weights)
    return magnitudes >= _threshold(tf.reshape(magnitudes, [-1]), sparsity)


def global_masks(weights: Sequence[tf.Tensor], sparsity: tf.Tensor) -> list[tf.Tensor]:
    """Keep the largest magnitudes of all tensors together, and at least the largest of each."""
    magnitudes = [tf.cast(tf.abs(one), tf.float32) for one in weights]
    threshold = _threshold(tf.concat([tf.reshape(one, [-1]) for one in magnitudes], 0), sparsity)
    return [(one >= threshold) | (one >= tf.reduce_max(one)) for one in magnitudes]


def block_mask(weights: tf.Tensor, sparsity: tf.Tensor, block: tuple[int, int], pooling: str) -> tf.Tensor:
    """Keep whole blocks of a matrix, those with the largest mean or maximum of the magnitudes.

    Blocks are laid as tfmot lays them: where a side is no multiple of the block's, pooling pads both ends of it, and
    the mask is cut at the far end.

    Args:
        weights: two axes and more; those before the last are taken as one.
        sparsity: scalar, float32.
        block: height and width.
        pooling: `"AVG"` or `"MAX"`.
    """
    matrix = tf.abs(tf.reshape(weights, [-1, weights.shape[-1]]))
    rows, columns = matrix.shape
    pooled = tf.reshape(matrix, [1, 1, rows, columns])
    for side in block:  # Rows, then columns, as tfmot does: the rounding of a mean depends on it.
        pooled = tf.nn.pool(pooled, [1, side], pooling, strides=[1, side], padding="SAME")
        pooled = tf.transpose(pooled, [0, 1, 3, 2])
    kept = element_mask(tf.reshape(pooled, [pooled.shape[2], pooled.shape[3]]), sparsity)
    grown = tf.repeat(tf.repeat(kept, block[0], axis=0), block[1], axis=1)
    return tf.reshape(grown[:rows, :columns], weights.shape)


def n_m_mask(weights: tf.Tensor, kept: int, group: int, axis: int = -2) -> tf.Tensor:
    """Keep the `kept` largest of every `group` weights that follow each other along the input channels.

    The last group is filled up with zeros where `group` does not divide the input channels.

    Args:
        weights: two axes and more.
        kept: of each group.
        group: its size.
        axis: of the input channels: by default as Dense and convolutions have it, `(..., inputs, outputs)`.
    """
    rank = len(weights.shape)
    order = [*(one for one in range(rank) if one != axis % rank), axis % rank]
    rows = tf.transpose(weights, order)
    inputs = rows.shape[-1]
    flat = tf.pad(tf.reshape(tf.abs(rows), [-1, inputs]), [[0, 0], [0, -inputs % group]])
    groups = tf.reshape(flat, [-1, group])
    _, places = tf.math.top_k(groups, k=kept, sorted=False)
    mask = tf.reduce_any(tf.one_hot(places, group, on_value=True, off_value=False, dtype=tf.bool), axis=1)
    mask = tf.reshape(tf.reshape(mask, flat.shape)[:, :inputs], rows.shape)
    return tf.transpose(mask, [order.index(one) for one in range(rank)])


def channel_mask(weights: tf.Tensor, sparsity: tf.Tensor, axes: tuple[int, ...]) -> tf.Tensor:
    """Keep whole output channels, those with the largest L2 norm.

    Args:
        weights: any shape.
        sparsity: scalar, float32.
        axes: that number the channels, e.g. the last one.
    """
    others = [axis for axis in range(len(weights.shape)) if axis not in axes]
    norms = tf.sqrt(tf.reduce_sum(tf.square(tf.cast(weights, tf.float32)), axis=others, keepdims=True))
    return tf.broadcast_to(element_mask(norms, sparsity), weights.shape)


def _threshold(magnitudes: tf.Tensor, sparsity: tf.Tensor) -> tf.Tensor:
    size = magnitudes.shape[0]
    kept = tf.cast(tf.maximum(tf.round(tf.cast(size, tf.float32) * (1 - sparsity)), 1), tf.int32)
    return tf.gather(tf.sort(magnitudes, direction="DESCENDING"), kept - 1)
