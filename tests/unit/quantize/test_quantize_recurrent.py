"""Recurrent layers in integers: unrolled, they compute what Keras' do, train with kernels of their own, and ship."""

import keras
import numpy as np
import pytest

import kopt
from kopt.core.errors import UnsupportedModelError
from kopt.quantize import aware
from kopt.quantize.modes import unrounded
from kopt.quantize.recurrent import MOST_STEPS

L = keras.layers
X = np.random.default_rng(0).normal(size=(32, 5, 4)).astype("float32")
BIASED = {"bias_initializer": "random_normal"}
CASES = {
    "simple": lambda: L.SimpleRNN(6, **BIASED),
    "simple_relu": lambda: L.SimpleRNN(6, activation="relu"),
    "lstm": lambda: L.LSTM(6, **BIASED),
    "lstm_hard": lambda: L.LSTM(6, recurrent_activation="hard_sigmoid", use_bias=False),
    "lstm_backwards": lambda: L.LSTM(6, go_backwards=True, return_sequences=True),
    "lstm_states": lambda: L.LSTM(6, return_state=True),
    "gru": lambda: L.GRU(6, **BIASED),
    "gru_sequence": lambda: L.GRU(6, return_sequences=True, **BIASED),
    "gru_before": lambda: L.GRU(6, reset_after=False, **BIASED),
    "both_ways": lambda: L.Bidirectional(L.LSTM(6, **BIASED)),
    "both_ways_sequence": lambda: L.Bidirectional(L.GRU(6, return_sequences=True, **BIASED), merge_mode="sum"),
}


def net(layer, steps=5, **call):
    """A model of one recurrent layer, all of whose outputs are outputs of the model."""
    i = keras.Input((steps, 4), name="x")
    return keras.Model(i, layer(i, **call), name="net")


def parts(report):
    return [one.layer for one in report.kernels]


@pytest.mark.parametrize("case", CASES)
def test_unrolled_it_computes_what_keras_does(case):
    keras.utils.set_random_seed(0)
    model = net(CASES[case]())
    copy, report = aware(model)
    assert report.left == ()
    with unrounded():
        found = copy(X)
    for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(model(X)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_states_that_are_given_are_begun_with():
    sequence, state = keras.Input((5, 4), name="x"), keras.Input((6,), name="state")
    layer = L.LSTM(6)
    model = keras.Model([sequence, state], layer(sequence, initial_state=[state, state]))
    copy, report = aware(model)
    assert report.left == ()
    states = np.random.default_rng(1).normal(size=(32, 6)).astype("float32")
    with unrounded():
        np.testing.assert_allclose(copy([X, states]), model([X, states]), atol=1e-6)


@pytest.mark.slow
def test_a_kernel_is_there_once_and_trains_at_every_step(tmp_path):
    keras.utils.set_random_seed(0)
    model = net(L.LSTM(6, name="memory"))
    copy, report = aware(model)
    assert parts(report) == ["memory/kernel", "memory/recurrent"]
    assert copy.count_params() - sum(w.shape.num_elements() for w in copy.non_trainable_weights) == model.count_params()
    copy.compile(keras.optimizers.Adam(1e-2), "mse")
    y = np.repeat(X.mean(axis=(1, 2))[:, None], 6, axis=1)
    losses = copy.fit(X, y, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    copy.save(tmp_path / "copy.keras")
    np.testing.assert_array_equal(
        keras.saving.load_model(tmp_path / "copy.keras").predict(X, verbose=0), copy.predict(X, verbose=0)
    )


def test_a_recurrent_kernel_that_was_pruned_stays_sparse():
    model = net(L.GRU(6, name="memory"))
    kernel = model.get_layer("memory").cell.recurrent_kernel
    kernel.assign(np.where(np.arange(18) % 2, kernel, 0))
    copy, report = aware(model)
    assert {one.layer: one.zeros for one in report.kernels}["memory/recurrent"] == 0.5
    copy.compile("adam", "mse")
    copy.fit(X, np.zeros((32, 6)), verbose=0)
    trained = copy.get_layer("memory_recurrent").layer.kernel.numpy()
    assert not trained[:, ::2].any()
    assert trained[:, 1::2].all()


LONG = MOST_STEPS + 1


@pytest.mark.parametrize(
    ("layer", "steps", "reason"),
    [
        (lambda: L.LSTM(6), LONG, f"it goes over {LONG} steps; up to {MOST_STEPS} are unrolled"),
        (lambda: L.LSTM(6), None, "it goes over any number of steps"),
        (lambda: L.LSTM(6, dropout=0.2), 5, "its `dropout` would be lost"),
        (lambda: L.LSTM(6, activation="elu"), 5, "TFLite has no integer ELU"),
        (lambda: L.Bidirectional(L.LSTM(6), merge_mode="ave"), 5, "its `merge_mode` 'ave' has no rule"),
        (lambda: L.Bidirectional(L.LSTM(6, return_state=True)), 5, "states in two directions"),
    ],
)
def test_what_stays_in_float_is_listed_with_the_reason(layer, steps, reason):
    i = keras.Input((steps, 4), name="x")
    first, *_ = keras.tree.flatten(layer()(i))
    _, report = aware(keras.Model(i, L.Dense(3)(first)))
    (left,) = report.left
    assert reason in left.detail


def test_a_masked_sequence_stays_in_float():
    i = keras.Input((5,), dtype="int32", name="tokens")
    hidden = L.LSTM(6, name="memory")(L.Embedding(20, 4, mask_zero=True)(i))
    _, report = aware(keras.Model(i, L.Dense(3)(hidden)))
    assert {one.layer: one.detail for one in report.left}["memory"].startswith("it is called with a mask")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["simple", "lstm", "lstm_backwards", "gru", "gru_before", "both_ways"])
def test_the_file_computes_the_same_integers(case, tmp_path):
    keras.utils.set_random_seed(0)
    copy, _ = aware(net(CASES[case]()), calibration=X)
    artifact = kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int8")
    assert {one.name for one in artifact.operators if one.dtype.startswith("float")} <= {"DEQUANTIZE"}
    np.testing.assert_array_equal(kopt.measure.load(artifact.path).predict(X), copy.predict(X, verbose=0))


@pytest.mark.slow
def test_an_integer_file_without_training(tmp_path):
    """GRUs have no integer operator of their own, and the converter's calibration crashes on their loop."""
    keras.utils.set_random_seed(0)
    model = net(L.GRU(6, **BIASED))
    with pytest.raises(UnsupportedModelError, match=r"`kopt.quantize.post_training`"):
        kopt.export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=X)
    copy, _ = kopt.quantize.post_training(model, X)
    made = kopt.measure.load(kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int8").path).predict(X)
    expected = model.predict(X, verbose=0)
    assert np.sqrt(np.square(made - expected).mean()) < 0.03 * np.sqrt(np.square(expected).mean()) + 0.01


@pytest.mark.slow
def test_an_lstm_that_has_no_twin_is_unrolled(tmp_path):
    scale = L.Normalization(name="scale")
    scale.adapt(X)
    i = keras.Input((5, 4), name="x")
    model = keras.Model(i, L.LSTM(6)(scale(i)))
    with pytest.raises(UnsupportedModelError, match=r"'scale' .* has no tf_keras twin.* unroll RNNs"):
        kopt.export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=X)
    copy, _ = kopt.quantize.post_training(model, X, options=())
    kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int8")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lstm", "gru"])
def test_activations_of_sixteen_bits(case, tmp_path):
    keras.utils.set_random_seed(0)
    model = net(CASES[case]())
    copy, _ = aware(model, scheme="int16x8", calibration=X)
    made = kopt.measure.load(kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int16x8").path).predict(X)
    np.testing.assert_allclose(made, model.predict(X, verbose=0), atol=0.01)
    with pytest.raises(UnsupportedModelError, match="one scale for all"):
        aware(net(L.LSTM(6, return_sequences=True)), scheme="int16x8")
