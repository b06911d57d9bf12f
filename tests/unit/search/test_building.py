"""Another architecture in place of the model as given."""

import json

import keras
import keras_tuner
import numpy as np
import pytest
import tuning_architectures

from kopt.core.errors import UnsupportedModelError
from kopt.core.records.search.techniques import BuildConfig, Step
from kopt.search.lessons import Lesson
from kopt.search.techniques import building
from kopt.search.techniques.catalog import BUILD, CATALOG
from kopt.search.techniques.work import Work
from kopt.search.training import Training
from kopt.search.trials.supplies import Terms, make_importable

WHERE = "tuning_architectures:build"


def digits_model(classes=10):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(classes, activation="softmax")]
    return keras.Sequential([keras.Input((8, 8, 1), name="image"), *layers])


def config(**values):
    return BuildConfig(epochs=1, builder=WHERE, values=json.dumps(values))


@pytest.mark.slow
def test_a_builder_hears_that_its_own_training_is_not_used(monkeypatch):
    def build(hp):
        model = digits_model()
        model.compile(keras.optimizers.SGD(0.5), "mse")
        return model

    monkeypatch.setattr(tuning_architectures, "build", build)
    x, y = np.zeros((24, 8, 8, 1), np.float32), np.arange(24) % 10
    training = Training(epochs=1, batch_size=8)
    work = Work(digits_model(), {"image": x}, training, Lesson(x[:16], y[:16]), Lesson(x[16:], y[16:]), _loss())
    said = building.built(work.original, config(), work).summary
    assert said.endswith("(what it was compiled with is not used: all architectures are trained alike)")


@pytest.mark.slow
def test_it_is_built_of_its_values_and_trained():
    x = np.random.default_rng(0).random((24, 8, 8, 1), np.float32)
    y = np.arange(24) % 10
    training = Training(epochs=1, batch_size=8)
    work = Work(digits_model(), {"image": x}, training, Lesson(x[:16], y[:16]), Lesson(x[16:], y[16:]), _loss())
    outcome = building.built(work.original, config(width=8, deep=True, second=4), work)
    kernels = [layer.filters for layer in outcome.model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert kernels == [8, 4]
    assert outcome.summary.startswith(f"{outcome.model.count_params():,} parameters in place of 650; 1 epoch(s)")
    untrained = building.hypermodel(WHERE).build(_hyperparameters(width=8, deep=True, second=4))
    assert untrained.count_params() == outcome.model.count_params()


def test_another_shape_than_that_of_the_model_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"output shape of the model as given, \(None, 3\)"):
        building.built(digits_model(3), config(width=4, deep=False), Work(None, {}))


def test_what_is_no_model_is_refused(monkeypatch):
    monkeypatch.setattr(tuning_architectures, "build", lambda hp: None)
    with pytest.raises(UnsupportedModelError, match=r"must return a built Keras model\. Received: None"):
        building.built(digits_model(), config(), Work(None, {}))


def test_modules_of_builders_are_imported_before_models_are_opened(monkeypatch):
    import sys

    steps = (Step("build", config()), CATALOG["recover"].step())
    assert building.modules_of(steps) == ("tuning_architectures",)
    monkeypatch.delitem(sys.modules, "tuning_architectures")
    make_importable(Terms(0, None, "null", (), ()), building.modules_of(steps))
    assert "tuning_architectures" in sys.modules


def test_a_builder_that_was_changed_makes_another_model():
    """The hash of its source is part of the step, by which models are kept."""
    found = building.source_sha256(WHERE)
    assert len(found) == 64
    one, other = (BUILD.step(builder=WHERE, source_sha256=text) for text in (found, "0" * 64))
    assert one != other
    assert one.label == other.label


def _loss():
    return keras.losses.SparseCategoricalCrossentropy()


def _hyperparameters(**values):
    found = keras_tuner.HyperParameters()
    found.values = dict(values)
    return found
