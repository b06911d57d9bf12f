"""What a student's inner tensors are held against: those of a teacher.

Functions of float32 tensors with the examples on the first axis and the channels on the last; they return one value for
each example. Gradients flow to both arguments; whoever trains a student stops those of the teacher.
"""

from typing import Any

import tensorflow as tf

from kopt.train.soft_targets import huber_of

_EPSILON = 1e-12


def fitnet(teacher: Any, student: Any) -> tf.Tensor:
    """Return the mean squared difference of tensors of one shape.

    Source: Romero et al., "FitNets: hints for thin deep nets", 2015.
    """
    return _mean(tf.square(teacher - student))


def cosine(teacher: Any, student: Any) -> tf.Tensor:
    """Return 1 minus the cosine along the last axis, averaged over positions: hidden states of transformers."""
    product = tf.reduce_sum(_unit(teacher, -1) * _unit(student, -1), axis=-1)
    return _mean(1.0 - product)


def attention_transfer(teacher: Any, student: Any, *, power: float = 2.0) -> tf.Tensor:
    """Return the squared distance of unit vectors made of `sum_c |F_c|^power` at each position.

    Positions must agree, channels need not.

    Source: Zagoruyko and Komodakis, "Paying more attention to attention", 2017.
    """
    return tf.reduce_sum(tf.square(_attention(teacher, power) - _attention(student, power)), axis=-1)


def similarity(teacher: Any, student: Any) -> tf.Tensor:
    """Return, for example i, `mean_j (G_ij - G'_ij)^2` of the Gram matrices of the batch, rows of length 1.

    Shapes need not agree.

    Source: Tung and Mori, "Similarity-preserving knowledge distillation", 2019.
    """
    difference = _gram(teacher) - _gram(student)
    return tf.reduce_mean(tf.square(difference), axis=-1)


def relational(teacher: Any, student: Any, *, delta: float = 1.0) -> tf.Tensor:
    """Return, for example i, the mean over j of Huber's loss of distances, each divided by the mean of the batch.

    Shapes need not agree. A batch of one example has no distances, and the value 0.

    Source: Park et al., "Relational knowledge distillation", 2019, its distance-wise loss.
    """
    return tf.reduce_mean(huber_of(_distances(teacher) - _distances(student), delta), axis=-1)


def contrastive(teacher: Any, student: Any, *, sharpness: float = 0.1) -> tf.Tensor:
    """Return `-log softmax_j(s_i . t_j / sharpness)_i` of unit vectors: of all teachers', the own example's is found.

    The others of the batch are what the example is told from, in place of a memory bank.

    Source: Tian, Krishnan, Isola, "Contrastive representation distillation", 2020; van den Oord et al., 2018.
    """
    teacher, student = (_unit(_flat(one), -1) for one in (teacher, student))
    logits = tf.matmul(student, teacher, transpose_b=True) / sharpness
    return -tf.linalg.diag_part(tf.nn.log_softmax(logits))


def attention_maps(teacher: Any, student: Any) -> tf.Tensor:
    """Return the mean over heads and queries of `KL` of rows of attention, shape (examples, heads, queries, keys).

    Where the numbers of heads differ, both are averaged over theirs.

    Source: Wang et al., "MiniLM", 2020.
    """
    if teacher.shape[1] != student.shape[1]:
        teacher, student = (tf.reduce_mean(one, axis=1, keepdims=True) for one in (teacher, student))
    teacher, student = (tf.maximum(one, _EPSILON) for one in (teacher, student))
    return _mean(tf.reduce_sum(teacher * (tf.math.log(teacher) - tf.math.log(student)), axis=-1))


def _mean(values: tf.Tensor) -> tf.Tensor:
    axes = list(range(1, values.shape.rank))
    return tf.reduce_mean(values, axis=axes) if axes else values


def _flat(values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values, (tf.shape(values)[0], -1)) if values.shape.rank != 2 else values


def _unit(values: tf.Tensor, axis: int) -> tf.Tensor:
    return values * tf.math.rsqrt(tf.reduce_sum(tf.square(values), axis=axis, keepdims=True) + _EPSILON)


def _attention(values: tf.Tensor, power: float) -> tf.Tensor:
    magnitude = tf.square(values) if power == 2.0 else tf.pow(tf.abs(values), power)
    return _unit(_flat(tf.reduce_sum(magnitude, axis=-1)), -1)


def _gram(values: tf.Tensor) -> tf.Tensor:
    values = _flat(values)
    return _unit(tf.matmul(values, values, transpose_b=True), -1)


def _distances(values: tf.Tensor) -> tf.Tensor:
    """Return all distances in a batch, over the mean of those between different examples."""
    values = _flat(values)
    products = tf.matmul(values, values, transpose_b=True)
    lengths = tf.linalg.diag_part(products)
    squares = lengths[:, None] + lengths[None, :] - 2.0 * products
    same = tf.cast(tf.eye(tf.shape(values)[0]), tf.bool)
    # Inside the root, so that its slope is finite where two examples agree.
    distances = tf.where(same, 0.0, tf.sqrt(tf.where(same, 1.0, tf.maximum(squares, _EPSILON))))
    count = tf.cast(tf.shape(values)[0], values.dtype)
    mean = tf.reduce_sum(distances) / tf.maximum(count * (count - 1.0), 1.0)
    return distances / tf.maximum(mean, _EPSILON)
