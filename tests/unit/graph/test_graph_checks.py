import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from kopt.core.errors import InputError, NonFiniteError, UnsupportedModelError
from kopt.core.records.artifacts import TensorInfo
from kopt.graph import fingerprint, require_built, require_finite, signature

L = keras.layers

# Keras 3.15 reads its variables with `np.array(variable)` while it saves, which NumPy 2 deprecates.


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, inputs):
        return {"logits": self.dense(inputs)}


def two_inputs():
    a, b = keras.Input((3,), name="a"), keras.Input((2, 2), name="b", dtype="int32")
    return keras.Model({"b": b, "a": a}, {"y": L.Dense(2)(a), "z": L.Flatten()(b)})


@pytest.fixture
def small():
    return keras.Sequential([keras.Input((4,), name="x"), L.Dense(3, name="hidden"), L.BatchNormalization(name="norm")])


def test_require_built_says_how_to_build():
    with pytest.raises(InputError, match=r"not built.*model\.build\(\(None, \.\.\.\)\)"):
        require_built(keras.Sequential([L.Dense(2)], name="mine"))
    with pytest.raises(InputError, match=r"'sub.*' \(Subclassed\) was never called.*model\(x\)"):
        require_built(Subclassed())
    with pytest.raises(InputError, match=r"Received: builtins\.dict"):
        require_built({})


def test_require_built_accepts_what_has_variables(small):
    model = Subclassed()
    model(np.zeros((2, 4), "float32"))
    require_built(model)
    require_built(small)


def test_require_finite_counts_per_variable(small):
    require_finite(small)
    small.get_layer("hidden").bias.assign([np.nan, np.inf, -np.inf])
    small.get_layer("norm").moving_mean.assign([np.nan, np.nan, 0])
    with pytest.raises(NonFiniteError) as caught:
        require_finite(small)
    assert "in 2 variable(s)" in str(caught.value)
    assert "hidden/bias (1 NaN, 2 infinite of 3)" in str(caught.value)
    assert "norm/moving_mean (2 NaN, 0 infinite of 3)" in str(caught.value)


def test_fingerprint_survives_saving_and_compiling(small, tmp_path):
    before = fingerprint(small)
    small.compile("adam", "mse")
    assert fingerprint(small) == before
    small.save(tmp_path / "m.keras")
    assert fingerprint(keras.models.load_model(tmp_path / "m.keras", compile=False)) == before


def test_fingerprint_sees_one_weight_and_one_setting(small):
    before = fingerprint(small)
    bias = small.get_layer("hidden").bias
    bias.assign([0, 0, 1e-7])
    assert fingerprint(small) != before
    bias.assign([0, 0, 0])
    assert fingerprint(small) == before
    small.get_layer("hidden").activation = keras.activations.relu
    assert fingerprint(small) != before


@pytest.mark.slow
def test_another_process_gives_the_same_fingerprint_and_is_not_changed_by_the_import():
    code = """
import os
before = dict(os.environ)
import keras, tensorflow as tf
from kopt.graph import fingerprint
assert dict(os.environ) == before
assert tf.keras.__version__ == keras.__version__
x = keras.Input((4,), name="x")
y = keras.layers.Dense(2, kernel_initializer="ones", name="dense")(x) * 2
print(fingerprint(keras.Model(x, y, name="model")))
"""
    x = keras.Input((4,), name="x")
    hidden = L.Dense(2, kernel_initializer="ones", name="dense")(x)
    keras.utils.clear_session()  # names the next operation as a fresh process does
    model = keras.Model(x, hidden * 2, name="model")
    environment = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert other.stdout.strip() == fingerprint(model)


def test_fingerprint_of_a_model_without_config():
    class NoConfig(Subclassed):
        def get_config(self):
            raise NotImplementedError

    model, other = NoConfig(), NoConfig()
    for each in (model, other):
        each(np.zeros((2, 4), "float32"))
        each.set_weights([np.ones((4, 3)), np.zeros(3)])
    assert fingerprint(model) == fingerprint(other)
    other.dense.bias.assign([0, 0, 1])
    assert fingerprint(model) != fingerprint(other)


def test_signature_of_a_sequential(small):
    assert signature(small) == (
        (TensorInfo("x", (None, 4), "float32"),),
        (TensorInfo("norm", (None, 3), "float32"),),
    )


def test_signature_takes_the_keys_of_dicts():
    inputs, outputs = signature(two_inputs())
    assert inputs == (TensorInfo("a", (None, 3), "float32"), TensorInfo("b", (None, 2, 2), "int32"))
    assert outputs == (TensorInfo("y", (None, 2), "float32"), TensorInfo("z", (None, 4), "int32"))


def test_signature_tells_the_outputs_of_one_layer_apart():
    x = keras.Input((5, 2))
    model = keras.Model(x, L.LSTM(3, return_state=True, name="lstm")(x))
    assert [info.name for info in signature(model)[1]] == ["lstm", "lstm_1", "lstm_2"]


def test_signature_of_a_subclassed_model_frees_the_batch():
    model = Subclassed()
    model(np.zeros((7, 4), "float32"))
    assert signature(model) == (
        (TensorInfo("input", (None, 4), "float32"),),
        (TensorInfo("logits", (None, 3), "float32"),),
    )


def test_signature_of_a_subclassed_model_with_two_arguments_is_refused():
    class TwoArguments(Subclassed):
        def call(self, inputs, other):
            return self.dense(inputs) + self.dense(other)

    model = TwoArguments()
    model(np.zeros((7, 4), "float32"), np.zeros((7, 4), "float32"))
    with pytest.raises(UnsupportedModelError, match="one argument"):
        signature(model)


def test_the_signature_of_a_subclassed_model_leaves_its_losses():
    class Penalized(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2, kernel_initializer="ones", activity_regularizer=keras.regularizers.L1(1))

        def call(self, inputs):
            self.add_loss(keras.ops.sum(inputs))
            return self.dense(inputs)

    model = Penalized()
    model(np.ones((1, 3), "float32"))
    # The sum of three ones, and two outputs of 3.
    assert sorted(map(float, model.losses)) == [3.0, 6.0]
    signature(model)
    assert sorted(map(float, model.losses)) == [3.0, 6.0]
    model(np.ones((2, 3), "float32"))
    assert sorted(map(float, model.losses)) == [6.0, 6.0]  # the regularizer divides by the size of the batch
