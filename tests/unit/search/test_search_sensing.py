"""When the layers of the model as given are perturbed, and why not otherwise."""

import dataclasses

import keras
import numpy as np
import pytest

from kopt import measure
from kopt.core.records.search.budget import Budget
from kopt.profile import model as profile_of
from kopt.search.judging.examples import examiner_of
from kopt.search.judging.sensing import sensed
from kopt.search.trials.records import Trials

X = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
Y = X[:, :4].argmax(axis=1)


def network():
    """The class is the largest of the first four inputs: a kernel of one is always right."""
    found = keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(4, activation="softmax", name="classes")])
    found.layers[0].set_weights([np.eye(6, 4, dtype=np.float32), np.zeros(4, np.float32)])
    return found


@pytest.fixture
def model():
    made = network()
    made.compile("adam", "sparse_categorical_crossentropy")
    return made


def found(model, directory, y=Y, loss=None, **costs):
    examiner = examiner_of((X, y) if y is not None else X, measure.load(model), budget(y))
    known = dataclasses.replace(profile_of(model), **costs)
    return sensed(model, examiner, known, Trials(directory, {"model": "m"}), loss)


def budget(y):
    return Budget() if y is not None else Budget(metric="agreement")


def test_layers_are_perturbed_and_the_numbers_kept(model, tmp_path, monkeypatch):
    """Without 70% of its 24 weights, the largest of which are four ones, the kernel is what it was."""
    first = found(model, tmp_path)
    assert first.reason == ""
    assert [layer.layer for layer in first.profile.layers] == ["classes"]
    assert {one.perturbation: one.metric_drop for one in first.profile.layers[0].effects} == {
        "int8": 0.0,
        "int4": 0.0,
        "pruned_50": 0.0,
        "pruned_70": 0.0,
    }
    monkeypatch.setattr(
        "kopt.search.judging.sensing.profile.sensitivity", lambda *_, **__: pytest.fail("measured again")
    )
    assert found(model, tmp_path) == first


def test_a_serialized_loss_is_enough(tmp_path):
    model = network()
    assert "names no loss" in found(model, tmp_path).reason
    loss = keras.losses.serialize(keras.losses.SparseCategoricalCrossentropy())
    assert found(model, tmp_path, loss=loss).profile.metric == "accuracy"


def test_what_would_take_long_is_not_measured(model, tmp_path):
    """60 examples x 4 perturbations x half of a layer of 4e9 multiply-accumulates are 4.8e11."""
    layers = (dataclasses.replace(profile_of(model).layers[0], macs=4_000_000_000),)
    reason = found(model, tmp_path, layers=layers).reason
    assert "it would take about 5e+11 multiply-accumulates. `kopt.profile.sensitivity` measures it." in reason


def test_without_labels_or_layers_there_is_nothing_to_measure(model, tmp_path):
    assert "There are no labels" in found(model, tmp_path, y=None).reason
    examiner = examiner_of((X, Y), measure.load(model), Budget())
    trials = Trials(tmp_path, {"model": "m"})
    assert "The layers of a SavedModel are not known" in sensed(tmp_path, examiner, None, trials, None).reason
