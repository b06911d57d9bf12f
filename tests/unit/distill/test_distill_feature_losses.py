"""Every loss on features against NumPy and against differences; bringing shapes together; the term of a pair."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from distillation_cases import gradient_error

from kopt.core.errors import ConfigError
from kopt.distill import Feature, FeatureLoss
from kopt.distill.features import FeatureTerm
from kopt.distill.losses import FEATURE_LOSSES, LOSSES
from kopt.distill.projection import brought, common_positions

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(2, 4, 2, 3, 3)) + 0.5  # four examples
FLAT = [one.reshape(4, -1) for one in (TEACHER, STUDENT)]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def expected_fitnet():
    return ((TEACHER - STUDENT) ** 2).mean((1, 2, 3))


def expected_cosine():
    return 1 - (unit(TEACHER) * unit(STUDENT)).sum(-1).mean((1, 2))


def expected_attention_transfer():
    one, other = (unit((values**2).sum(-1).reshape(4, -1)) for values in (TEACHER, STUDENT))
    return ((one - other) ** 2).sum(-1)


def expected_similarity():
    one, other = (unit(rows @ rows.T) for rows in FLAT)
    return ((one - other) ** 2).mean(-1)


def expected_relational():
    distances = [np.linalg.norm(rows[:, None] - rows[None], axis=-1) for rows in FLAT]
    one, other = (each / (each.sum() / 12) for each in distances)
    return np.where(abs(one - other) <= 1, (one - other) ** 2 / 2, abs(one - other) - 0.5).mean(-1)


def expected_contrastive():
    powers = np.exp(unit(FLAT[1]) @ unit(FLAT[0]).T / 0.1)
    return -np.log(np.diag(powers) / powers.sum(-1))


def expected_attention_maps():
    one, other = maps()
    return (one * np.log(one / other)).sum(-1).mean((1, 2))


def maps():
    return [values / values.sum(-1, keepdims=True) for values in (abs(TEACHER), abs(STUDENT))]


EXPECTED = {name.removeprefix("expected_"): value for name, value in globals().items() if name.startswith("expected_")}


def pair(kind):
    return maps() if kind == "attention_maps" else (TEACHER, STUDENT)


def test_every_loss_has_a_golden_value():
    assert set(EXPECTED) == set(FEATURE_LOSSES)


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
def test_values_are_those_of_numpy(kind):
    teacher, student = (tf.constant(one, tf.float32) for one in pair(kind))
    np.testing.assert_allclose(FeatureLoss(kind).call(teacher, student), EXPECTED[kind](), rtol=3e-5)
    np.testing.assert_allclose(FeatureLoss(kind)(teacher, student), EXPECTED[kind]().mean(), rtol=3e-5)


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
def test_gradients_are_those_of_differences(kind):
    teacher, student = pair(kind)
    function = LOSSES[kind].function
    assert gradient_error(lambda value: function(tf.constant(teacher), value), student) < 1e-5


@pytest.mark.parametrize("kind", ["similarity", "relational"])
def test_examples_that_agree_leave_gradients_finite(kind):
    student = tf.Variable(np.ones((3, 5)), dtype=tf.float64)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(LOSSES[kind].function(tf.constant(FLAT[0][:3, :5]), student))
    assert np.isfinite(tape.gradient(value, student)).all()


def test_other_numbers_of_heads_are_averaged():
    one, other = maps()
    expected = (one.mean(1) * np.log(one.mean(1) / other[:, :1].mean(1))).sum(-1).mean(1)
    np.testing.assert_allclose(
        LOSSES["attention_maps"].function(tf.constant(one), tf.constant(other[:, :1])), expected, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ((None, 8, 8, 3), (None, 8, 8, 5), (8, 8)),
        ((None, 4, 8, 3), (None, 8, 4, 5), (4, 4)),
        ((None, 16, 3), (None, 4, 4, 5), (16,)),
        ((None, 15, 3), (None, 4, 4, 5), ()),
        ((None, 3), (None, 4, 4, 5), ()),
        ((None, None, 3), (None, None, 5), (None,)),
        ((None, None, 3), (None, 7, 5), ()),
        ((None, 4, 4, 4, 3), (None, 8, 8, 8, 3), (4, 4, 4)),
        ((None, 3, 4, 4, 3), (None, 8, 8, 8, 3), ()),
    ],
)
def test_positions_that_two_tensors_have_in_common(student, teacher, expected):
    assert common_positions(student, teacher) == expected


def test_sizes_that_divide_are_averaged():
    tensor = np.arange(32, dtype="float32").reshape(1, 4, 4, 2)
    expected = tensor.reshape(1, 2, 2, 2, 2, 2).mean((2, 4))
    np.testing.assert_allclose(brought(tf.constant(tensor), (2, 2)), expected)
    np.testing.assert_allclose(brought(tf.constant(tensor), (16,)), tensor.reshape(1, 16, 2))
    np.testing.assert_allclose(brought(tf.constant(tensor), ()), tensor.mean((1, 2)))
    assert brought(tf.zeros((2, 5, 5, 3)), (3, 3)).shape == (2, 3, 3, 3)
    # Along a ramp, interpolation gives the ramp: centers of three parts of six are 0.5, 2.5, 4.5.
    ramp = tf.reshape(tf.range(6.0), (1, 6, 1))
    np.testing.assert_allclose(brought(ramp, (4,))[0, :, 0], [0.25, 1.75, 3.25, 4.75])


def test_a_projector_stands_where_channels_differ():
    term = FeatureTerm(Feature("a", "b"), (None, 4, 4, 2), (None, 2, 2, 3))
    assert term.match.bridge == "both at positions (2, 2), projector from 2 to 3 channels"
    term.projector.kernel.assign([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    student, teacher = RANDOM.normal(size=(3, 4, 4, 2)), RANDOM.normal(size=(3, 2, 2, 3))
    pooled = student.reshape(3, 2, 2, 2, 2, 2).mean((2, 4))
    projected = np.stack([pooled[..., 0], pooled[..., 1], 2 * pooled[..., 0]], -1)
    values = ((projected - teacher) ** 2).mean((1, 2, 3))
    ours, theirs = (tf.constant(one, tf.float32) for one in (student, teacher))
    np.testing.assert_allclose(term(theirs, ours), values.mean(), rtol=1e-5)
    weights = [1.0, 0.0, 3.0]
    np.testing.assert_allclose(term(theirs, ours, tf.constant(weights)), (values * weights).mean(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["fitnet", "cosine", "similarity"])
def test_padding_makes_no_difference(kind):
    term = FeatureTerm(Feature("a", loss=kind), (None, 5, 3), (None, 5, 3))
    student, teacher = RANDOM.normal(size=(2, 4, 5, 3)).astype("float32")
    mask = np.array([[1, 1, 1, 0, 0]] * 4, bool)
    results = []
    for padding in (0.0, 9.0):
        ours = tf.constant(np.where(mask[..., None], student, padding))
        ours._keras_mask = tf.constant(mask)
        results.append(float(term(tf.constant(teacher), ours)))
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    if kind != "similarity":
        alone = FeatureLoss(kind)(teacher[:, :3], student[:, :3])
        assert results[0] == pytest.approx(float(alone), rel=1e-5)


def test_features_survive_serialization():
    feature = Feature("a", "b", FeatureLoss("attention_transfer", power=1.0), 2.0)
    again = Feature.of(feature.to_config())
    assert (again.student, again.teacher, again.weight) == ("a", "b", 2.0)
    assert again.loss.get_config() == feature.loss.get_config()
    assert keras.saving.serialize_keras_object(again.loss)["registered_name"] == "kopt>FeatureLoss"


@pytest.mark.parametrize(
    ("feature", "student", "teacher", "message"),
    [
        (Feature("a", loss="attention_maps"), (None, 4, 4, 2), (None, 4, 5, 2), "as many queries and keys"),
        (Feature("a", loss="attention_transfer"), (None, 4), (None, 4, 4, 2), "have not in common"),
        (Feature("a"), (None, None), (None, 3), "must be known to make a projector"),
        (Feature("a"), (None,), (None, 3), "have examples and channels"),
    ],
)
def test_tensors_that_cannot_be_compared_are_refused(feature, student, teacher, message):
    with pytest.raises(ConfigError, match=message):
        FeatureTerm(feature, student, teacher)


@pytest.mark.parametrize("given", [3, ("a", "b", "c"), ("a", 1)])
def test_what_is_no_feature_is_refused(given):
    with pytest.raises(ConfigError, match="A feature is a layer name"):
        Feature.of(given)
