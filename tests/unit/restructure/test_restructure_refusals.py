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


def test_the_room_loads_on_first_use():
    assert "restructure" in kopt.__all__
    code = "import kopt, sys; print('tensorflow' in sys.modules, 'kopt.restructure' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]
