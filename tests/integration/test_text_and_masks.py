"""Texts, masks and several labels, which images do not have."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kopt
from kopt.core.errors import DataError
from kopt.measure import load

pytestmark = pytest.mark.slow
L = keras.layers
TEXTS = np.array([f"good film {n}" if n % 3 else f"bad film {n}" for n in range(60)], object)
LABELS = np.array([bool(n % 3) for n in range(60)]).astype(int)


@pytest.fixture(scope="module")
def reader():
    """A classifier of strings, each a scalar."""
    keras.utils.set_random_seed(0)
    index = L.TextVectorization(max_tokens=100, output_sequence_length=4)
    index.adapt(TEXTS.astype(str))
    i = keras.Input((), dtype="string", name="text")
    x = L.GlobalMaxPooling1D()(L.Embedding(100, 8)(index(i)))
    model = keras.Model(i, L.Dense(2, activation="softmax")(x))
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(tf.constant(TEXTS), LABELS, epochs=10, verbose=0)
    return model


def test_scalars_of_text_are_chosen_and_written(tmp_path):
    batches = kopt.data.from_arrays(TEXTS, LABELS, batch_size=8)
    found = kopt.data.calibration(batches, samples=10)
    assert found.shape == (10,)
    assert set(found) <= {text.encode() for text in TEXTS}
    singles = tf.data.Dataset.from_tensor_slices((TEXTS.astype(str), LABELS))
    kopt.data.write_tfrecords(singles, tmp_path / "records", shards=1)
    again = kopt.data.from_tfrecords(tmp_path / "records", batch_size=60)
    x, y = next(iter(again))
    assert (x.numpy().tolist(), y.numpy().tolist()) == ([text.encode() for text in TEXTS], LABELS.tolist())


def test_a_bundle_classifies_texts(reader, tmp_path):
    kopt.serve.bundle(reader, tmp_path / "reader", data=TEXTS[:8], class_names=["bad", "good"], top_k=1, examples=True)
    server = kopt.serve.Server(tmp_path / "reader", port=0, log=lambda line: None)
    with server, kopt.serve.Client(server.url, "reader") as client:
        (rows,) = client.classify([{"text": "good film 1"}])
    assert max(rows, key=lambda one: one[1])[0] == "good"


def test_a_server_that_watches_itself_keeps_texts_and_their_lengths(reader, tmp_path):
    kopt.export.saved_model(reader, tmp_path / "reader" / "1", data=TEXTS[:8])
    profile = kopt.serve.write_profile(tmp_path / "reader", (TEXTS, LABELS), labelled=True)
    assert [one.name for one in profile.inputs.features] == ["text length"]
    watched = kopt.serve.Monitoring(log=str(tmp_path / "log"))
    server = kopt.serve.Server(tmp_path / "reader", port=0, monitoring=watched, log=lambda line: None)
    with server, kopt.serve.Client(server.url, "reader") as client:
        client.predict(TEXTS[:5].astype(str), request_id="a")
        client.label("a", LABELS[:5])
    x, y = kopt.serve.logged_examples(tmp_path / "log")
    assert (x.tolist(), y.tolist()) == (TEXTS[:5].tolist(), LABELS[:5].tolist())
    assert kopt.measure.evaluate(reader, (x, y)).metrics["accuracy"] == 1.0


def test_advice_looks_at_texts_as_at_everything_else(reader):
    advice = kopt.advise(reader, (TEXTS[:40], LABELS[:40]), (TEXTS[40:], LABELS[40:]))
    assert not any("Invalid dtype" in look.reason for look in advice.looks if look.seconds is None)


def test_text_with_gaps_says_how_many():
    with pytest.raises(DataError, match=r"2 of its 3 values are text: fill the others"):
        kopt.data.from_arrays(np.array(["a", None, "b"], object), batch_size=1)


@pytest.fixture(scope="module")
def masked():
    """A classifier of tokens of which 0 is none, with attention; the class is whether a token is there."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.integers(2, 20, (400, 12)).astype("int32")
    x[np.arange(12) >= rng.integers(4, 12, 400)[:, None]] = 0
    y = (x == 5).any(axis=1).astype(int)
    i = keras.Input((12,), dtype="int32", name="tokens")
    h = L.Embedding(20, 16, mask_zero=True)(i)
    h = L.LayerNormalization()(L.Add()([h, L.MultiHeadAttention(2, 8, name="attention")(h, h)]))
    h = L.GlobalAveragePooling1D(name="average")(h)
    model = keras.Model(i, L.Dense(2, activation="softmax")(L.Dense(16, activation="relu")(h)))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=15, verbose=0)
    return model, x, y


def test_scores_under_a_mask_keep_their_differences_in_an_int8_file(masked, tmp_path):
    model, x, _ = masked
    made = kopt.export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x[:100])
    assert any(note.startswith("attention: in float") for note in made.notes)
    difference = np.abs(load(made.path).predict(x) - model.predict(x, verbose=0))
    assert difference.max() < 0.15
    assert difference.mean() < 0.01


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_scores_under_a_mask_keep_their_differences_in_an_int8_onnx_file(masked, tmp_path, runtime):
    model, x, _ = masked
    made = kopt.export.onnx(model, tmp_path / "m.onnx", scheme="int8", calibration=x[:100], runtime=runtime)
    assert np.abs(load(made.path).predict(x) - model.predict(x, verbose=0)).max() < 0.05


def test_positions_of_a_small_variance_are_normalized_in_an_int8_onnx_file(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    scales = 10 ** rng.uniform(-1, 1, (256, 1, 1))
    x = (rng.normal(size=(256, 6, 16)) * scales).astype("float32")
    model = keras.Sequential([keras.Input((6, 16)), L.Dense(16), L.LayerNormalization(), L.Dense(4)])
    made = kopt.export.onnx(model, tmp_path / "m.onnx", scheme="int8", calibration=x[:100])
    expected = model.predict(x, verbose=0)
    # Integers of the inputs alone, of which the largest are 100 times the smallest, cost this much.
    assert np.abs(load(made.path).predict(x) - expected).mean() < 0.2 * expected.std()


def test_an_average_under_a_mask_is_left_in_float_and_said(masked, tmp_path):
    model, x, _ = masked
    copy, report = kopt.quantize.post_training(model, x[:100])
    left = {one.layer: one.detail for one in report.quantization.left}
    assert "averages what a mask lets through" in left["average"]
    made = kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int8")
    assert np.abs(load(made.path).predict(x) - model.predict(x, verbose=0)).mean() < 0.02


def test_a_split_is_labelled_data_and_several_labels_are_compared(tmp_path):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
    y = (x[:, :3] > 0).astype(int)
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="sigmoid")])
    other = keras.models.clone_model(model)
    kernel = np.concatenate([4 * np.eye(3), np.zeros((1, 3))])
    model.set_weights([kernel, np.zeros(3)])
    other.set_weights([kernel[[1, 0, 2, 3]], np.zeros(3)])  # two labels of three are guessed
    split = kopt.data.Split(x, y)
    assert kopt.measure.evaluate(model, split, metrics=("binary_accuracy",)).metrics["binary_accuracy"] == 1.0
    result = kopt.measure.ab_test(other, model, (x, y), metric="binary_accuracy")
    share = ((other.predict(x, verbose=0) > 0.5) == (y > 0)).mean()
    assert result.difference == pytest.approx(1.0 - share)
