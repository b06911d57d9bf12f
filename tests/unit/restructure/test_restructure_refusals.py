"""What none of the functions can treat."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import kopt
from kopt import restructure
from kopt.core.errors import InputError, UnsupportedModelError

L = keras.layers

FUNCTIONS = {
    "fold_batch_norm": restructure.fold_batch_norm,
    "low_rank": lambda model: restructure.low_rank(model, rank=1),
    "depthwise_separable": restructure.depthwise_separable,
    "reinitialize": restructure.reinitialize,
    "share_layers": restructure.share_layers,
    "scale": lambda model: restructure.scale(lambda width, depth, resolution: model),
}


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_built_model(name):
    call = FUNCTIONS[name]
    with pytest.raises(InputError, match=r"Expected a Keras 3 model \(`keras.Model`\). Received: builtins.str"):
        call("model.keras")
    with pytest.raises(InputError, match=r"is not built: its input shape is not known. Add"):
        call(keras.Sequential([L.Dense(3)]))
    with pytest.raises(InputError, match="was never called, so it has no variables yet"):
        call(Subclassed())


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "scale"])
def test_subclassed_models(name):
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    with pytest.raises(UnsupportedModelError, match="there is no graph of layers to rewrite"):
        FUNCTIONS[name](model)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "scale"])
def test_models_with_masks_which_would_be_lost(name):
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.BatchNormalization(), L.Conv2D(4, 3)])
    masked, _ = kopt.prune.magnitude(model, 0.5)
    for one in (masked, keras.Sequential([keras.Input((8, 8, 3)), masked])):
        with pytest.raises(InputError, match="carries masks or codebooks: take them off with `finalize` first"):
            FUNCTIONS[name](one)


def test_a_normalization_inside_another_layer_is_listed():
    layers = [L.TimeDistributed(L.BatchNormalization(name="norm"), name="steps"), L.Dense(3), L.BatchNormalization()]
    _, report = restructure.fold_batch_norm(keras.Sequential([keras.Input((4, 5)), *layers]))
    assert [(one.layer, one.detail) for one in report.left] == [
        ("steps/norm", "it is a part of 'steps' (TimeDistributed)")
    ]


def test_the_room_loads_on_first_use():
    assert "restructure" in kopt.__all__
    code = "import kopt, sys; print('tensorflow' in sys.modules, 'kopt.restructure' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]
