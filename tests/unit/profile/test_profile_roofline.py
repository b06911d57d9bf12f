import keras
import pytest

from kopt import profile
from kopt.core.errors import ConfigError
from kopt.core.records.profiles.cost import MachinePeaks, RooflineProfile
from kopt.profile.cost.machine import measured_peaks

L = keras.layers
PEAKS = MachinePeaks(flops_per_s=1e9, bytes_per_s=1e8)  # ridge at 10 operations a byte


def test_bytes_and_operations_by_hand():
    model = keras.Sequential([keras.Input((100,)), L.Dense(50, use_bias=False, name="dense"), L.ReLU(name="relu")])
    found = profile.roofline(model, batch_size=4, peaks=PEAKS)
    dense, relu = found.layers
    assert dense.flops == 4 * 2 * 100 * 50
    assert dense.moved_bytes == 4 * (100 * 50) + 4 * 4 * (100 + 50)
    assert dense.intensity == pytest.approx(40_000 / 22_400)
    assert dense.bound == "memory"
    assert dense.least_ms == pytest.approx(1e3 * 22_400 / 1e8)
    assert (relu.flops, relu.moved_bytes) == (4 * 50, 4 * 4 * 100)


def test_a_shared_layer_reads_its_weights_in_every_call():
    left, right = keras.Input((3,)), keras.Input((3,))
    shared = L.Dense(4, use_bias=False)
    found = profile.roofline(keras.Model([left, right], [shared(left), shared(right)]), peaks=PEAKS)
    assert [layer.moved_bytes for layer in found.layers] == [4 * (12 + 3 + 4)] * 2


def test_an_embedding_moves_the_rows_that_it_looks_up():
    tokens = keras.Input((7,), dtype="int32")
    found = profile.roofline(keras.Model(tokens, L.Embedding(1000, 5)(tokens)), batch_size=2, peaks=PEAKS)
    # Seven numbers of rows, seven rows read and written, for either example.
    assert found.layers[0].moved_bytes == 2 * 4 * (7 + 7 * 5 + 7 * 5)


def test_moving_numbers_takes_time_and_another_shape_none():
    layers = [L.ZeroPadding2D(name="pad"), L.Flatten(name="flat"), L.Dense(1, name="dense")]
    found = profile.roofline(keras.Sequential([keras.Input((2, 2, 1)), *layers]), peaks=PEAKS)
    pad, dense = found.layers
    assert (pad.name, pad.flops, pad.moved_bytes, pad.intensity, pad.bound) == ("pad", 0, 4 * (4 + 16), 0, "memory")
    assert dense.name == "dense"


def test_a_larger_batch_makes_a_dense_layer_compute_bound():
    model = keras.Sequential([keras.Input((1000,)), L.Dense(1000, name="dense")])
    bounds = [profile.roofline(model, batch_size=size, peaks=PEAKS).layers[0].bound for size in (1, 256)]
    assert bounds == ["memory", "compute"]
    wide = profile.roofline(model, batch_size=256, peaks=PEAKS)
    assert wide.least_ms == pytest.approx(1e3 * wide.layers[0].flops / 1e9)
    assert wide.share("compute") == 1.0


def test_this_machine_is_measured_once():
    peaks = measured_peaks()
    assert measured_peaks() is peaks
    assert 1e8 < peaks.bytes_per_s < 1e13
    assert 1e9 < peaks.flops_per_s < 1e16
    assert peaks.ridge == peaks.flops_per_s / peaks.bytes_per_s


def test_it_can_be_shown_and_unknown_layers_are_named(tmp_path):
    class Mine(L.Layer):
        def call(self, x):
            return keras.ops.sort(x)

    layers = [L.Conv2D(8, 3, name="conv"), Mine(name="mine"), L.GlobalAveragePooling2D(), L.Dense(10)]
    found = profile.roofline(keras.Sequential([keras.Input((16, 16, 3)), *layers]), peaks=PEAKS)
    assert list(found.left_out) == ["mine"]
    assert RooflineProfile.from_json(found.to_json()).layers == found.layers
    table = found.table()
    assert max(map(len, table.splitlines())) <= 80
    assert "Left out: mine" in table
    for ending in ("svg", "png"):
        assert found.plot(tmp_path / f"roof.{ending}").stat().st_size > 1000


def test_impossible_settings():
    model = keras.Sequential([keras.Input((3,)), L.Dense(1)])
    with pytest.raises(ConfigError, match="`batch_size` must be"):
        profile.roofline(model, batch_size=0)
    with pytest.raises(ConfigError, match="Peaks must be above 0"):
        MachinePeaks(0, 1)
