"""Every loss on outputs against NumPy, its gradient against differences, and the Keras loss round it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from distillation_cases import gradient_error

from kopt.core.errors import ConfigError
from kopt.distill import FocalSmoothed, OutputLoss
from kopt.distill.losses import OUTPUT_LOSSES
from kopt.train import soft_targets

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(2, 5, 4)) * 2
T = 3.0


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def kl(p, q):
    return (p * np.log(p / q)).sum(-1)


def expected_kl():
    return T**2 * kl(softmax(TEACHER / T), softmax(STUDENT / T))


def expected_jensen_shannon():
    p, q = softmax(TEACHER / T), softmax(STUDENT / T)
    return T**2 * (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


def expected_mse_logits():
    # The variance of a difference is that of its centered self.
    return (TEACHER - STUDENT).var(axis=-1)


def expected_decoupled():
    p, q, target = softmax(TEACHER / T), softmax(STUDENT / T), TEACHER.argmax(-1)
    values = []
    for one, other, label in zip(p, q, target, strict=True):
        binary = kl(np.array([one[label], 1 - one[label]]), np.array([other[label], 1 - other[label]]))
        rest, other_rest = np.delete(one, label), np.delete(other, label)
        values.append(T**2 * (binary + 8 * kl(rest / rest.sum(), other_rest / other_rest.sum())))
    return np.array(values)


def expected_dist():
    p, q = softmax(TEACHER / T), softmax(STUDENT / T)
    rows = np.array([1 - np.corrcoef(one, other)[0, 1] for one, other in zip(p, q, strict=True)])
    columns = np.mean([1 - np.corrcoef(one, other)[0, 1] for one, other in zip(p.T, q.T, strict=True)])
    return T**2 * (rows + columns)


def expected_binary_kl():
    p, q = sigmoid(TEACHER / T), sigmoid(STUDENT / T)
    return T**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(-1)


def expected_mse():
    return ((TEACHER - STUDENT) ** 2).mean(-1)


def expected_huber():
    size = np.abs(TEACHER - STUDENT)
    return np.where(size <= 1, size**2 / 2, size - 0.5).mean(-1)


EXPECTED = {name.removeprefix("expected_"): value for name, value in globals().items() if name.startswith("expected_")}


def test_every_loss_has_a_golden_value():
    assert set(EXPECTED) == set(OUTPUT_LOSSES)


@pytest.mark.parametrize("kind", OUTPUT_LOSSES)
def test_values_are_those_of_numpy(kind):
    values = OutputLoss(kind).values(TEACHER.astype("float32"), STUDENT.astype("float32"), T)
    np.testing.assert_allclose(values, EXPECTED[kind](), rtol=2e-5)
    loss = OutputLoss(kind, temperature=T)(TEACHER, STUDENT)
    np.testing.assert_allclose(loss, EXPECTED[kind]().mean(), rtol=2e-5)
    weights = np.array([1.0, 0.0, 2.0, 0.5, 1.0])
    weighted = OutputLoss(kind, temperature=T)(TEACHER, STUDENT, sample_weight=weights)
    np.testing.assert_allclose(weighted, (EXPECTED[kind]() * weights).mean(), rtol=2e-5)


@pytest.mark.parametrize("kind", OUTPUT_LOSSES)
def test_gradients_are_those_of_differences(kind):
    loss = OutputLoss(kind)
    assert gradient_error(lambda student: loss.values(tf.cast(TEACHER, student.dtype), student, T), STUDENT) < 1e-5


@pytest.mark.parametrize("kind", OUTPUT_LOSSES)
def test_equal_outputs_cost_nothing_and_pull_nowhere(kind):
    student = tf.constant(TEACHER, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = tf.reduce_sum(OutputLoss(kind).values(tf.constant(TEACHER, tf.float32), student, T))
    assert abs(float(value)) < 1e-4
    np.testing.assert_allclose(tape.gradient(value, student), 0, atol=1e-4)


@pytest.mark.parametrize("kind", ["kl", "jensen_shannon", "mse_logits", "decoupled", "dist"])
def test_probabilities_say_what_logits_say(kind):
    of_logits = OutputLoss(kind, temperature=T)(TEACHER, STUDENT)
    of_probabilities = OutputLoss(kind, temperature=T, form="probabilities")(softmax(TEACHER), softmax(STUDENT))
    np.testing.assert_allclose(of_logits, of_probabilities, rtol=1e-4)


def test_sigmoids_say_what_logits_say():
    of_sigmoids = OutputLoss("binary_kl", temperature=T, form="sigmoids")(sigmoid(TEACHER), sigmoid(STUDENT))
    np.testing.assert_allclose(of_sigmoids, expected_binary_kl().mean(), rtol=1e-4)


def test_probabilities_of_zero_stay_finite():
    certain = np.array([[1.0, 0.0, 0.0]], "float32")
    assert np.isfinite(OutputLoss("kl", form="probabilities")(certain, certain[:, ::-1]))


def test_decoupled_takes_the_labels_it_is_given():
    labels = np.array([0, 1, 2, 3, 0])
    p, q = softmax(TEACHER / T), softmax(STUDENT / T)
    binary = [kl(np.array([a[i], 1 - a[i]]), np.array([b[i], 1 - b[i]])) for a, b, i in zip(p, q, labels, strict=True)]
    values = soft_targets.decoupled(
        tf.constant(TEACHER), tf.constant(STUDENT), temperature=T, labels=labels, others=0.0
    )
    np.testing.assert_allclose(values, T**2 * np.array(binary), rtol=1e-9)


def test_decoupled_with_weights_of_one_part_is_kl_in_two_parts():
    """KL = KL of the binary distribution + (1 - p_target) KL among the others (eq. 5 of the paper)."""
    teacher, student = tf.constant(TEACHER), tf.constant(STUDENT)
    one, two = (
        soft_targets.decoupled(teacher, student, temperature=T, target=a, others=b).numpy() for a, b in ((1, 0), (0, 1))
    )
    rest = 1 - softmax(TEACHER / T).max(-1)
    np.testing.assert_allclose(one + rest * two, expected_kl(), rtol=1e-9)


@pytest.mark.parametrize(("focusing", "smoothing"), [(0.0, 0.0), (2.0, 0.0), (0.0, 0.1), (1.5, 0.2)])
def test_the_hard_loss(focusing, smoothing):
    labels = np.array([0, 1, 2, 3, 0])
    y, q = (1 - smoothing) * np.eye(4)[labels] + smoothing / 4, softmax(STUDENT)
    expected = -(y * (1 - q) ** focusing * np.log(q)).sum(-1)
    loss = FocalSmoothed(focusing, smoothing, from_logits=True)
    np.testing.assert_allclose(loss.call(tf.constant(labels), tf.constant(STUDENT, tf.float32)), expected, rtol=1e-5)
    np.testing.assert_allclose(
        loss(np.eye(4)[labels], STUDENT), FocalSmoothed(focusing, smoothing)(labels[:, None], q), rtol=1e-4
    )
    assert float(loss(np.eye(4)[labels].tolist(), STUDENT.tolist())) == pytest.approx(expected.mean(), rel=1e-5)
    error = gradient_error(
        lambda logits: soft_targets.focal_smoothed(
            tf.constant(labels), logits, focusing=focusing, smoothing=smoothing, form="values"
        ),
        STUDENT,
    )
    assert error < 1e-3


def test_the_derivative_is_finite_where_a_student_is_sure():
    logits = tf.Variable([[40.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        loss = FocalSmoothed(0.5, from_logits=True).call(tf.constant([0]), logits)
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_losses_survive_serialization():
    for loss in (OutputLoss("decoupled", others=2.0, temperature=4.0, form="probabilities"), FocalSmoothed(1.0, 0.1)):
        config = keras.saving.serialize_keras_object(loss)
        assert keras.saving.deserialize_keras_object(config).get_config() == loss.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OutputLoss("kll"), "Did you mean 'kl'"),
        (lambda: OutputLoss("kl", temperature=0), r"`temperature` must be a finite number in \(0, inf\]"),
        (lambda: OutputLoss("dist", betwen=1.0), "Did you mean 'between'"),
        (lambda: OutputLoss("kl", form="logit"), "Did you mean 'logits'"),
        (lambda: FocalSmoothed(smoothing=1.0), r"`smoothing` must be in \[0, 1\)"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
