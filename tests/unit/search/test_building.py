"""Another architecture in place of the model as given."""

import json

import keras
import keras_tuner
import numpy as np
import pytest
import tuning_architectures

import kopt
from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.core.records.search.techniques import BuildConfig, Step
from kopt.search.lessons import Lesson
from kopt.search.techniques import building
from kopt.search.techniques.catalog import BUILD, CATALOG
from kopt.search.techniques.work import Work
from kopt.search.training import Training
from kopt.search.trials.supplies import Terms, make_importable
from kopt.search.tuning.space import explored

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


def two_outputs(names):
    inputs = keras.Input((8, 8, 1), name="image")
    flat = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, [keras.layers.Dense(2, name=name)(flat) for name in names])


@pytest.mark.slow
def test_inputs_take_the_names_that_data_is_fed_under(monkeypatch):
    def build(hp):
        one, two = keras.Input((3,)), keras.Input((3,))
        return keras.Model([one, two], keras.layers.Dense(2)(one - two))

    monkeypatch.setattr(tuning_architectures, "build", build)
    one, two = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    model = keras.Model([one, two], keras.layers.Dense(2)(keras.layers.Concatenate()([one, two])))
    x, y = {"left": np.ones((24, 3), np.float32), "right": np.zeros((24, 3), np.float32)}, np.zeros((24, 2), np.float32)
    lessons = (Lesson({key: value[part] for key, value in x.items()}, y[part]) for part in (slice(16), slice(16, 24)))
    work = Work(model, x, Training(epochs=1, batch_size=8), *lessons, keras.losses.MeanSquaredError())
    made = building.built(model, config(), work).model
    assert [one.name for one in kopt.graph.signature(made)[0]] == ["left", "right"]
    kernel, bias = made.get_weights()
    np.testing.assert_allclose(made.predict(x, verbose=0), np.ones((24, 3)) @ kernel + bias, atol=1e-5)


def test_names_that_cannot_be_taken_are_refused(monkeypatch):
    monkeypatch.setattr(tuning_architectures, "build", lambda hp: two_outputs(("a", "b")))
    with pytest.raises(UnsupportedModelError, match=r"must name its outputs as the model as given does: a, c"):
        building.built(two_outputs(("a", "c")), config(), Work(None, {}))

    def clashing(hp):
        layers = [keras.layers.Flatten(name="image"), keras.layers.Dense(10, activation="softmax")]
        return keras.Sequential([keras.Input((8, 8, 1)), *layers])

    monkeypatch.setattr(tuning_architectures, "build", clashing)
    with pytest.raises(UnsupportedModelError, match=r"layers called 'image', as inputs of the model as given are"):
        building.built(digits_model(), config(), Work(None, {}))


def test_a_builder_that_fails_says_which_and_why(monkeypatch):
    monkeypatch.setattr(tuning_architectures, "build", lambda hp: 1 / 0)
    with pytest.raises(ConfigError, match=r"`builder` tuning_architectures:build fails: ZeroDivisionError: division"):
        explored(WHERE)


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
