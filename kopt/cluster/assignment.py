"""Which centroid a weight belongs to, and how centroids follow their weights: pure functions of tensors.

`weights` are rows, each with its own codebook: shape `(rows, weights)`; `centroids` have shape `(rows, clusters)`.
"""

import tensorflow as tf


def nearest(weights: tf.Tensor, centroids: tf.Tensor) -> tf.Tensor:
    """Return the place of the nearest centroid of every weight, int32 of the shape of `weights`.

    Centroids are put in order and the middles between them searched, which takes no memory for distances.
    """
    order = tf.argsort(centroids, axis=-1)
    ordered = tf.gather(centroids, order, batch_dims=1)
    middles = (ordered[:, 1:] + ordered[:, :-1]) / 2
    return tf.gather(order, tf.searchsorted(middles, weights), batch_dims=1)


def shared(centroids: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Return the weights of the places: the centroid of each."""
    return tf.gather(centroids, places, batch_dims=1)


def sums(values: tf.Tensor, places: tf.Tensor, clusters: int) -> tf.Tensor:
    """Return the sum of the values in every cluster, shape `(rows, clusters)`."""
    rows = values.shape[0]
    numbered = places + clusters * tf.range(rows)[:, None]
    total = tf.math.unsorted_segment_sum(tf.reshape(values, [-1]), tf.reshape(numbered, [-1]), rows * clusters)
    return tf.reshape(total, (rows, clusters))


def moved(centroids: tf.Tensor, changes: tf.Tensor, places: tf.Tensor, counted: tf.Tensor, how: str) -> tf.Tensor:
    """Return the centroids after an update of their weights.

    Args:
        centroids: before the update.
        changes: of the weights by the optimizer.
        places: of the weights before it.
        counted: 1.0 for weights that move their centroid, 0.0 for others.
        how: `"mean"`: a centroid moves by the mean change of its weights, `"sum"`: by their sum, which is the gradient
            of the loss with respect to the centroid.
    """
    total = sums(changes * counted, places, centroids.shape[1])
    if how == "sum":
        return centroids + total
    return centroids + tf.math.divide_no_nan(total, sums(counted, places, centroids.shape[1]))
