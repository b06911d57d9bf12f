"""Searches over what data sets give: several inputs and weights, texts, examples in another order every time."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import kopt
from kopt import measure
from kopt.search.trials import examples

pytestmark = pytest.mark.slow


def two_inputs():
    keras.utils.set_random_seed(0)
    left, right = keras.Input((12,), name="left"), keras.Input((8,), name="right")
    x = keras.layers.Concatenate()([left, right])
    x = keras.layers.Dense(64, activation="relu")(keras.layers.Dense(64, activation="relu")(x))
    model = keras.Model({"left": left, "right": right}, keras.layers.Dense(3, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def test_inputs_by_name_and_weights_go_all_the_way(tmp_path):
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(500, width)).astype(np.float32) for name, width in (("right", 8), ("left", 12))}
    y = x["left"][:, :3].argmax(axis=1)
    weights = rng.random(500).astype(np.float32)
    model = two_inputs()
    model.fit(x, y, epochs=10, verbose=0)
    judged = {name: array[400:] for name, array in x.items()}
    rows = {name: array[:400] for name, array in x.items()}
    result = kopt.optimize(
        model,
        tf.data.Dataset.from_tensor_slices((rows, y[:400], weights[:400])).batch(64),
        (judged, y[400:]),
        techniques=("low_rank", "tflite-float32"),
        budget=kopt.Budget(0.5, "size"),
        training=kopt.Training(epochs=1),
        trials=2,  # two strengths
        samples=20,
        workdir=tmp_path / "run",
        progress=None,
    )
    assert "its 400 examples are kept in the work directory" in " ".join(result.notes)
    (supplies,) = (tmp_path / "run").glob("supplies-*")
    found = examples.read(supplies / "train")
    assert [len(part) for part in found[1:]] == [360, 360]
    of_row = {tuple(row): weight for row, weight in zip(x["left"], weights, strict=True)}
    assert [of_row[tuple(row)] for row in found[0]["left"]] == found[2].tolist()
    assert any(one.steps for one in result.candidates), "what was trained became a file"
    for one in result.candidates:
        answers = measure.load(one.artifact.path).predict(judged).argmax(axis=1)
        assert one.evaluation.metrics["accuracy"] == pytest.approx(np.mean(answers == y[400:]))


def anew(x, y):
    """Return a data set that is in another order whenever it is read."""
    return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(y)).batch(16)


def test_data_sets_that_are_shuffled_anew_are_the_same_data(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1600, 6)).astype(np.float32)
    y = x.argmax(axis=1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6, activation="softmax")])

    def optimized(*data):
        budget, ways = kopt.Budget(0.5, "size"), ("tflite-float32", "tflite-int8")
        return kopt.optimize(
            model, *data, budget=budget, techniques=ways, samples=20, workdir=tmp_path / "run", progress=None
        )

    first = optimized(anew(x[:1400], y[:1400]), anew(x[1400:], y[1400:]))
    made = {one.name: Path(one.artifact.path).stat().st_mtime_ns for one in first.candidates}
    again = optimized(anew(x[:1400], y[:1400]), anew(x[1400:], y[1400:]))
    assert again.identity == first.identity
    assert {one.name: Path(one.artifact.path).stat().st_mtime_ns for one in again.candidates} == made
    assert [one.evaluation for one in again.candidates] == [one.evaluation for one in first.candidates]
    assert not any("also holds" in note for note in again.notes)
    # Half of the examples are not there any more, so that those of before are no calibration of this data set.
    fewer = optimized(anew(x[:700], y[:700]), anew(x[1400:], y[1400:]))
    assert fewer.identity["data"] != first.identity["data"]
    assert any("other data or settings" in note for note in fewer.notes)


@pytest.mark.long
def test_texts_of_a_data_set_are_searched_and_learned_from(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    words = np.array(["good", "bad", "fine", "poor", "film", "très long"])
    chosen = rng.choice(words, (300, 8))
    texts = np.array([[" ".join(row)] for row in chosen], object)
    y = (chosen == "good").any(axis=1).astype(int)
    layers = keras.layers
    index = layers.TextVectorization(max_tokens=20, output_sequence_length=10)
    index.adapt(texts.astype(str))
    i = keras.Input((1,), dtype="string", name="text")
    x = layers.GlobalMaxPooling1D()(layers.Embedding(20, 16)(index(i)))
    x = layers.Dense(64, activation="relu")(layers.Dense(64, activation="relu")(x))
    model = keras.Model(i, layers.Dense(2, activation="softmax")(x))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(tf.constant(texts), y, epochs=5, verbose=0)
    result = kopt.optimize(
        model,
        anew(texts[:200], y[:200]),
        anew(texts[200:], y[200:]),
        techniques=("low_rank", "saved_model"),
        budget=kopt.Budget(0.5, "size"),
        training=kopt.Training(epochs=1),
        trials=2,
        samples=20,
        workdir=tmp_path / "run",
        progress=None,
    )
    assert any(one.steps and one.status == "ok" for one in result.candidates), result.notes
    assert "`train` was read into memory, because texts are not of one length." in result.notes
    for one in result.candidates:
        answers = measure.load(one.artifact.path).predict(texts[200:]).argmax(axis=1)
        assert one.evaluation.metrics["accuracy"] == pytest.approx(np.mean(answers == y[200:]))
