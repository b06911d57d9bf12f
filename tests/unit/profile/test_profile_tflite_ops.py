"""The operator profile of `.tflite` files: what it pairs and refuses, and a real file in the real runtime."""

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest

from kopt.core.errors import ConfigError, DataError, LoadError, MeasurementError
from kopt.core.records.profiles.runtime import TFLiteOpProfile
from kopt.profile.timing import tflite_worker
from kopt.profile.timing.tflite import tflite_ops
from kopt.profile.timing.tflite_matching import Operator, operators_of, paired

FILES = Path(__file__).parents[2] / "data"


def operator(name, output="y"):
    return Operator(name, output, 4)


class TestPairing:
    def test_in_order_where_there_are_as_many_of_both(self):
        kernels = ["Convolution (NHWC, F32) IGEMM", "Convolution (NHWC, F32) DWConv", "Fully Connected (NC, F32) GEMM"]
        operators = [operator("CONV_2D", "a"), operator("DEPTHWISE_CONV_2D", "b"), operator("CONV_2D", "c")]
        assert paired(kernels, operators) == operators

    def test_other_kinds_between_them_do_not_matter(self):
        operators = [operator("PAD"), operator("CONV_2D", "a"), operator("SOFTMAX", "b")]
        found = paired(["Convolution (NHWC, F32) IGEMM", "Softmax (NC, F32)"], operators)
        assert [one.output for one in found] == ["a", "b"]

    def test_nothing_where_the_numbers_differ(self):
        operators = [operator("ADD"), operator("ADD"), operator("MEAN", "m")]
        assert paired(["Add (ND)", "Mean (ND) Reduce2"], operators) == [None, operators[2]]

    def test_nothing_where_a_pair_makes_no_sense(self):
        operators = [operator("CONV_2D"), operator("DEPTHWISE_CONV_2D")]
        assert paired(["Convolution (NHWC, F32) DWConv", "Fully Connected (NC, F32) GEMM"], operators) == [None, None]

    def test_nothing_for_a_kind_that_is_not_known(self):
        assert paired(["Copy (NC, X32)"], [operator("RESHAPE")]) == [None]


def event(tag, kind, index=0, subgraph=0, elapsed=0):
    return tflite_worker._Event(tag.encode(), kind, 0, elapsed, (tflite_worker.ctypes.c_int64 * 6)(), index, subgraph)


class TestTotals:
    def summary(self, *turns):
        totals = tflite_worker._Totals()
        for turn in turns:
            totals.add(turn)
        return totals.summary()

    def test_calls_are_those_of_the_main_subgraph(self):
        call = [event("Invoke", 1, elapsed=10), event("ADD", 2, 3, elapsed=4)]
        longer = [event("Invoke", 1, elapsed=14), event("ADD", 2, 3, elapsed=6)]
        found = self.summary([*call, *longer])
        assert (found["calls"], found["call_us"]) == (2, 12)
        [row] = found["rows"]
        assert (row["tag"], row["index"], row["us"], row["count"]) == ("ADD", 3, 5, 1)

    def test_one_disturbed_turn_changes_nothing(self):
        quiet = [event("Invoke", 1, elapsed=10), event("ADD", 2, 3, elapsed=4)]
        disturbed = [event("Invoke", 1, elapsed=900), event("ADD", 2, 3, elapsed=800)]
        found = self.summary(quiet, disturbed, quiet)
        assert (found["call_us"], found["rows"][0]["us"]) == (10, 4)

    def test_kernels_of_two_parts_of_a_delegate_are_told_apart(self):
        found = self.summary(
            [
                event("Invoke", 1, elapsed=9),
                event("Convolution", 8, 0, elapsed=1),
                event("Add", 8, 1, elapsed=2),
                event("CUMSUM", 2, 5, elapsed=3),
                event("Convolution", 8, 0, elapsed=4),
            ]
        )
        rows = [(row["tag"], row["us"]) for row in found["rows"]]
        assert rows == [("Convolution", 1), ("Add", 2), ("CUMSUM", 3), ("Convolution", 4)]

    def test_a_part_that_follows_another_one_begins_to_count_anew(self):
        found = self.summary(
            [event("Invoke", 1), event("Add", 8, 0, elapsed=1), event("Mean", 8, 1), event("Add", 8, 0, elapsed=5)]
        )
        assert [(row["tag"], row["us"]) for row in found["rows"]] == [("Add", 1), ("Mean", 0), ("Add", 5)]

    def test_a_loop_is_told_from_the_operators_in_it(self):
        found = self.summary(
            [
                event("Invoke", 1, elapsed=100),
                event("WHILE", 2, 1, elapsed=80),
                event("Invoke", 1, subgraph=1, elapsed=9),
                event("LESS", 2, 0, subgraph=1, elapsed=2),
                event("Invoke", 1, subgraph=1, elapsed=9),
                event("LESS", 2, 0, subgraph=1, elapsed=3),
            ]
        )
        loop, less = found["rows"]
        assert (loop["holds_subgraph"], less["holds_subgraph"]) == (True, False)
        assert (less["us"], less["count"]) == (5, 2)
        assert found["calls"] == 1

    def test_telemetry_is_no_operator(self):
        assert self.summary([event("Invoke", 1), event("Invoke", 32, 1, 7)])["rows"] == []


def test_the_file_is_read_with_the_size_of_its_results():
    [graph] = operators_of(FILES / "dense.tflite", batch_size=5)
    assert [one.name for one in graph] == ["FULLY_CONNECTED", "SOFTMAX"]
    # 5 examples of 3 classes in float32.
    assert [one.output_bytes for one in graph] == [5 * 3 * 4, 5 * 3 * 4]


@pytest.mark.slow
def test_a_real_file():
    result = tflite_ops(FILES / "dense.tflite", seconds=0.1)
    # The product and the softmax; the delegate may add kernels that only rearrange.
    kinds = [op.operator for op in result.ops if op.operator]
    assert kinds == ["FULLY_CONNECTED", "SOFTMAX"]
    assert {op.runs_in for op in result.ops} == {"XNNPACK"}
    assert all(op.count == 1 for op in result.ops)
    assert result.runs >= 30
    assert 0 < result.call_ms < 5
    assert result.ops_ms <= result.profiled_call_ms
    assert TFLiteOpProfile.from_json(result.to_json()).ops == result.ops
    assert "rounds down" in result.table()


@pytest.mark.slow
def test_the_operators_add_up_to_the_call(tmp_path):
    path = conv_file(tmp_path)
    result = tflite_ops(path, np.ones((4, 64, 64, 8), np.float32), batch_size=4, seconds=0.5)
    assert [op.operator for op in result.ops if op.operator][:2] == ["CONV_2D", "CONV_2D"]
    first, second = [op for op in result.ops if op.operator == "CONV_2D"]
    # 8 to 32 channels against 32 to 32: a fourth of the work.
    assert first.time_ms < second.time_ms
    assert first.output_bytes == second.output_bytes == 4 * 64 * 64 * 32 * 4
    assert result.ops_ms == pytest.approx(result.call_ms, rel=0.5)
    assert sum(op.share for op in result.ops) == pytest.approx(1)
    # CUMSUM is not in XNNPACK.
    assert [op.kernel for op in result.ops if op.runs_in == "LiteRT"] == ["CUMSUM"]
    assert "XNNPACK left 1 operator(s) to the interpreter" in result.notes[0]


def conv_file(directory):
    import keras
    import tensorflow as tf

    image = keras.Input((64, 64, 8))
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(image)
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    model = keras.Model(image, keras.ops.cumsum(x, axis=1))
    model.export(directory / "saved", verbose=False)
    path = directory / "conv.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(directory / "saved")).convert())
    return path


class TestRefused:
    def test_a_missing_file(self):
        with pytest.raises(LoadError, match="There is no file"):
            tflite_ops("missing.tflite")

    def test_another_format(self):
        with pytest.raises(ConfigError, match=r"must be that of a \.tflite file"):
            tflite_ops(FILES / "dense.onnx")

    def test_data_that_does_not_fit(self):
        with pytest.raises(DataError, match="needs float32"):
            tflite_ops(FILES / "dense.tflite", np.ones((1, 7), np.float32))

    @pytest.mark.parametrize("setting", [{"batch_size": 0}, {"threads": 0}, {"seconds": 0}])
    def test_impossible_settings(self, setting):
        with pytest.raises(ConfigError, match=next(iter(setting))):
            tflite_ops(FILES / "dense.tflite", **setting)

    def test_a_release_whose_profiler_is_not_known(self, monkeypatch):
        real = importlib.metadata.version
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name: "9.0.0" if name == "ai-edge-litert" else real(name)
        )
        with pytest.raises(MeasurementError, match=r"known for ai-edge-litert 2\.3\.x\. Installed: 9\.0\.0"):
            tflite_ops(FILES / "dense.tflite")

    @pytest.mark.slow
    def test_a_child_that_dies_costs_one_error(self, monkeypatch, tmp_path):
        script = tmp_path / "dies.py"
        script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
        monkeypatch.setattr("kopt.profile.timing.tflite.WORKER", script)
        with pytest.raises(MeasurementError, match=r"its process died \(SIGSEGV\)"):
            tflite_ops(FILES / "dense.tflite")
