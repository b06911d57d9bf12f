import keras
import numpy as np
import pytest
from restructure_cases import bits, distance, fits_one_step, layer_types, randomize, residual, saves_and_loads

from kopt.core.errors import ConfigError, NonFiniteError, UnsupportedModelError
from kopt.restructure import depthwise_separable

L = keras.layers


def convolution(rank=None, **settings):
    """A net of one 3x3 convolution of 4 -> 20 channels, each input channel's kernel of the given rank."""
    layer = L.Conv2D(20, 3, **{"name": "conv", **settings})
    model = keras.Sequential([keras.Input((9, 9, 4)), layer, L.ReLU(name="relu")])
    if rank is not None:
        random = np.random.default_rng(0)
        depthwise, pointwise = random.normal(size=(3, 3, 4, rank)), random.normal(size=(4, rank, 20))
        layer.kernel.assign(np.einsum("hwim,imo->hwio", depthwise, pointwise))
    return randomize(model)


@pytest.mark.parametrize("form", ["separable", "depthwise"])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"padding": "same"},
        {"strides": 2, "padding": "same", "activation": "relu"},
        {"dilation_rate": 2, "use_bias": False},
    ],
    ids=["same", "strided", "dilated"],
)
def test_a_separable_kernel_is_reproduced(form, rank, settings):
    model = convolution(rank, **settings)
    light, report = depthwise_separable(model, depth_multiplier=rank, form=form)
    assert distance(model, light) < 1e-5
    assert report.applied[0].error < 1e-6


def test_what_it_costs_and_how_wrong_it_is(tmp_path):
    model = convolution(padding="same")
    before = bits(model)
    light, report = depthwise_separable(model)
    row = report.applied[0]
    # 9 * 4 * 20 + 20 = 740 become 9 * 4 + 4 * 20 + 20 = 136; times 81 positions without the bias.
    assert (row.parameters_before, row.parameters_after) == (740, 136)
    assert (row.macs_before, row.macs_after) == (81 * 720, 81 * 116)
    layer = light.get_layer("conv")
    assert type(layer) is L.SeparableConv2D
    fitted = np.einsum("hwi,io->hwio", layer.depthwise_kernel[..., 0], layer.pointwise_kernel[0, 0])
    kernel = np.asarray(model.get_layer("conv").kernel)
    assert row.error == pytest.approx(np.linalg.norm(kernel - fitted) / np.linalg.norm(kernel), rel=1e-5)
    assert bits(model) == before
    saves_and_loads(light, tmp_path / "light.keras")
    fits_one_step(light)


def test_no_random_depthwise_kernel_fits_better():
    model = convolution()
    light, report = depthwise_separable(model)
    kernel, random = np.asarray(model.get_layer("conv").kernel), np.random.default_rng(0)
    for _ in range(20):
        depthwise = np.asarray(light.get_layer("conv").depthwise_kernel)[..., 0] + 0.1 * random.normal(size=(3, 3, 4))
        # The best pointwise kernel for given depthwise ones, by least squares.
        pointwise = np.einsum("hwi,hwio->io", depthwise, kernel) / (depthwise**2).sum(axis=(0, 1))[:, None]
        fitted = np.einsum("hwi,io->hwio", depthwise, pointwise)
        assert np.linalg.norm(kernel - fitted) / np.linalg.norm(kernel) > report.applied[0].error


def test_what_is_left():
    inputs = keras.Input((9, 9, 4))
    x = L.Conv2D(8, 3, groups=2, name="grouped")(inputs)
    x = L.Conv2D(8, 1, name="pointwise")(x)
    x = L.Conv2D(8, (3, 1), strides=(2, 1), name="strided")(x)
    x = L.Conv2D(2, (1, 2), name="thin")(x)
    model = keras.Model(inputs, L.Conv2D(16, 3, padding="same", name="wide")(x))
    _, report = depthwise_separable(model)
    assert {action.layer: action.detail for action in report.left} == {
        "grouped": "it works in 2 groups",
        "pointwise": "its kernel is 1x1, which is pointwise already",
        "strided": "its strides are (2, 1), and depthwise convolutions take equal ones only",
        "thin": "it would take 32 kernel parameters of 32 now",
    }
    assert [row.name for row in report.applied] == ["wide"]


def test_only_what_fits_well_enough():
    model = convolution()
    _, report = depthwise_separable(model)
    error = report.applied[0].error
    _, report = depthwise_separable(model, max_error=error)
    assert len(report.applied) == 1
    with pytest.raises(UnsupportedModelError, match=f"error would be {error:.3f}, above `max_error` of 0.5"):
        depthwise_separable(model, max_error=0.5)


def test_chosen_layers_of_a_residual_net():
    model = randomize(residual())
    light, report = depthwise_separable(model, layers=["conv2"], form="depthwise")
    assert [row.name for row in report.applied] == ["conv2"]
    assert layer_types(light).count("DepthwiseConv2D") == 1
    light, _ = depthwise_separable(model, layers=lambda layer: layer.name != "conv0")
    assert layer_types(light).count("SeparableConv2D") == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth_multiplier": 0}, "`depth_multiplier` must be a whole number of at least 1. Received: 0"),
        ({"form": "seperable"}, "Unknown `form` 'seperable'. Did you mean 'separable'?"),
        ({"max_error": 0}, r"`max_error` must be a finite number in \(0, 1\]"),
        ({"layers": ["cnov"]}, "no layer is called 'cnov'. Did you mean 'conv'?"),
    ],
)
def test_impossible_requests(settings, message):
    with pytest.raises(ConfigError, match=message):
        depthwise_separable(convolution(), **settings)


def test_nothing_to_replace():
    with pytest.raises(UnsupportedModelError, match="`depth_multiplier` of 10 is above its rank of 9"):
        depthwise_separable(convolution(), depth_multiplier=10)
    with pytest.raises(UnsupportedModelError, match=r"relu \(ReLU\): it is no Conv2D layer"):
        depthwise_separable(convolution(), layers="relu")
    with pytest.raises(UnsupportedModelError, match="it holds no Conv2D"):
        depthwise_separable(keras.Sequential([keras.Input((4,)), L.Dense(2)]))
    model = convolution()
    model.layers[0].bias.assign(np.full(20, np.inf))
    with pytest.raises(NonFiniteError, match="20 infinite"):
        depthwise_separable(model)
