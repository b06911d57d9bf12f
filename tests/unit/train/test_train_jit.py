import keras
import numpy as np
import pytest
import tensorflow as tf
from training_cases import examples, largest_difference, network

from kopt.core.records.training.steps import StepConfig
from kopt.train.steps.jit import JitTrial, refusal
from kopt.train.steps.runner import Runner
from kopt.train.steps.update import Update


def simulate(plain_ms, jit_ms, ahead=1e9, calls=20):
    """Return the trial and the forms that ran, when a step takes so long in each form."""
    trial, forms = JitTrial("auto"), []
    for _ in range(calls):
        jit = trial.next_form(ahead)
        if jit and True not in forms:
            trial.compiled(3.0)
        forms.append(jit)
        trial.record(jit, 1e-3 * (jit_ms if jit else plain_ms) * 10, 10)
    return trial, forms


def test_the_faster_form_is_kept():
    trial, forms = simulate(2.0, 1.0)
    assert forms[:6] == [False, True] * 3
    assert forms[6:] == [True] * 14
    decision = trial.decision
    assert decision.jit_compile
    assert decision.reason == "measured: compiled steps run at 2.00 times the speed of plain ones"
    assert (decision.plain_step_ms, decision.jit_step_ms, decision.compile_s) == pytest.approx((2.0, 1.0, 3.0))


def test_a_hopeless_compilation_gets_one_round_only():
    trial, forms = simulate(2.0, 3.1)
    assert forms == [False, True] + [False] * 18
    assert not trial.decision.jit_compile


def test_a_short_training_is_not_worth_a_compilation():
    # 1000 steps of 2 ms are 2 s.
    trial, forms = simulate(2.0, 1.0, ahead=1000)
    assert forms == [False] * 20
    assert trial.decision is None
    assert trial.undecided().reason == "not tried: too little training for a compilation to pay"
    assert trial.undecided().plain_step_ms == pytest.approx(2.0)


def test_a_training_without_a_known_end_is_measured_after_ten_seconds():
    # A call takes 10 x 200 ms = 2 s.
    _, forms = simulate(200.0, 100.0, ahead=None, calls=8)
    assert forms == [False] * 5 + [True, False, True]


def test_asked_for_is_not_measured():
    assert JitTrial(True).decision.jit_compile
    assert not JitTrial(False).decision.jit_compile
    assert JitTrial("auto", "it cannot").decision.reason == "it cannot"


def test_layers_that_xla_does_not_know_refuse():
    model = keras.Sequential([keras.Input((), dtype="string"), keras.layers.Hashing(3)])
    assert "hashing" in refusal(model, tf.distribute.get_strategy())
    assert refusal(network(), tf.distribute.get_strategy()) is None


@pytest.mark.slow
def test_the_remainder_costs_no_second_compilation():
    x, y = examples(40)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    models = []
    for jit in (False, True):
        # XLA draws other random numbers, and Adam turns rounding of gradients that are zero into steps.
        model = network(dropout=0, batch_norm=False, optimizer=keras.optimizers.SGD(0.1))
        models.append(model)
        model.optimizer.build(model.trainable_variables)
        update = Update(model, StepConfig(jit_compile=jit))
        iterator = iter(data)
        runner = Runner(update, iterator.element_spec, next(iterator))
        assert runner.run(iter(data), 10).taken == 3
    assert largest_difference(*models) < 1e-5
    compiled = runner._compiled.structured_input_signature[0][0]
    assert compiled[0].shape == (16, 6, 6, 1)


@pytest.mark.slow
def test_a_model_that_xla_cannot_compile_goes_on_plain(monkeypatch):
    class Printing(keras.layers.Layer):
        def call(self, x):
            return tf.reshape(tf.strings.to_number(tf.strings.as_string(tf.stop_gradient(x))), tf.shape(x)) + x

    monkeypatch.setattr("kopt.train.steps.jit.WORTHWHILE_S", 0.0)
    x, y = examples(64)
    model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), Printing(), keras.layers.Dense(4)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8).repeat()
    iterator = iter(data)
    runner = Runner(Update(model, StepConfig()), iterator.element_spec, next(iterator))
    for _ in range(8):
        assert runner.run(iterator, 2, 1e6).taken >= 1
    assert runner.decision.reason.startswith("XLA cannot compile this model: ")
    assert np.isfinite(model.get_weights()[0]).all()
