"""Models that kopt adds something to: copies hold it, and clones of Keras, which do not, say so when they are used."""

import copy

import keras
import numpy as np
import pytest

import kopt
from kopt.core.errors import UnsupportedModelError

L = keras.layers
X = np.random.default_rng(0).random((32, 8), np.float32)
Y = X[:, :3]


def plain():
    inputs = keras.Input((8,))
    return keras.Model(inputs, L.Dense(3)(L.Dense(16, activation="relu")(inputs)))


MAKERS = {
    "masks": lambda: kopt.prune.magnitude(plain(), 0.5)[0],
    "codebooks": lambda: kopt.cluster.weights(plain(), clusters=4)[0],
    "rounding": lambda: kopt.quantize.aware(plain(), calibration=X)[0],
    "penalties": lambda: kopt.prune.group_lasso(plain(), 1e-3)[0],
}


@pytest.mark.parametrize("made", MAKERS)
def test_a_deep_copy_trains_on_as_its_model(made):
    model = MAKERS[made]()
    twin = copy.deepcopy(model)
    for one in (model, twin):
        one.compile("sgd", "mse")
        one.fit(X, Y, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("made", MAKERS)
def test_a_clone_of_keras_says_what_it_lacks(made, tmp_path):
    clone = keras.models.clone_model(MAKERS[made]())
    with pytest.raises(
        UnsupportedModelError, match=r"was made by `keras.models.clone_model`, which leaves out .*deepcopy"
    ):
        clone.save(tmp_path / "clone.keras")
    if made != "penalties":
        clone.compile("sgd", "mse")
        with pytest.raises(UnsupportedModelError, match="was made by"):
            clone.fit(X, Y, verbose=0)


@pytest.mark.parametrize("made", MAKERS)
def test_such_a_model_is_not_born_again(made):
    with pytest.raises(UnsupportedModelError, match="fresh copies would not have its "):
        kopt.distill.born_again(MAKERS[made](), 1, lambda model: None)
