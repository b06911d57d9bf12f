import keras
import numpy as np
import pytest
from restructure_cases import (
    bits,
    distance,
    fits_one_step,
    inverted_residual,
    layer_types,
    randomize,
    residual,
    saves_and_loads,
)

from kopt.core.errors import InputError, UnsupportedModelError
from kopt.restructure import fold_batch_norm
from kopt.restructure.folding import scale_and_shift

L = keras.layers


def chain(*layers, shape=(8, 8, 4)):
    inputs = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return randomize(keras.Model(inputs, x, name="chain"))


def reasons(report):
    return {action.layer: action.detail for action in report.left}


def test_scale_and_shift_by_hand():
    # 3 / sqrt(3 + 1) = 1.5; 0.5 - 2 * 1.5 = -2.5
    scale, shift = scale_and_shift(np.array([3.0]), np.array([0.5]), np.array([2.0]), np.array([3.0]), 1.0)
    np.testing.assert_allclose([*scale, *shift], [1.5, -2.5])
    scale, shift = scale_and_shift(None, None, np.array([2.0]), np.array([3.0]), 1.0)
    np.testing.assert_allclose([*scale, *shift], [0.5, -1.0])


def test_weights_by_hand():
    model = keras.Sequential([keras.Input((2,)), L.Dense(1, name="dense"), L.BatchNormalization(epsilon=1.0)])
    dense, norm = model.layers
    dense.set_weights([np.array([[2.0], [4.0]]), np.array([1.0])])
    norm.set_weights([np.array([3.0]), np.array([0.5]), np.array([2.0]), np.array([3.0])])
    folded, report = fold_batch_norm(model)
    # y = 1.5 * (2 a + 4 b + 1) - 2.5 = 3 a + 6 b - 1
    kernel, bias = folded.get_layer("dense").get_weights()
    np.testing.assert_allclose(kernel, [[3.0], [6.0]], atol=1e-6)
    np.testing.assert_allclose(bias, [-1.0], atol=1e-6)
    # 2 + 1 of the dense layer, and gamma, beta, mean, variance before
    assert (report.parameters_before, report.parameters_after) == (7, 3)
    assert report.applied[0].detail == "into Dense 'dense'"


@pytest.mark.slow
@pytest.mark.parametrize("build", [residual, inverted_residual])
def test_nets_compute_the_same_without_normalization(build, tmp_path):
    model = randomize(build())
    before = bits(model)
    folded, report = fold_batch_norm(model)
    assert distance(model, folded) < 1e-5
    assert bits(model) == before
    assert "BatchNormalization" not in layer_types(folded)
    assert (len(report.applied), report.left) == (3, ())
    assert folded.output_names == model.output_names
    saves_and_loads(folded, tmp_path / "folded.keras")
    fits_one_step(folded)


HOSTS = [
    L.Conv2D(6, 3, padding="same", use_bias=False),
    L.Conv2D(6, 3, groups=2, strides=2),
    L.DepthwiseConv2D(3, depth_multiplier=2),
    L.SeparableConv2D(6, 3, depth_multiplier=2, padding="same"),
    L.Conv2DTranspose(6, 3, strides=2, padding="same"),
    L.Dense(6),
]


@pytest.mark.parametrize("config", [(type(h), h.get_config()) for h in HOSTS], ids=lambda c: c[0].__name__)
def test_into_the_layer_before(config):
    kind, values = config
    model = chain(kind.from_config(values), L.BatchNormalization(), L.ReLU())
    folded, _ = fold_batch_norm(model)
    assert distance(model, folded) < 1e-5
    assert layer_types(folded)[2:] == [kind.__name__, "ReLU"]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (lambda: L.Conv1D(5, 3, padding="causal"), (8, 4)),
        (lambda: L.DepthwiseConv1D(3), (8, 4)),
        (lambda: L.SeparableConv1D(5, 3), (8, 4)),
        (lambda: L.Conv1DTranspose(5, 3), (8, 4)),
        (lambda: L.Conv3D(5, 3), (4, 4, 4, 2)),
        (lambda: L.Conv3DTranspose(5, 2), (4, 4, 4, 2)),
    ],
    ids=["conv1d", "depthwise1d", "separable1d", "transpose1d", "conv3d", "transpose3d"],
)
def test_other_ranks(kind, shape):
    model = chain(kind(), L.BatchNormalization(), L.ReLU(), shape=shape)
    folded, _ = fold_batch_norm(model)
    assert distance(model, folded) < 1e-5


BEHIND = {
    "valid": L.Conv2D(6, 3, activation="relu"),
    "grouped": L.Conv2D(6, 3, groups=2, use_bias=False),
    "pointwise": L.Conv2D(6, 1, padding="same", strides=2),
    "depthwise": L.DepthwiseConv2D(3, depth_multiplier=2),
    "separable": L.SeparableConv2D(6, 3, depth_multiplier=2),
    "transposed": L.Conv2DTranspose(6, 1),
    "dense": L.Dense(6, activation="tanh"),
}


@pytest.mark.parametrize("name", BEHIND)
def test_into_the_layer_behind(name):
    layer = type(BEHIND[name]).from_config(BEHIND[name].get_config())
    model = chain(L.ReLU(), L.BatchNormalization(), layer)
    folded, report = fold_batch_norm(model)
    assert distance(model, folded) < 1e-5
    assert len(report.applied) == 1


@pytest.mark.parametrize("make", [lambda: L.Conv2D(6, 3, padding="same"), lambda: L.Conv2DTranspose(6, 3, strides=2)])
def test_padding_behind_is_left_unless_the_shift_is_zero(make):
    norm = L.BatchNormalization(name="norm", center=False)
    model = chain(L.ReLU(), norm, make(), L.BatchNormalization(name="foldable"))
    _, report = fold_batch_norm(model)
    assert "pads with zeros" in reasons(report)["norm"]
    norm.moving_mean.assign(np.zeros(4))
    folded, report = fold_batch_norm(model)
    assert report.left == ()
    assert distance(model, folded) < 1e-5


def test_normalizations_in_a_row():
    names = [L.BatchNormalization(name=f"norm{i}") for i in range(4)]
    model = chain(L.Conv2D(6, 3), *names[:2], L.ReLU(), *names[2:], L.Conv2D(5, 3))
    folded, report = fold_batch_norm(model)
    assert [row.name for row in report.applied] == ["norm0", "norm1", "norm2", "norm3"]
    assert distance(model, folded) < 1e-5


def test_what_cannot_be_folded_is_left_with_its_reason():
    inputs = keras.Input((8, 8, 4))
    shared = L.Conv2D(4, 3, padding="same", name="shared")
    a = L.BatchNormalization(name="after_shared")(shared(shared(inputs)))
    two = L.Conv2D(4, 3, padding="same", name="two")(L.ReLU()(a))
    b = L.BatchNormalization(name="several")(two)
    active = L.Conv2D(4, 3, padding="same", activation="relu", name="active")(L.Add()([b, two]))
    c = L.ReLU()(L.BatchNormalization(name="after_active")(active))
    d = L.ReLU()(L.BatchNormalization(name="rows", axis=1)(L.Conv2D(4, 3, name="wide")(c)))
    norm = L.BatchNormalization(name="twice")
    e = norm(L.ReLU()(norm(d)))
    f = L.BatchNormalization(name="batch")(L.Conv2D(4, 3)(e), training=True)
    g = L.BatchNormalization(name="good")(L.Conv2D(4, 1)(L.ReLU()(f)))
    model = randomize(keras.Model(inputs, g))
    folded, report = fold_batch_norm(model)
    left = reasons(report)
    assert [row.name for row in report.applied] == ["good"]
    assert left["after_shared"].startswith("Conv2D 'shared' before it is shared by 2 calls")
    assert left["several"].startswith("other layers use the output of Conv2D 'two'")
    assert left["after_active"].startswith("Conv2D 'active' before it has an activation")
    assert left["rows"].startswith("it normalizes axis 1")
    assert left["twice"] == "it is shared by 2 calls"
    assert "training=True" in left["batch"]
    # The normalization that is called in training mode stays in it.
    assert distance(model, folded) < 1e-5


def test_nested_models_are_entered():
    tower = chain(L.Conv2D(4, 3), L.BatchNormalization(name="inner"), L.ReLU(), shape=(None, None, 4))
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, L.Dense(2)(L.Subtract()([tower(inputs), tower(L.ReLU()(inputs))])))
    folded, report = fold_batch_norm(model)
    assert report.applied[0].name == "chain/inner"
    assert distance(model, folded) < 1e-5


def test_a_frozen_layer_stays_frozen_and_constraints_go():
    conv = L.Conv2D(4, 3, kernel_constraint="non_neg", trainable=False, name="conv")
    folded, _ = fold_batch_norm(chain(conv, L.BatchNormalization()))
    twin = folded.get_layer("conv")
    assert not twin.trainable
    assert twin.kernel_constraint is None


def test_another_precision_is_left():
    conv = L.Conv2D(4, 3, dtype="mixed_float16")
    with pytest.raises(UnsupportedModelError, match="computes in float16, it in float32"):
        fold_batch_norm(chain(conv, L.BatchNormalization(), L.ReLU()))


def test_nothing_to_fold():
    with pytest.raises(UnsupportedModelError, match="nothing to treat in model 'chain': it holds no BatchNorm"):
        fold_batch_norm(chain(L.Conv2D(4, 3)))
    with pytest.raises(UnsupportedModelError, match=r"none of 1 layer\(s\).*an input of the model comes before it"):
        fold_batch_norm(chain(L.BatchNormalization(), L.ReLU()))


def test_unbuilt_and_subclassed_models_are_refused():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = L.BatchNormalization()

        def call(self, inputs):
            return self.norm(inputs)

    model = Subclassed()
    with pytest.raises(InputError, match="never called"):
        fold_batch_norm(model)
    model(np.zeros((1, 4), "float32"))
    with pytest.raises(UnsupportedModelError, match="no graph of layers"):
        fold_batch_norm(model)
    with pytest.raises(InputError, match="not built"):
        fold_batch_norm(keras.Sequential([L.Dense(2), L.BatchNormalization()]))
    with pytest.raises(InputError, match=r"Expected a Keras 3 model.*builtins\.str"):
        fold_batch_norm("model.keras")
