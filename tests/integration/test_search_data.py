"""A search over a model of two inputs, that learns from a data set with weights."""

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
