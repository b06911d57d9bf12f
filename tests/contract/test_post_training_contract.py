"""Every row of the table of post-training options does what it says it does, and nothing else."""

import keras
import numpy as np
import pytest

import kopt
from kopt.quantize.after_training.options import OPTIONS
from kopt.quantize.modes import unrounded
from kopt.quantize.ranges import Quantizer
from kopt.quantize.weights import QuantizedWeights

L = keras.layers
X = np.random.default_rng(0).random((32, 6, 6, 3), np.float32)
X[:, 0, 0] = 0.0  # the least value of the first convolution, in every example


def network():
    """A net with work for every option: a bias above 0, weights far out, rare values, channels that differ."""
    keras.utils.set_random_seed(1)
    i = keras.Input((6, 6, 3), name="x")
    x = L.Conv2D(4, 1, activation="relu", name="first")(i)
    x = L.Conv2D(160, 3, activation="relu", name="second")(x)
    model = keras.Model(i, L.Dense(3, name="last")(L.Flatten()(x)), name="net")
    first, last = model.get_layer("first"), model.get_layer("last")
    first.kernel.assign(np.abs(first.kernel))
    first.bias.assign([9.0, 1, 0, 0])
    kernel = last.kernel.numpy()
    kernel[0] = 1.3 * np.abs(kernel).max(axis=0)
    last.kernel.assign(kernel)
    return model


def parts(copy):
    weights = [one for one in copy.layers if isinstance(one, QuantizedWeights)]
    return {
        "kernels": [one.layer.kernel.numpy() for one in weights],
        "biases": [one.layer.bias.numpy() for one in weights],
        "ranges": [one.ranges.numpy() for one in copy.layers if isinstance(one, Quantizer)],
    }


def differ(one, other):
    return any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("option", list(OPTIONS.values()), ids=list(OPTIONS))
def test_an_option(option, tmp_path):
    model = network()
    plain, _ = kopt.quantize.post_training(model, X, options=())
    copy, report = kopt.quantize.post_training(model, X, options=option.name, iterations=30)
    row = next(one for one in report.options if one.name == option.name)
    assert row.kept
    assert row.layers >= 1
    assert row.reason
    assert row.error == report.error
    assert [one.name for one in report.options] == list(OPTIONS)
    assert {one.reason for one in report.options if one.name != option.name} == {"not asked for"}

    before, after = parts(plain), parts(copy)
    assert {name for name in before if differ(before[name], after[name])} == set(option.changes)

    with unrounded():
        exact = np.asarray(copy(X, training=False))
    if option.same_function:
        np.testing.assert_allclose(exact, model(X), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(copy(X), model(X), atol=0.2 * float(np.abs(model(X)).max()))

    copy.save(tmp_path / "copy.keras")
    loaded = keras.models.load_model(tmp_path / "copy.keras")
    np.testing.assert_array_equal(loaded(X), copy(X))
    assert loaded.quantization == report.quantization
