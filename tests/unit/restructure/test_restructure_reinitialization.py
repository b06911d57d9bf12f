import keras
import numpy as np
import pytest
from restructure_cases import bits, fits_one_step, noise, outputs, randomize, residual, saves_and_loads

from kopt.core.errors import ConfigError, DataError, UnsupportedModelError
from kopt.restructure import reinitialize
from kopt.restructure.initial_values import fans, fixup_scale, glorot_uniform, he_normal, orthogonal

L = keras.layers


def deep(depth=10, width=64, initializer="glorot_uniform"):
    layers = [L.Dense(width, "relu", kernel_initializer=initializer, name=f"dense{i}") for i in range(depth)]
    return keras.Sequential([keras.Input((width,)), *layers, L.Dense(1, name="out")])


def test_fans_by_hand():
    assert fans("dense", (20, 30)) == (20, 30)
    assert fans("conv", (3, 3, 4, 8)) == (36, 72)
    assert fans("depthwise", (3, 3, 4, 2)) == (9, 18)
    # A stride of 2 in both directions: each output sees a quarter of the 16 entries, for each of 5 inputs.
    assert fans("transpose", (4, 4, 3, 5), (2, 2)) == (20, 48)


def test_draws_have_the_variances():
    generator = np.random.default_rng(0)
    normal = he_normal(generator, (200, 500), 200)
    # 100,000 draws: the standard deviation is known to 0.2 %.
    assert normal.std() == pytest.approx(np.sqrt(2 / 200), rel=0.01)
    assert np.abs(normal).max() <= 2 * np.sqrt(2 / 200) / 0.8796
    uniform = glorot_uniform(generator, (200, 500), 200, 500)
    assert uniform.std() == pytest.approx(np.sqrt(2 / 700), rel=0.01)
    assert np.abs(uniform).max() <= np.sqrt(6 / 700)


def test_orthogonal_draws():
    generator = np.random.default_rng(0)
    tall = orthogonal(generator, (3, 3, 4, 8)).reshape(36, 8)
    np.testing.assert_allclose(tall.T @ tall, np.eye(8), atol=1e-12)
    wide = orthogonal(generator, (8, 36))
    np.testing.assert_allclose(wide @ wide.T, np.eye(8), atol=1e-12)


def test_fixup_scale_by_hand():
    # 16 branches of 3 layers: 16 ** (-1 / 4) = 1 / 2
    assert fixup_scale(16, 3) == pytest.approx(0.5)


@pytest.mark.slow
def test_he_keeps_the_signal_that_small_weights_lose(tmp_path):
    model = deep(initializer=keras.initializers.RandomNormal(stddev=0.05, seed=0))
    before = bits(model)
    fresh, report = reinitialize(model)
    # Each layer of 64 weights of deviation 0.05 takes the mean square times 64 * 0.0025 / 2 = 0.08.
    first, last = report.layers[0], report.layers[9]
    assert last.output_std_before / first.output_std_before < np.sqrt(0.08) ** 9 * 3
    assert 0.5 < last.output_std_after / first.output_std_after < 2
    assert report.spread_before > 10_000
    assert report.spread_after < 5
    assert first.weight_std_after == pytest.approx(np.sqrt(2 / 64), rel=0.05)
    assert bits(model) == before
    saves_and_loads(fresh, tmp_path / "fresh.keras")
    fits_one_step(fresh)


def test_deviations_are_those_of_the_outputs():
    model = randomize(residual())
    images = noise(model, batch=16)[0]
    _, report = reinitialize(model, data=images)
    rows = {row.name: row for row in report.layers}
    assert (report.examples, report.data) == (16, "given")
    for name in ("conv1", "norm2", "classes"):
        values = np.asarray(keras.Model(model.input, model.get_layer(name).output)(images), np.float64)
        assert rows[name].output_std_before == pytest.approx(values.std(), rel=1e-5)


def test_the_check_is_inference_and_changes_nothing():
    # An augmentation called alone is in training, and moves its seed on.
    layers = [L.RandomFlip(), L.GaussianNoise(1.0), L.Conv2D(4, 3, name="conv")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    before = bits(model)
    images = noise(model, batch=8)[0]
    _, report = reinitialize(model, data=images)
    assert bits(model) == before
    assert report.layers[0].output_std_before == pytest.approx(np.std(outputs(model, [images])[0]), rel=1e-5)


def test_normalizations_become_the_identity_and_biases_zero():
    fresh, _ = reinitialize(randomize(residual()))
    norm = fresh.get_layer("norm1")
    for variable, value in ((norm.gamma, 1), (norm.beta, 0), (norm.moving_mean, 0), (norm.moving_variance, 1)):
        assert (np.asarray(variable) == value).all()
    assert not np.asarray(fresh.get_layer("conv1").bias).any()


def test_chosen_layers_draw_the_same_whatever_else_is_drawn():
    model = randomize(residual())
    alone, report = reinitialize(model, layers=["conv1"], seed=3)
    everything, _ = reinitialize(model, seed=3)
    other, _ = reinitialize(model, seed=4)
    kernels = [np.asarray(m.get_layer("conv1").kernel) for m in (alone, everything, other)]
    assert [row.name for row in report.layers] == ["conv1"]
    assert (kernels[0] == kernels[1]).all()
    assert (kernels[0] != kernels[2]).any()
    kept = [np.asarray(m.get_layer("conv2").kernel) for m in (alone, model)]
    assert (kept[0] == kept[1]).all()


@pytest.mark.parametrize("add", [L.Add(), lambda pair: pair[0] + pair[1]], ids=["layer", "operator"])
def test_fixup(add):
    inputs = keras.Input((16,))
    x = L.Dense(16, "relu", name="stem")(inputs)
    for block in range(4):
        y = x
        for number in range(3):
            y = L.Dense(16, "relu" if number < 2 else None, name=f"block{block}_{number}")(y)
        shortcut = L.Dense(16, name="projection")(x) if block == 2 else x
        x = add([shortcut, y])
    model = keras.Model(inputs, L.Dense(3, name="out")(x))
    fresh, report = reinitialize(model, initializer="fixup")
    rules = {row.name: row.rule for row in report.layers}
    # 4 branches of 3 layers: 4 ** (-1 / 4) = 0.7071
    expected = {"stem": "he_normal", "projection": "he_normal", "out": "zeros"}
    for block in range(4):
        expected |= {f"block{block}_0": "he_normal * 0.707", f"block{block}_1": "he_normal * 0.707"}
        expected |= {f"block{block}_2": "zeros"}
    assert rules == expected
    he, _ = reinitialize(model)
    kernels = [np.asarray(m.get_layer("block1_0").kernel) for m in (fresh, he)]
    np.testing.assert_allclose(kernels[0], kernels[1] * 4**-0.25, rtol=1e-6)
    assert not outputs(fresh, noise(model))[0].any()


def test_separable_and_nested_layers():
    tower = keras.Sequential([keras.Input((8, 8, 64)), L.SeparableConv2D(64, 3, padding="same", name="mix")], name="t")
    inputs = keras.Input((8, 8, 64))
    fresh, report = reinitialize(keras.Model(inputs, tower(tower(inputs))))
    mix = fresh.get_layer("t").get_layer("mix")
    # Nothing stands between the two: 1 / 9 and 2 / 64
    assert np.std(mix.depthwise_kernel) == pytest.approx(1 / 3, rel=0.1)
    assert np.std(mix.pointwise_kernel) == pytest.approx(np.sqrt(2 / 64), rel=0.05)
    assert report.layers[0].name == "t/mix"


def test_layers_without_a_rule_are_left():
    model = keras.Sequential([keras.Input((5, 4)), L.LSTM(3, name="lstm"), L.Dense(2, name="dense")])
    fresh, report = reinitialize(model)
    assert [(a.layer, a.detail) for a in report.left] == [("lstm", "there is no rule for its weights")]
    for ours, theirs in zip(model.layers[0].weights, fresh.get_layer("lstm").weights, strict=True):
        assert (np.asarray(ours) == np.asarray(theirs)).all()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"initializer": "he_norm"}, ConfigError, "Unknown `initializer` 'he_norm'. Did you mean 'he_normal'?"),
        ({"seed": -1}, ConfigError, "`seed` must be a whole number of at least 0. Received: -1"),
        ({"layers": ["dense"]}, ConfigError, "no layer is called 'dense'. Did you mean 'dense"),
        ({"initializer": "fixup"}, UnsupportedModelError, "is for residual networks"),
        ({"data": np.zeros((4, 3), "float32")}, DataError, "64"),
    ],
)
def test_impossible_requests(settings, error, message):
    with pytest.raises(error, match=message):
        reinitialize(deep(2), **settings)


def test_nothing_to_draw():
    with pytest.raises(UnsupportedModelError, match="holds no layers with weights"):
        reinitialize(keras.Sequential([keras.Input((4,)), L.ReLU()]))
    open_sizes = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(2, 3)])
    with pytest.raises(DataError, match="Pass `data` with real examples"):
        reinitialize(open_sizes)


def test_orthogonal_draws_of_channels_and_groups_by_themselves():
    generator = np.random.default_rng(0)
    depthwise = orthogonal(generator, (3, 3, 64, 2), "depthwise")
    for channel in range(64):
        columns = depthwise[:, :, channel].reshape(9, 2)
        np.testing.assert_allclose(columns.T @ columns, np.eye(2), atol=1e-12)
    grouped = orthogonal(generator, (1, 1, 4, 32), "conv", groups=8).reshape(4, 32)
    for group in np.split(grouped, 8, axis=1):
        np.testing.assert_allclose(group.T @ group, np.eye(4), atol=1e-12)
