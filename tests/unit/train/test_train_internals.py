"""Fails when a Keras release changes what `kopt.train.internals` reads."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.train import internals

L = keras.layers


def test_loss_weights_are_what_compile_was_given():
    x = keras.Input((2,))
    model = keras.Model(x, {"a": L.Dense(1, name="a")(x), "b": L.Dense(1, name="b")(x)})
    model.compile(loss={"a": "mse", "b": "mse"}, loss_weights={"a": 2.0, "b": 0.5})
    assert internals.loss_weights(model) == {"a": 2.0, "b": 0.5}
    model.compile(loss="mse")
    assert internals.loss_weights(model) is None


@pytest.mark.parametrize("scaled", [False, True])
def test_an_optimizer_that_accumulates_says_when_it_updates(scaled):
    variable = keras.Variable([1.0])
    optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=3)
    outer = keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer
    outer.build([variable])
    assert internals.accumulated_steps(outer) == 3
    seen, changed = [], []
    for _ in range(6):
        before = variable.numpy()
        seen.append(bool(internals.is_updating(outer)))
        outer.apply([outer.scale_loss(tf.ones(1))], [variable])
        changed.append(bool(np.any(variable.numpy() != before)))
    assert seen == changed == [False, False, True] * 2
    assert int(internals.calls_of_apply(optimizer)) == 6
    assert internals.accumulated_steps(keras.optimizers.SGD()) == 1


def test_what_an_optimizer_changes_and_how_a_model_is_compiled():
    model = keras.Sequential([keras.Input((3,)), L.Dense(2)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    assert [id(one) for one in internals.trained_variables(model.optimizer)] == [
        id(one) for one in model.trainable_variables
    ]
    state = internals.compile_state(model)
    assert state == internals.compile_state(model)
    model.compile("adam", "mse")
    assert state != internals.compile_state(model)
    loss = internals.targets_loss(model, tf.zeros((4, 2)), tf.ones((4, 2)), None)
    assert float(loss) == 1.0
