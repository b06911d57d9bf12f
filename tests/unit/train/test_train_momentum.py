import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError
from kopt.train import schedules
from kopt.train.optimizers.momentum import LiveFloat, MomentumSchedule


def test_sgd_with_a_momentum_schedule():
    schedule = schedules.OneCycleMomentum(4, low=0.5, high=0.9, warmup_fraction=0.5, shape="linear")
    optimizer = MomentumSchedule(keras.optimizers.SGD(0.1, momentum=0.9), schedule)
    weights = keras.Variable(np.zeros(1, np.float32))
    optimizer.build([weights])
    step = tf.function(lambda: optimizer.apply([tf.ones(1)], [weights]), jit_compile=True)
    w = v = 0.0
    for momentum in (0.9, 0.7, 0.5, 0.7, 0.9, 0.9):
        assert float(optimizer.momentum) == pytest.approx(momentum)
        step()
        v = momentum * v - 0.1
        w += v
        np.testing.assert_allclose(weights, [w], rtol=1e-5)
    assert optimizer.get_config()["inner_optimizer"]["config"]["momentum"] == 0.9


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adamax", "Lamb", "Lion"])
def test_a_constant_momentum_schedule_changes_nothing_and_another_does(name):
    make = {"SGD": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)}.get(
        name, getattr(keras.optimizers, name)
    )
    results = []
    for low in (None, 0.9, 0.1):
        schedule = schedules.OneCycleMomentum(3, low=low or 0.9, high=0.9)
        optimizer = make() if low is None else MomentumSchedule(make(), schedule)
        weights = keras.Variable(np.ones(3, np.float32))
        for gradient in ([0.1, 1.0, -2.0], [-0.5, 1.0, 0.1], [0.2, -1.0, 0.1]):
            optimizer.apply([tf.constant(gradient)], [weights])
        results.append(weights.numpy())
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)
    assert not np.allclose(results[0], results[2], rtol=1e-6)


def test_a_momentum_that_cannot_follow_is_refused():
    schedule = schedules.OneCycleMomentum(4)
    for optimizer in (keras.optimizers.SGD(0.1), keras.optimizers.Nadam(), keras.optimizers.RMSprop(momentum=0.9)):
        with pytest.raises(ConfigError, match=r"has no momentum that can follow"):
            MomentumSchedule(optimizer, schedule)
    with pytest.raises(ConfigError, match=r"`schedule` must be a LearningRateSchedule"):
        MomentumSchedule(keras.optimizers.Adam(), 0.9)


def test_a_live_number_is_read_in_every_step_and_saved_as_it_was():
    value = tf.Variable(0.5)
    live = LiveFloat(0.9, lambda: value)
    x = tf.constant([2.0])
    forms = [
        (lambda m: x * m, lambda m: 2 * m),
        (lambda m: m * x, lambda m: 2 * m),
        (lambda m: m + 1, lambda m: m + 1),
        (lambda m: x + m, lambda m: 2 + m),
        (lambda m: m - 1.0, lambda m: m - 1),
        (lambda m: 1 - m, lambda m: 1 - m),
        (lambda m: m / x, lambda m: m / 2),
        (lambda m: 1.0 / m, lambda m: 1 / m),
        (lambda m: m**2, lambda m: m**2),
        (lambda m: 2.0**m, lambda m: 2**m),
        (lambda m: -m, lambda m: -m),
        (lambda m: keras.ops.power(keras.ops.cast(m, "float32"), x), lambda m: m**2),
    ]
    traced = tf.function(lambda: [form(live) for form, _ in forms])
    for number in (0.5, 0.25):
        value.assign(number)
        found = [np.ravel(result)[0] for result in traced()]
        np.testing.assert_allclose(found, [expected(number) for _, expected in forms], rtol=1e-6)
    assert (float(live), live == 0.9, repr(live)) == (0.9, True, "0.9")
    assert (tf.constant(1.0, tf.float16) * live).dtype == tf.float16
