import keras
import numpy as np
import pytest
import tensorflow as tf

import kopt
from kopt.core.errors import ConfigError, DataError, InputError, NonFiniteError, UnsupportedModelError
from kopt.profile.layer_sensitivity import sensitivity

L = keras.layers
X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
Y = np.arange(12) % 3


def model_of(*layers, loss="sparse_categorical_crossentropy"):
    model = keras.Sequential([keras.Input((4,)), *layers])
    if loss:
        model.compile(loss=loss)
    return model


@pytest.fixture
def model():
    return model_of(L.Dense(5, "relu", name="hidden"), L.Dense(3, "softmax", name="classes"))


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(InputError, match="not built"):
        sensitivity(keras.Sequential([L.Dense(3)]), (X, Y))


def test_weights_that_are_not_finite_are_refused(model):
    model.layers[0].kernel.assign(np.full((4, 5), np.nan))
    with pytest.raises(NonFiniteError, match="kernel"):
        sensitivity(model, (X, Y))


def test_a_missing_loss_is_named():
    with pytest.raises(ConfigError, match="There is no loss"):
        sensitivity(model_of(L.Dense(3, "softmax"), loss=None), (X, Y))


def test_a_loss_can_be_passed_to_a_model_that_is_not_compiled():
    model = model_of(L.Dense(3, "softmax"), loss=None)
    found = sensitivity(model, (X, Y), loss="sparse_categorical_crossentropy", perturbations=("int8",))
    assert found.metric == "accuracy"
    assert not model.compiled


@pytest.mark.parametrize("data", [X, (X,), (X, None), None, 3])
def test_missing_labels_are_named(model, data):
    with pytest.raises(DataError, match="label"):
        sensitivity(model, data)


def test_a_data_set_without_labels_is_refused(model):
    with pytest.raises(DataError, match="no labels"):
        sensitivity(model, tf.data.Dataset.from_tensor_slices(X).batch(4))


def test_a_data_set_that_never_ends_or_is_empty_is_refused(model):
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    with pytest.raises(DataError, match="without end"):
        sensitivity(model, dataset.repeat())
    with pytest.raises(DataError, match="no examples"):
        sensitivity(model, dataset.take(0))


def test_single_examples_of_a_data_set_are_refused(model):
    with pytest.raises(DataError, match=r"[Bb]atch"):
        sensitivity(model, tf.data.Dataset.from_tensor_slices((X, Y)))


def test_labels_out_of_range_are_refused_before_the_work_begins(model):
    with pytest.raises(DataError, match="7"):
        sensitivity(model, (X, np.full(12, 7)))


def test_inputs_that_do_not_fit_are_refused(model):
    with pytest.raises(DataError, match="5"):
        sensitivity(model, (np.zeros((12, 5), np.float32), Y))
    with pytest.raises(DataError, match="same number of examples"):
        sensitivity(model, (X, Y[:5]))


def test_bad_weights_are_refused(model):
    with pytest.raises(DataError, match="sample_weight"):
        sensitivity(model, (X, Y, np.full(12, -1.0)))


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"perturbations": ("int9000",)}, "Unknown perturbation 'int9000'"),
        ({"perturbations": ("pruned30",)}, "Did you mean 'pruned_30'"),
        ({"perturbations": ()}, "at least one"),
        ({"perturbations": "int8"}, "must be names"),
        ({"layers": ("clases",)}, "Did you mean 'classes'"),
        ({"layers": ("hidden/kernel",)}, "No layer 'hidden/kernel'"),
        ({"metric": "acuracy"}, "Unknown metric"),
        ({"loss": "crossentropi"}, "crossentropi"),
        ({"batch_size": 0}, "batch_size"),
        ({"probes": -1}, "probes"),
        ({"estimate_examples": 1.5}, "estimate_examples"),
        ({"cache_bytes": 0}, "cache_bytes"),
        ({"seed": -3}, "seed"),
    ],
)
def test_impossible_settings_are_refused(model, setting, match):
    with pytest.raises(ConfigError, match=match):
        sensitivity(model, (X, Y), **setting)


def test_a_loss_of_whole_batches_is_refused(model):
    with pytest.raises(ConfigError, match="one number an example"):
        sensitivity(model, (X, Y), loss=lambda y, outputs: tf.reduce_mean(outputs))


def test_a_model_with_a_loss_of_its_own_is_told_what_to_pass():
    class Own(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(y_pred)

    i = keras.Input((4,))
    model = Own(i, L.Dense(1)(i))
    model.compile(loss="mse")
    with pytest.raises(ConfigError, match="compute_loss"):
        sensitivity(model, (X, X[:, :1]))


def test_a_metric_of_keras_for_several_outputs_is_refused():
    i = keras.Input((4,))
    model = keras.Model(i, [L.Dense(1)(i), L.Dense(1)(i)])
    model.compile(loss=["mse", "mse"])
    with pytest.raises(ConfigError, match="several outputs"):
        sensitivity(model, (X, [X[:, :1], X[:, 1:2]]), metric="mae")


def test_a_model_without_kernels_is_refused():
    with pytest.raises(UnsupportedModelError, match="no kernel to perturb"):
        sensitivity(model_of(L.BatchNormalization(), loss="mse"), (X, X))


def test_a_loss_that_is_not_finite_is_located():
    i = keras.Input((4,))
    model = keras.Model(i, keras.ops.log(L.Dense(2)(i) - 1e6))
    model.compile(loss="mse")
    with pytest.raises(NonFiniteError, match="locate_nonfinite"):
        sensitivity(model, (X, X[:, :2]), estimate_examples=0)


def test_too_few_examples_are_told(model):
    found = sensitivity(model, (X[:3], Y[:3]), perturbations=("int8", "noise_1"))
    assert any("examples" in note for note in found.notes)


@pytest.mark.slow
def test_a_perturbation_that_breaks_the_model_ranks_first():
    i = keras.Input((4,))
    x = L.Dense(4, name="first")(i)
    x = L.Dense(1, use_bias=False, name="positive", kernel_initializer="ones")(keras.ops.exp(x))
    model = keras.Model(i, keras.ops.log(x))
    model.compile(loss="mse")
    found = sensitivity(model, (X, X[:, :1]), perturbations=("removed", "int8"))
    assert found.layer("positive").effect("removed").loss_change == np.inf
    assert found.ranking("loss", "removed")[0].layer == "positive"
    assert any("NaN or infinite" in note for note in found.notes)
    found.table()
    found.figure()
    assert kopt.core.records.profiles.sensitivity.SensitivityProfile.from_json(found.to_json()).layers == found.layers


def test_a_loss_of_a_binary_output_is_measured():
    model = model_of(L.Dense(1, "sigmoid"), loss="binary_crossentropy")
    found = sensitivity(model, (X, Y % 2), metric="binary_crossentropy", perturbations=("int8",))
    assert found.metric == "binary_crossentropy"
