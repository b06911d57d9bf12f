import itertools

import keras
import numpy as np
import placement_program
import pytest
import tensorflow as tf
import zoo
from processes import result_of

from kopt.core.errors import ConfigError
from kopt.core.records.training.distribution import PlacementReport, Stage
from kopt.train import internals
from kopt.train.distribution.device_scope import on_device, run_on
from kopt.train.distribution.placement import balanced_runs, place_layers, placed_optimizer

L = keras.layers


def largest_run(costs, numbers):
    return max(sum(cost for cost, number in zip(costs, numbers, strict=True) if number == run) for run in set(numbers))


@pytest.mark.parametrize("costs", [[0, 0, 0], [5, 1, 1, 1], [1, 1, 1, 5], [3, 1, 4, 1, 5, 9, 2, 6], [0, 7, 0, 0, 7]])
@pytest.mark.parametrize("runs", [1, 2, 3])
def test_the_largest_run_is_as_small_as_can_be(costs, runs):
    numbers = balanced_runs(costs, runs)
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(runs))
    # By hand: every way to cut between entries.
    best = min(
        max(sum(costs[a:b]) for a, b in itertools.pairwise((0, *cut, len(costs))))
        for cut in itertools.combinations(range(1, len(costs)), runs - 1)
    )
    assert largest_run(costs, numbers) == best


def test_run_on_keeps_values_gradients_and_masks():
    weight = tf.Variable([[2.0]])

    def function(pair):
        (a, b), integers = pair
        return {"sum": a @ weight + b, "same": integers}

    x, integers = tf.constant([[3.0]]), tf.constant([1])
    internals.set_keras_mask(x, "a mask")
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = run_on("CPU:0", function, (((x, x), integers),))  # the same tensor twice
        loss = tf.reduce_sum(outputs["sum"] ** 2)
    # (2x + x)^2 at x = 3: value 81, d/dx = 2 * 9 * 3, d/dw = 2 * 9 * 3.
    np.testing.assert_array_equal(outputs["sum"], [[9.0]])
    np.testing.assert_array_equal(outputs["same"], [1])
    gradients = tape.gradient(loss, [x, weight])
    np.testing.assert_array_equal(tf.concat(gradients, 0), [[54.0], [54.0]])


def test_a_placed_layer_is_a_plain_layer_for_files_and_no_matter_for_xla():
    layer = on_device(L.Dense(2, name="dense"), "CPU:0")
    x = keras.Input((3,))
    model = keras.Model(x, layer(x))
    assert layer.get_config() == L.Dense(2, name="dense").get_config() | {"name": "dense"}
    assert not layer.supports_jit
    np.testing.assert_allclose(model(np.ones((1, 3), "float32"))[0], layer.kernel.numpy().sum(0), rtol=1e-6)


def test_placed_optimizer_refuses_state_and_keeps_settings():
    sgd = keras.optimizers.SGD(0.25, momentum=0.5, clipnorm=1.0)
    twin = placed_optimizer(sgd)
    assert twin is not sgd
    assert twin.get_config() == sgd.get_config()
    variable = keras.Variable([1.0])
    twin.build([variable])
    twin.apply([tf.constant([0.5])], [variable])
    np.testing.assert_array_equal(variable, [1 - 0.25 * 0.5])
    with pytest.raises(ConfigError, match=r"is built.*SGD.from_config"):
        placed_optimizer(twin)
    scaled = placed_optimizer(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.25)))
    assert isinstance(scaled, keras.optimizers.LossScaleOptimizer)


def test_bad_devices_are_refused():
    model = zoo.build("mlp")
    with pytest.raises(ConfigError, match="'GPU:7' does not exist"):
        place_layers(model, ["CPU:0", "GPU:7"])
    with pytest.raises(ConfigError, match="needs two or more"):
        place_layers(model, ["CPU:0"])


def test_the_report_reads_and_travels():
    stages = (Stage("GPU:0", ("a", "b"), 1200), Stage("GPU:1", ("c",), 8))
    report = PlacementReport(stages, 1, (("add", "runs anywhere"),))
    assert PlacementReport.from_json(report.to_json()) == report
    assert str(report).splitlines() == [
        "GPU:0: 2 layers, 1,200 bytes of variables (a .. b)",
        "GPU:1: 1 layers, 8 bytes of variables (c .. c)",
        "not placed: add (runs anywhere)",
        "1 tensor(s) cross devices in a forward pass.",
    ]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return result_of(placement_program.main, str(tmp_path_factory.mktemp("placed") / "m.keras"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["cnn", "mlp", "lstm", "transformer", "unet", "siamese", "two_in_two_out", "nested", "preprocessing", "custom"],
)
def test_outputs_are_equal_and_gradients_to_rounding(found, name):
    assert found[name]["equal"]
    assert found[name]["eager"] < 1e-5
    assert found[name]["graph"] < 1e-5
    assert [device for device, _ in found[name]["stages"]] == ["CPU:0", "CPU:1"]
    assert found[name]["crossings"] >= 1


@pytest.mark.slow
def test_variables_forward_backward_and_optimizer_are_on_their_devices(found):
    halves = found["halves"]
    # Four Dense layers of 6 * 6 + 6 parameters: two and two; the layer without parameters goes with the last.
    assert halves["stages"] == [["CPU:0", ["d0", "d1"]], ["CPU:1", ["d2", "d3", "loss"]]]
    expected = {f"d{i}/{kind}": f"CPU:{i // 2}" for i in range(4) for kind in ("kernel", "bias")}
    assert halves["variables"] == expected
    # One TanhGrad and one BiasAddGrad a layer; Adam takes a square root for each of the four variables of a device.
    for device in ("CPU:0", "CPU:1"):
        assert halves["operations"][f"{device} TanhGrad"] == 2
        assert halves["operations"][f"{device} BiasAddGrad"] == 2
        assert halves["operations"][f"{device} Sqrt"] >= 4
    # Two slots a variable: 8 and 8; the step count and the learning rate are on the first.
    assert halves["slots"] == {"CPU:0": 8 + 2, "CPU:1": 8}
    assert halves["jit"] is False


@pytest.mark.slow
def test_training_added_losses_and_files_are_those_of_the_plain_model(found):
    halves = found["halves"]
    assert halves["eager"] < 1e-5  # with an activity regularizer and a layer that adds a loss
    assert halves["trained"] < 1e-5
    np.testing.assert_allclose(halves["loss"][0], halves["loss"][1], rtol=1e-5)
    assert halves["reloaded"]


@pytest.mark.slow
def test_a_mapping_places_by_name_and_the_rest_follows(found):
    halves = found["halves"]
    assert halves["mapped"] == [["CPU:0", ["d0"]], ["CPU:1", ["d1", "d2"]], ["CPU:0", ["d3", "loss"]]]
    assert halves["mapped crossings"] == 2
    assert halves["mapped variables"]["d2/kernel"] == "CPU:1"
    assert "CPU:1: 2 layers, 336 bytes of variables (d1 .. d2)" in halves["text"]  # 2 * (36 + 6) * 4
    unknown, outside, cost = halves["errors"]
    assert "`by` names 'd9', which is no layer" in unknown
    assert "'CPU:2' does not exist" in outside
    assert "Unknown `by` 'parameter'. Did you mean 'parameters'?" in cost
