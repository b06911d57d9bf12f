"""What a student's outputs are held against: those of a teacher.

Functions of logits with the classes on the last axis; they return one value for each example and position, of the shape
of the logits without that axis. Gradients flow to both arguments; whoever trains a student stops those of the teacher.
"""

import math
from typing import Any

import tensorflow as tf

# Smaller than any probability that is told apart from zero in float16, and far from where float32 ends.
_SMALLEST = 1e-30
_LARGEST_NEGATIVE = -1e9


def logits_of(outputs: Any, form: str) -> tf.Tensor:
    """Return logits, in float32 or better, of outputs whose `form` is `"logits"`, `"probabilities"` or `"sigmoids"`.

    `log p` is a vector of logits of the distribution `p`, and `log p - log(1 - p)` the logit of one probability.
    `"values"` are given back as they are.
    """
    outputs = tf.convert_to_tensor(outputs)
    outputs = outputs if outputs.dtype == tf.float64 else tf.cast(outputs, tf.float32)
    if form == "probabilities":
        return tf.math.log(tf.maximum(outputs, _SMALLEST))
    if form == "sigmoids":
        outputs = tf.clip_by_value(outputs, 1e-7, 1.0 - 1e-7)
        return tf.math.log(outputs) - tf.math.log1p(-outputs)
    return outputs


def kl(teacher: Any, student: Any, *, temperature: Any = 1.0) -> tf.Tensor:
    """Return `T^2 sum_k p_k (log p_k - log q_k)` with `p, q = softmax(teacher / T), softmax(student / T)`.

    `T^2` keeps the size of the gradient when the temperature changes.

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015.
    """
    return temperature**2 * _divergence(_log_softmax(teacher, temperature), _log_softmax(student, temperature))


def jensen_shannon(teacher: Any, student: Any, *, temperature: Any = 1.0) -> tf.Tensor:
    """Return `T^2 (KL(p | m) + KL(q | m)) / 2` with `m = (p + q) / 2`.

    At most `T^2 log 2`, and the same in either direction.
    """
    p, q = _log_softmax(teacher, temperature), _log_softmax(student, temperature)
    middle = tf.reduce_logsumexp(tf.stack([p, q]), axis=0) - math.log(2.0)
    return temperature**2 * 0.5 * (_divergence(p, middle) + _divergence(q, middle))


def mse_logits(teacher: Any, student: Any, *, temperature: Any = 1.0) -> tf.Tensor:
    """Return the mean over classes of the squared difference of logits, each centered.

    Centered, because logits say the same when all of them are shifted, and those that come from probabilities are. The
    temperature has no part in it.

    Source: Ba and Caruana, "Do deep nets really need to be deep?", 2014.
    """
    difference = _centered(teacher) - _centered(student)
    return tf.reduce_mean(tf.square(difference), axis=-1)


def decoupled(
    teacher: Any, student: Any, *, temperature: Any = 1.0, labels: Any = None, target: float = 1.0, others: float = 8.0
) -> tf.Tensor:
    """Return `T^2 (target KL(b | b') + others KL(p^ | q^))`, the two parts of `kl` with weights of their own.

    `b` is the distribution of the labelled class against all others, `p^` that among the others.

    Args:
        teacher: logits.
        student: logits.
        temperature: `T`.
        labels: class numbers of the shape of the result; by default the class that the teacher prefers.
        target: weight of the first part.
        others: weight of the second.

    Source: Zhao et al., "Decoupled knowledge distillation", CVPR 2022.
    """
    labels = tf.argmax(teacher, axis=-1) if labels is None else tf.cast(labels, tf.int64)
    chosen = tf.one_hot(labels, teacher.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
    parts = []
    for logits in (teacher, student):
        scaled = logits / temperature
        rest = tf.where(chosen, _LARGEST_NEGATIVE, scaled)
        whole, of_rest = (tf.reduce_logsumexp(one, axis=-1) for one in (scaled, rest))
        of_chosen = tf.reduce_sum(tf.where(chosen, scaled, 0.0), axis=-1)
        parts.append((tf.stack([of_chosen - whole, of_rest - whole], axis=-1), tf.nn.log_softmax(rest)))
    (binary, among), (student_binary, student_among) = parts
    # The masked class has probability 0 on both sides; its logarithms do not matter.
    among, student_among = (tf.where(chosen, 0.0, one) for one in (among, student_among))
    masked = tf.reduce_sum(tf.where(chosen, 0.0, tf.exp(among)) * (among - student_among), axis=-1)
    return temperature**2 * (target * _divergence(binary, student_binary) + others * masked)


def dist(teacher: Any, student: Any, *, temperature: Any = 1.0, between: float = 1.0, within: float = 1.0) -> tf.Tensor:
    """Return `T^2 (between (1 - r_i) + within mean_k (1 - r_k))`, with Pearson's `r` of probabilities.

    `r_i` is over the classes of an example, `r_k` over the examples of a class: the second part belongs to the batch
    and is the same for every example. A teacher much better than the student is matched in order and not in value.

    Source: Huang et al., "Knowledge distillation from a stronger teacher", NeurIPS 2022.
    """
    p, q = (tf.nn.softmax(logits / temperature) for logits in (teacher, student))
    of_examples = 1.0 - _pearson(p, q, -1)
    classes = p.shape[-1]
    of_classes = tf.reduce_mean(1.0 - _pearson(tf.reshape(p, (-1, classes)), tf.reshape(q, (-1, classes)), 0))
    return temperature**2 * (between * of_examples + within * of_classes)


def binary_kl(teacher: Any, student: Any, *, temperature: Any = 1.0) -> tf.Tensor:
    """Return `T^2 mean_k KL(p_k | q_k)` of two outcomes each, `p = sigmoid(teacher / T)`: several labels at once."""
    teacher, student = teacher / temperature, student / temperature
    p = tf.sigmoid(teacher)
    yes = tf.math.log_sigmoid(teacher) - tf.math.log_sigmoid(student)
    no = tf.math.log_sigmoid(-teacher) - tf.math.log_sigmoid(-student)
    return temperature**2 * tf.reduce_mean(p * yes + (1.0 - p) * no, axis=-1)


def mse(teacher: Any, student: Any, *, temperature: Any = 1.0) -> tf.Tensor:
    """Return the mean squared difference over the last axis: regression. The temperature has no part in it."""
    return tf.reduce_mean(tf.square(teacher - student), axis=-1)


def huber(teacher: Any, student: Any, *, temperature: Any = 1.0, delta: float = 1.0) -> tf.Tensor:
    """Return the mean over the last axis of `d^2 / 2` below `delta` and `delta |d| - delta^2 / 2` above: regression."""
    return tf.reduce_mean(huber_of(teacher - student, delta), axis=-1)


def focal_smoothed(
    labels: Any, logits: Any, *, focusing: float = 0.0, smoothing: float = 0.0, form: str = "logits"
) -> tf.Tensor:
    """Return `-sum_k y_k (1 - q_k)^focusing log q_k` with `y = (1 - smoothing) onehot + smoothing / classes`.

    Args:
        labels: class numbers, or distributions of the shape of `logits`.
        logits: outputs of the student.
        focusing: weight of hard examples; 0 is cross-entropy.
        smoothing: share of the label that is spread over all classes, in [0, 1).
        form: of `logits`, see `logits_of`.

    Source: Lin et al., "Focal loss for dense object detection", 2017; Szegedy et al., "Rethinking the Inception
    architecture", 2015.
    """
    classes = logits.shape[-1]
    log_q = tf.nn.log_softmax(logits_of(logits, form))
    if labels.shape.rank == logits.shape.rank and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if labels.shape.rank < logits.shape.rank:
        labels = tf.one_hot(tf.cast(labels, tf.int64), classes)
    y = (1.0 - smoothing) * tf.cast(labels, log_q.dtype) + smoothing / classes
    # Powers below 1 have no finite derivative where q is 1.
    weight = tf.pow(tf.maximum(1.0 - tf.exp(log_q), 1e-7), focusing) if focusing else 1.0
    return -tf.reduce_sum(y * weight * log_q, axis=-1)


def huber_of(difference: Any, delta: float) -> tf.Tensor:
    """Return `d^2 / 2` where `|d| <= delta` and `delta |d| - delta^2 / 2` elsewhere."""
    size = tf.abs(difference)
    return tf.where(size <= delta, 0.5 * tf.square(difference), delta * size - 0.5 * delta**2)


def _log_softmax(logits: Any, temperature: Any) -> tf.Tensor:
    return tf.nn.log_softmax(logits / temperature)


def _divergence(log_p: tf.Tensor, log_q: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


def _centered(logits: Any) -> tf.Tensor:
    return logits - tf.reduce_mean(logits, axis=-1, keepdims=True)


def _pearson(one: tf.Tensor, other: tf.Tensor, axis: int) -> tf.Tensor:
    one = one - tf.reduce_mean(one, axis=axis, keepdims=True)
    other = other - tf.reduce_mean(other, axis=axis, keepdims=True)
    sizes = tf.reduce_sum(tf.square(one), axis=axis) * tf.reduce_sum(tf.square(other), axis=axis)
    # Where one of them is constant there is no correlation: 0, with a finite derivative.
    return tf.reduce_sum(one * other, axis=axis) / tf.sqrt(sizes + 1e-16)
