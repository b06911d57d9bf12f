import keras
import numpy as np
import pytest
from restructure_cases import bits, distance, fits_one_step, layer_types, noise, randomize, residual, saves_and_loads

from kopt.core.errors import ConfigError, NonFiniteError, UnsupportedModelError
from kopt.restructure import low_rank

L = keras.layers


def dense(rank=None):
    """A net of one 20 x 30 kernel, of the given rank, and a layer of 3 units."""
    model = keras.Sequential([keras.Input((20,)), L.Dense(30, "relu", name="wide"), L.Dense(3, name="out")])
    if rank is not None:
        random = np.random.default_rng(0)
        kernel = random.normal(size=(20, rank)) @ random.normal(size=(rank, 30))
        model.layers[0].kernel.assign(kernel)
    return randomize(model)


def test_a_kernel_of_low_rank_is_reproduced(tmp_path):
    model = dense(rank=4)
    before = bits(model)
    smaller, report = low_rank(model, rank=4, layers=["wide"])
    assert distance(model, smaller) < 1e-5
    assert [layer.name for layer in smaller.layers[1:]] == ["wide_in", "wide", "out"]
    # 20 * 30 + 30 = 630 become 20 * 4 + 4 * 30 + 30 = 230; 600 multiply-accumulates become 200.
    row = report.applied[0]
    assert (row.parameters_before, row.parameters_after, row.macs_before, row.macs_after) == (630, 230, 600, 200)
    assert row.error < 1e-7
    assert bits(model) == before
    saves_and_loads(smaller, tmp_path / "smaller.keras")
    fits_one_step(smaller)


def test_energy_finds_the_rank():
    _smaller, report = low_rank(dense(rank=4), energy=1.0, layers="wide")
    assert report.applied[0].detail == "rank 4 of 20: 4, 30"
    _, report = low_rank(dense(), energy=0.8, layers="wide")
    assert report.applied[0].error <= np.sqrt(0.2)


def test_the_error_is_that_of_the_weights():
    model = dense()
    smaller, report = low_rank(model, rank={"wide": 5})
    kernel = np.asarray(model.get_layer("wide").kernel)
    product = np.asarray(smaller.get_layer("wide_in").kernel) @ np.asarray(smaller.get_layer("wide").kernel)
    error = np.linalg.norm(kernel - product) / np.linalg.norm(kernel)
    assert report.applied[0].error == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("conv", ["tucker", "channel", "spatial"])
@pytest.mark.parametrize(
    "settings",
    [
        {"padding": "same"},
        {"strides": (2, 1), "padding": "valid", "activation": "relu"},
        {"strides": 2, "padding": "same", "use_bias": False},
        {"dilation_rate": (2, 1), "padding": "same"},
        {"kernel_size": 1, "strides": 2},
    ],
    ids=["same", "strided", "same_strided", "dilated", "pointwise"],
)
def test_full_rank_computes_the_same(conv, settings):
    layer = L.Conv2D(6, **{"kernel_size": (3, 5), "name": "conv", **settings})
    model = randomize(keras.Sequential([keras.Input((9, 8, 4)), layer]))
    smaller, report = low_rank(model, energy=1.0, conv=conv, force=True)
    assert distance(model, smaller) < 1e-5
    last = smaller.get_layer("conv")
    assert last.activation is layer.activation
    assert report.applied[0].macs_after == report.macs_after


@pytest.mark.parametrize("conv", ["tucker", "channel", "spatial"])
def test_work_is_reckoned_as_the_profile_counts_it(conv):
    conv_layer = L.Conv2D(16, 3, strides=2, padding="same", name="conv")
    model = keras.Sequential([keras.Input((8, 8, 16)), conv_layer])
    with pytest.raises(ConfigError, match=r"cannot be reached.*still takes") as error:
        low_rank(model, target_macs=1, conv=conv)
    least = int(str(error.value).split("still takes ")[1].split(" ")[0].replace(",", ""))
    _, report = low_rank(model, rank=1, conv=conv)
    assert report.macs_after == least


def test_tucker_by_hand():
    # Of 8 x 8 x 16 -> 4 x 4 x 16: 64 * 16 * 3 + 16 * (9 * 3 * 5 + 5 * 16) = 6512 of 16 * 9 * 16 * 16 = 36864.
    model = keras.Sequential([keras.Input((8, 8, 16)), L.Conv2D(16, 3, strides=2, padding="same", name="conv")])
    _, report = low_rank(model, rank={"conv": (3, 5)})
    row = report.applied[0]
    assert (row.macs_before, row.macs_after) == (36864, 6512)
    # 16 * 3 + 9 * 3 * 5 + 5 * 16 + 16
    assert row.parameters_after == 279
    assert row.detail == "rank 3 and 5 of 16 and 16: 1x1, 3x3, 1x1"


def test_the_target_is_met_and_the_rest_is_left():
    model = randomize(residual())
    _smaller, report = low_rank(model, target_macs=0.5)
    assert 0.45 * report.macs_before < report.macs_after <= 0.5 * report.macs_before
    assert {action.layer: action.detail for action in report.left}["classes"] == "the target is reached without it"
    _, exact = low_rank(model, target_macs=report.macs_after)
    assert exact.macs_after == report.macs_after


def test_layers_whose_factors_are_not_smaller_are_left():
    _, report = low_rank(dense(), rank=4)
    # 30 * 3 = 90 of rank 3 at most
    assert [(a.layer, a.detail) for a in report.left] == [("out", "it has rank 3, 4 was asked for")]
    _, report = low_rank(dense(), rank=3)
    assert report.left[0].detail == (
        "rank 3 would take 99 kernel parameters of 90 now and 99 multiply-accumulates of 90"
    )


def test_shared_and_nested_layers_stay_shared():
    tower = keras.Sequential([keras.Input((20,)), L.Dense(30, name="wide"), L.ReLU()], name="tower")
    a, b = keras.Input((20,)), keras.Input((20,))
    head = L.Dense(25, name="head")
    model = randomize(keras.Model([a, b], L.Subtract()([head(tower(a)), head(tower(b))])))
    smaller, report = low_rank(model, rank=3)
    assert [row.name for row in report.applied] == ["tower/wide", "head"]
    # Both calls: 2 * (20 * 3 + 3 * 30) and 2 * (30 * 3 + 3 * 25)
    assert [row.macs_after for row in report.applied] == [300, 330]
    assert layer_types(smaller).count("Dense") == 4
    assert [result.shape for result in map(np.asarray, [smaller(noise(model))])] == [(2, 25)]
    # A target counts the work of a nested model as often as that is called.
    _, report = low_rank(model, target_macs=0.4)
    assert report.macs_after <= 0.4 * report.macs_before


def test_sizes_that_are_open():
    model = randomize(keras.Sequential([keras.Input((None, None, 16)), L.Conv2D(16, 3, name="conv")]))
    _, report = low_rank(model, energy=0.5)
    assert report.applied[0].macs_after is None
    assert report.applied[0].parameters_after < report.applied[0].parameters_before
    with pytest.raises(UnsupportedModelError, match="a size of its input is open"):
        low_rank(model, target_macs=1000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of `rank`, `energy` and `target_macs`. Received: none"),
        ({"rank": 2, "energy": 0.5}, "Received: rank, energy"),
        ({"rank": 0}, "`rank` must be a whole number of at least 1. Received: 0"),
        ({"rank": (1, 2, 3)}, "a number or a pair"),
        ({"rank": {}}, "name at least one"),
        ({"rank": {"wide": 21}}, "`rank` of 'wide' is larger than the layer. it has rank 20, 21 was asked for"),
        ({"rank": {"wild": 2}}, "no layer is called 'wild'. Did you mean 'wide'?"),
        ({"rank": 2, "layers": ["wid"]}, "no layer is called 'wid'. Did you mean 'wide'?"),
        ({"energy": 0.0}, r"`energy` must be a finite number in \(0, 1\]. Received: 0.0"),
        ({"energy": 1.5}, r"`energy` must be a finite number in \(0, 1\]. Received: 1.5"),
        ({"target_macs": -1}, "`target_macs` must be a finite number"),
        ({"target_macs": 5000}, "`target_macs` must be below the model's 690. Received: 5,000"),
        ({"target_macs": 10}, "cannot be reached: with rank 1 in all of 2 layer.* still takes 83 of its 690"),
        ({"rank": 2, "conv": "tukker"}, "Unknown `conv` 'tukker'. Did you mean 'tucker'?"),
    ],
)
def test_impossible_requests(settings, message):
    with pytest.raises(ConfigError, match=message):
        low_rank(dense(), **settings)


@pytest.mark.parametrize("conv", ["tucker", "channel", "spatial"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (L.Conv1D(10, 5, padding="causal", dilation_rate=2), (12, 8)),
        (L.Conv1D(10, 4, strides=2, padding="same", activation="relu"), (12, 8)),
        (L.Conv3D(10, (2, 3, 1), strides=(1, 2, 1), padding="same"), (4, 6, 5, 8)),
    ],
    ids=["causal", "strided", "volume"],
)
def test_convolutions_of_one_and_three_dimensions(layer, shape, conv, tmp_path):
    layer = type(layer).from_config(layer.get_config())
    model = randomize(keras.Sequential([keras.Input(shape), layer]))
    whole, _ = low_rank(model, energy=1.0, conv=conv, force=True)
    assert distance(model, whole) < 1e-5
    smaller, report = low_rank(model, rank=3, conv=conv)
    assert layer_types(smaller)[2:] == [type(layer).__name__] * (3 if conv == "tucker" else 2)
    # By hand: a convolution to 3 channels and one of size 1; before them Tucker-2 has one of size 1 at all inputs.
    before, after = np.prod(shape[:-1]), np.prod(smaller.output_shape[1:-1])
    size = int(np.prod(layer.kernel_size))
    by_hand = after * 3 * (size * 8 + 10) if conv != "tucker" else before * 8 * 3 + after * 3 * (size * 3 + 10)
    assert report.applied[0].macs_after == by_hand < report.applied[0].macs_before == after * size * 8 * 10
    saves_and_loads(smaller, tmp_path / "smaller.keras")
    fits_one_step(smaller)


def test_nothing_to_factorize():
    with pytest.raises(UnsupportedModelError, match="holds no Dense, Conv1D, Conv2D or Conv3D"):
        low_rank(keras.Sequential([keras.Input((4,)), L.ReLU()]), rank=1)
    with pytest.raises(UnsupportedModelError, match=r"none of 2 layer\(s\).*wide \(Dense\): it has rank 20, 40 was"):
        low_rank(dense(), rank=40)
    grouped = keras.Sequential([keras.Input((4, 4, 8)), L.Conv2D(8, 3, groups=2), L.ReLU(name="relu")])
    with pytest.raises(UnsupportedModelError, match="it works in 2 groups"):
        low_rank(grouped, rank=1)
    with pytest.raises(UnsupportedModelError, match="it is no Dense, Conv1D, Conv2D or Conv3D layer"):
        low_rank(grouped, rank=1, layers=["relu"])


def test_nan_is_refused():
    model = dense()
    model.layers[0].bias.assign(np.full(30, np.nan))
    with pytest.raises(NonFiniteError, match="30 NaN"):
        low_rank(model, rank=2)


def test_initializers_that_are_arrays_have_the_shapes_of_before():
    i = keras.Input((10,))
    constant = keras.initializers.Constant(np.random.default_rng(0).normal(size=(10, 12)))
    model = keras.Model(i, keras.layers.Dense(2)(keras.layers.Dense(12, kernel_initializer=constant, name="wide")(i)))
    small, report = low_rank(model, rank=2, layers=["wide"])
    assert [tuple(layer.kernel.shape) for layer in small.layers[1:]] == [(10, 2), (2, 12), (12, 2)]
    assert report.parameters_after < report.parameters_before
