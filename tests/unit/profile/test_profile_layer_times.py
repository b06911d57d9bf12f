import keras
import numpy as np
import pytest

from kopt.core.records.profiles.time import LayerTimes, OpProfile, OpTime
from kopt.profile.timing.layers import by_layer, layer_times

L = keras.layers


def op(name, layer, phase, wall_ms, busy_ms=None):
    busy_ms = wall_ms if busy_ms is None else busy_ms
    return OpTime(name, "MatMul", layer, phase, "cpu", 2, wall_ms, wall_ms, busy_ms, wall_ms, wall_ms / 10, None)


def profile(*ops, step="training"):
    return OpProfile("net", step, 4, 2, 10.0, 9.0, (0.0, 11.0), (10.0, 10.0), ops, (), (), 2)


def net():
    image = keras.Input((3,), name="image")
    inner = keras.Sequential([keras.Input((4,)), L.Dense(4, name="b"), L.Dropout(0.5, name="drop")], name="inner")
    model = keras.Model(image, inner(L.Dense(4, name="a")(image)), name="net")
    model.compile("sgd", "mse")
    return model


def test_operations_are_added_up_by_layer_and_phase():
    times = by_layer(
        profile(
            op("a/MatMul", "a", "forward", 1.0, 3.0),
            op("a/BiasAdd", "a", "forward", 0.5),
            op("a/MatMul/MatMul", "a", "backward", 2.0),
            op("inner/b/MatMul", "inner/b", "forward", 0.25),
            op("sgd/Sub", None, "update", 0.75),
            op("mse/Mean", None, "other", 0.5),
            op("mse/Mul", None, "backward", 0.5),
        ),
        net(),
    )
    rows = {row.layer: row for row in times.layers}
    assert (rows["a"].forward_ms, rows["a"].backward_ms, rows["a"].busy_ms, rows["a"].ops) == (1.5, 2.0, 5.5, 3)
    assert (rows["inner/b"].forward_ms, rows["inner/b"].backward_ms) == (0.25, 0.0)
    assert (times.forward_ms, times.backward_ms, times.update_ms, times.other_ms) == (1.75, 2.0, 0.75, 1.0)
    # 10 - 1.75 - 2 - 0.75 - 1
    assert times.rest_ms == 4.5


def test_a_layer_in_which_nothing_ran_is_listed_and_one_of_layers_is_not():
    times = by_layer(profile(op("a/MatMul", "a", "forward", 1.0)), net())
    assert [row.layer for row in times.layers] == ["a", "inner/b", "inner/drop"]
    assert times.layers[2].ops == 0


def test_a_layer_of_layers_has_what_it_does_itself():
    times = by_layer(profile(op("inner/add", "inner", "forward", 1.0)), net())
    assert [row.layer for row in times.layers] == ["a", "inner", "inner/b", "inner/drop"]


def test_inference_has_no_times_of_training():
    times = by_layer(profile(op("a/MatMul", "a", "forward", 1.0), step="inference"), net())
    assert times.backward_ms is None
    assert times.update_ms is None
    assert times.layers[0].backward_ms is None
    assert times.rest_ms == 9.0


def test_a_real_step_adds_up():
    rng = np.random.default_rng(0)
    model = net()
    times = layer_times(model, (rng.random((8, 3), np.float32), rng.random((8, 4), np.float32)), steps=3)
    assert [row.layer for row in times.layers] == ["a", "inner/b", "inner/drop"]
    assert all(row.forward_ms > 0 and row.backward_ms > 0 for row in times.layers)
    assert times.update_ms > 0
    parts = times.forward_ms + times.backward_ms + times.update_ms + times.other_ms + times.rest_ms
    assert parts == pytest.approx(times.step_ms)
    assert LayerTimes.from_json(times.to_json()).layers == times.layers
    assert "inner/drop" in times.table()


def test_a_layer_of_more_work_takes_more_time():
    # 128 x 512 x 512 products against 128 x 512 x 4.
    model = keras.Sequential([keras.Input((512,)), L.Dense(512, name="wide"), L.Dense(4, name="narrow")])
    model.compile("sgd", "mse")
    x, y = np.ones((128, 512), np.float32), np.ones((128, 4), np.float32)
    wide, narrow = layer_times(model, (x, y), steps=4, batch_size=128).layers
    assert wide.forward_ms > 3 * narrow.forward_ms
    assert wide.backward_ms > narrow.backward_ms


def test_the_step_of_fit_with_xla_is_told_apart():
    model = net()
    model.compile("sgd", "mse", jit_compile=True)
    times = by_layer(profile(op("a/MatMul", "a", "forward", 1.0)), model)
    assert "`fit` compiles this model with XLA" in times.notes[0]
