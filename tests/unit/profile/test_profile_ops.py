"""The operation profile of real steps: counts, sums, layers, and what it leaves behind."""

import itertools
import json
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, InputError, MeasurementError, OutputExistsError
from kopt.core.records.profiles.time import OpProfile
from kopt.profile.timing.ops import Ops, ops

L = keras.layers
STEPS = 4


def small_net():
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(4, 3, activation="relu", name="conv")(image)
    head = keras.Sequential([keras.Input((4,)), L.Dense(5, name="hidden"), L.Dense(2, name="out")], name="head")
    return keras.Model(image, head(L.GlobalAveragePooling2D(name="pool")(x)), name="net")


def data(count=8):
    rng = np.random.default_rng(0)
    return rng.random((count, 8, 8, 3), np.float32), rng.random((count, 2), np.float32)


@pytest.fixture(scope="module")
def training() -> Ops:
    model = small_net()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return ops(model, data(), steps=STEPS)


def test_the_largest_product_comes_first():
    # 64 x 512 x 512 products in `wide`, 64 x 512 in `narrow`: four hundred times fewer.
    model = keras.Sequential([keras.Input((512,)), L.Dense(512, name="wide"), L.Dense(1, name="narrow")])
    result = ops(model, np.ones((64, 512), np.float32), batch_size=64, steps=STEPS)
    assert result.ops[0].layer == "wide"
    assert "MatMul" in result.ops[0].type
    assert result.table(rows=1).splitlines()[3].startswith("wide/MatMul")


def test_a_call_counts_once_a_step_and_a_loop_once_a_turn():
    model = keras.Sequential([keras.Input((7, 3)), L.LSTM(4, name="lstm")], name="net")
    result = ops(model, np.ones((2, 7, 3), np.float32), steps=3)
    cell = [op.count for op in result.ops if op.layer == "lstm/lstm_cell" and "Tanh" in op.type]
    # Two activations, 7 turns, 3 steps.
    assert cell == [7 * 3, 7 * 3]
    assert {op.count for op in result.ops if op.layer == "lstm" and op.type.endswith("TensorListStack")} == {3}


def test_shares_and_rest_make_the_step(training):
    assert training.ops_ms + training.rest_ms == pytest.approx(training.step_ms)
    assert sum(op.share for op in training.ops) == pytest.approx(training.ops_ms / training.step_ms)
    assert training.step_ms == pytest.approx(np.mean(training.step_duration_us) / 1e3)


def test_threads_are_not_busier_than_they_can_be(training):
    assert 0 < training.busy_ms <= training.step_ms * len(training.timelines)
    assert all(op.self_ms <= op.total_ms + 1e-9 and op.self_ms <= op.busy_ms + 1e-9 for op in training.ops)
    assert all(op.wall_ms <= op.busy_ms + 1e-9 for op in training.ops)


def test_operations_have_their_layer_and_phase(training):
    found = {(op.layer, op.phase) for op in training.ops}
    layers = ("conv", "pool", "head/hidden", "head/out")
    assert {(layer, phase) for layer in layers for phase in ("forward", "backward")} <= found
    assert (None, "update") in found
    assert (None, "other") in found
    assert all(op.phase in ("forward", "backward") for op in training.ops if op.layer)


def test_every_variable_is_updated_once_a_step(training):
    # Three layers of kernel and bias, and the number of iterations.
    written = [op for op in training.ops if op.phase == "update" and op.type.startswith("Assign")]
    assert sum(op.count for op in written) == 7 * STEPS


def test_results_have_the_size_of_their_shapes(training):
    product = next(
        op for op in training.ops if op.layer == "head/hidden" and op.phase == "forward" and "MatMul" in op.type
    )
    assert product.output_bytes == 8 * 5 * 4
    assert all(op.allocated_bytes is None for op in training.ops)  # Not recorded on a processor: unknown, not 0.


def test_inference_has_no_backward_pass():
    result = ops(small_net(), steps=2, batch_size=3)
    assert (result.step, result.batch_examples) == ("inference", 3)
    assert {op.phase for op in result.ops} <= {"forward", "other"}


def test_several_inputs_as_a_list():
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    model = keras.Model([a, b], L.Dense(1)(L.Add()([a, b])))
    result = ops(model, [np.ones((4, 3), np.float32)] * 2, steps=2)
    assert (result.step, result.batch_examples) == ("inference", 4)


def test_a_step_that_xla_compiles_is_not_taken_apart():
    model = keras.Sequential([keras.Input((4,)), L.Dense(2)])
    result = ops(model, np.ones((2, 4), np.float32), steps=2, jit_compile=True)
    assert result.ops == ()
    assert "XLA compiles this step into one program" in result.notes[0]
    assert "jit_compile=False" in result.table()
    assert result.rest_ms == pytest.approx(result.step_ms)


def test_the_record_survives_json(training):
    again = OpProfile.from_json(training.to_json())
    assert again == OpProfile(**{name: getattr(training, name) for name in again.to_dict()})


def test_the_chrome_trace_has_every_call(training, tmp_path):
    path = training.to_chrome_trace(tmp_path / "trace.json")
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"X", "M"}
    spans = [event for event in events if event["ph"] == "X"]
    assert all({"name", "ts", "dur", "pid", "tid"} <= event.keys() for event in spans)
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in spans)
    assert len([event for event in spans if event["cat"] == "step"]) == STEPS
    first = training.ops[0]
    own = [event for event in spans if event["name"] == first.name and event["cat"] == first.phase]
    own = [event for event in own if event["args"]["type"] == first.type]
    assert len(own) == first.count
    assert sum(event["dur"] for event in own) / 1e3 / STEPS == pytest.approx(first.total_ms)
    # No two steps overlap, and every event of a thread lies in one of them.
    steps = sorted((event["ts"], event["ts"] + event["dur"]) for event in spans if event["cat"] == "step")
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(steps))
    for event in spans:
        end = event["ts"] + event["dur"]
        assert any(start - 1e-6 <= event["ts"] and end <= stop + 1e-6 for start, stop in steps)
    with pytest.raises(OutputExistsError):
        training.to_chrome_trace(path)


@pytest.mark.slow
def test_the_model_is_left_as_it_was_and_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = small_net()
    model.compile("adam", "mse", metrics=["mae"])
    before = [variable.numpy().copy() for variable in model.variables]
    ops(model, data(), steps=2)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, model.variables, strict=True))
    assert not model.optimizer.built
    assert all("_open_name_scope" not in vars(layer) for layer in model.layers)
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(("__autograph", "__pycache__"))] == []
    # Training goes on, and from the beginning.
    history = model.fit(*data(), verbose=0)
    assert set(history.history) == {"loss", "mae"}
    assert int(model.optimizer.iterations) == 1


def test_a_profiler_that_runs_already_goes_on(tmp_path):
    model = small_net()
    tf.profiler.experimental.start(str(tmp_path))
    with pytest.raises(MeasurementError, match="already running"):
        ops(model, steps=1)
    tf.profiler.experimental.stop()  # Raises if it was stopped.
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert ops(model, steps=1).ops


def test_a_step_that_fails_ends_the_profiler():
    class Fails(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(1)
            self.calls = tf.Variable(0)

        def call(self, x):
            calls = self.calls.assign_add(1)
            with tf.control_dependencies([tf.debugging.assert_less(calls, 7)]):
                return self.dense(x)

    model = Fails()
    model(np.ones((1, 2), np.float32))
    with pytest.raises(tf.errors.InvalidArgumentError):
        ops(model, np.ones((1, 2), np.float32), steps=9)
    tf.profiler.experimental.start("")
    tf.profiler.experimental.stop(save=False)


class TestRefused:
    def compiled(self):
        model = small_net()
        model.compile("sgd", "mse")
        return model

    def test_a_model_that_is_not_built(self):
        with pytest.raises(InputError, match="not built"):
            ops(keras.Sequential([L.Dense(1)]))

    def test_training_without_compile(self):
        with pytest.raises(ConfigError, match="not compiled"):
            ops(small_net(), data(), training=True)

    def test_training_without_targets(self):
        with pytest.raises(ConfigError, match="needs targets"):
            ops(self.compiled(), data()[0], training=True)

    def test_inputs_that_do_not_fit(self):
        with pytest.raises(DataError, match="needs float32"):
            ops(small_net(), np.ones((2, 8, 8, 1), np.float32))

    def test_targets_that_do_not_fit(self):
        x, y = data()
        with pytest.raises(DataError, match=r"shape|fit|equal"):
            ops(self.compiled(), (x, y[:, :1].repeat(3, axis=1)))

    def test_an_empty_data_set(self):
        with pytest.raises(DataError, match="empty"):
            ops(small_net(), tf.data.Dataset.from_tensor_slices(data()[0]).take(0).batch(2))

    @pytest.mark.parametrize("setting", [{"steps": 0}, {"batch_size": 1.5}, {"jit_compile": "yes"}, {"training": 1}])
    def test_impossible_settings(self, setting):
        with pytest.raises(ConfigError, match=next(iter(setting))):
            ops(self.compiled(), data(), **setting)
