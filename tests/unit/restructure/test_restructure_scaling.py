import keras
import pytest

from kopt.core.errors import ConfigError, InputError
from kopt.restructure import scale, scaled_channels, scaled_repeats

L = keras.layers


def build(width, depth, resolution):
    x = inputs = keras.Input((resolution, resolution, 3))
    for _ in range(scaled_repeats(2, depth)):
        x = L.Conv2D(scaled_channels(32, width), 3, padding="same")(x)
    return keras.Model(inputs, L.GlobalAveragePooling2D()(x), name="net")


# EfficientNet's published networks: channels of the stem, 32, and of the head, 1280, and repeats at these factors.
@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(32, 1.1, 32), (32, 1.2, 40), (1280, 1.4, 1792), (32, 2.0, 64), (1280, 1.1, 1408), (16, 1.1, 16), (24, 1.4, 32)],
)
def test_channels_of_efficientnet(channels, width, expected):
    assert scaled_channels(channels, width) == expected


def test_channels_never_fall_below_nine_tenths():
    # 10 rounds to 8, which is 80 % of it, so that it becomes 16; 12 * 0.9 = 10.8 rounds to 8 as well.
    assert scaled_channels(10, 1.0) == 16
    assert scaled_channels(12, 0.9) == 16
    assert scaled_channels(3, 0.5) == 8
    for channels in range(1, 200):
        assert scaled_channels(channels, 0.7) >= 0.9 * 0.7 * channels


@pytest.mark.parametrize(("repeats", "depth", "expected"), [(1, 1.1, 2), (5, 1.2, 6), (4, 1.8, 8), (3, 0.2, 1)])
def test_repeats(repeats, depth, expected):
    assert scaled_repeats(repeats, depth) == expected


def test_phi_by_hand():
    model, report = scale(build, phi=2, pixels=64)
    # 1.1 ** 2, 1.2 ** 2, 64 * 1.15 ** 2 = 84.64, nearest multiple of 8
    assert (report.width, report.depth) == pytest.approx((1.21, 1.44))
    assert report.pixels == 88
    assert model.input_shape == (None, 88, 88, 3)
    # 32 * 1.21 = 38.72 -> 40 channels, 2 * 1.44 -> 3 layers
    assert [layer.filters for layer in model.layers if isinstance(layer, L.Conv2D)] == [40, 40, 40]
    before, after = 64 * 64 * 9 * (3 * 32 + 32 * 32), 88 * 88 * 9 * (3 * 40 + 2 * 40 * 40)
    assert (report.macs_before, report.macs_after) == (before, after)
    assert report.expected_ratio == pytest.approx(1.44 * 1.21**2 * (88 / 64) ** 2)


def test_factors_one_by_one():
    model, report = scale(build, width=0.5, resolution=0.5, pixels=64)
    assert model.input_shape == (None, 32, 32, 3)
    assert report.phi is None
    assert [layer.filters for layer in model.layers if isinstance(layer, L.Conv2D)] == [16, 16]
    _, same = scale(build, phi=0, pixels=64)
    assert same.mac_ratio == same.expected_ratio == 1.0


def test_the_default_constants_double_the_arithmetic():
    _, report = scale(lambda width, depth, resolution: build(1.0, 1.0, 32), phi=1, pixels=224, divisor=1)
    # 1.2 * 1.1 ** 2 * 1.15 ** 2 = 1.92; 257.6 pixels become 258.
    assert report.expected_ratio == pytest.approx(1.2 * 1.1**2 * (258 / 224) ** 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, r"`width` must be a finite number in \(0, inf\]. Received: 0"),
        ({"phi": 1, "depth": 2.0}, "`phi` sets all three factors"),
        ({"phi": "1"}, "`phi` must be a finite number"),
        ({"alpha": -1.0}, "`alpha` must be"),
        ({"pixels": 0}, "`pixels` must be a whole number of at least 1"),
    ],
)
def test_impossible_requests(settings, message):
    with pytest.raises(ConfigError, match=message):
        scale(build, **settings)


def test_builders_that_do_not_fit():
    with pytest.raises(InputError, match="It takes: width, height; missing: depth, resolution"):
        scale(lambda width, height: None)
    with pytest.raises(InputError, match=r"must be a function that builds a model.*Sequential"):
        scale(keras.Sequential([keras.Input((4,)), L.Dense(2)]))
    with pytest.raises(InputError, match="Expected a Keras 3 model"):
        scale(lambda **factors: None)
