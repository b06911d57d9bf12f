import dataclasses
import gzip

import keras
import numpy as np
import pytest
from search_cases import FunctionRunner, candidate, softmax_of

from kopt.core.errors import MeasurementError
from kopt.core.records.artifacts import OperatorCount
from kopt.core.records.measurements import Latency
from kopt.core.records.profiles.cost import LayerCost, ModelProfile
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.quantities import improvement, joint, to_minimize, value_of
from kopt.measure import Work
from kopt.search.judging.costing import Costs, batch_sizes, reference_sizes, with_memory, work_of
from kopt.search.trials.records import Trials

LAYERS = (
    LayerCost("a", "Dense", (None, 4), 100, 700, 1400, 400, 40, 80, read_weight_bytes=400),
    LayerCost("b", "Dense", (None, 4), 50, 300, 600, 200, 80, 20, read_weight_bytes=200),
)
PROFILE = ModelProfile("m", LAYERS, 150, 150)


def artifact(scheme, size):
    return dataclasses.replace(candidate("a", 0.9).artifact, scheme=scheme, size_bytes=size)


def test_the_work_of_a_file_is_by_its_types():
    # Between the layers move 40 + 80 + 80 + 20 = 220 bytes in float32, a quarter of it in int8, half in 16 bits.
    assert work_of(PROFILE, None) == Work(1000, 600 + 220, "float32")
    assert work_of(PROFILE, artifact("int8", 150)) == Work(1000, 150 + 55, "int8")
    partly = dataclasses.replace(artifact("int8", 150), operators=(OperatorCount("CONV_2D", "float32", 1),))
    assert work_of(PROFILE, partly) == Work(1000, 150 + 220, "float32")  # at most
    assert work_of(PROFILE, artifact("int16x8", 150)) == Work(1000, 150 + 110, "int16")
    assert work_of(PROFILE, artifact("float16", 300)) == Work(1000, 300 + 220, "float32")
    # What else is in a file, and rows of tables that are not looked up, are not read.
    assert work_of(PROFILE, artifact("float32", 10_000)) == work_of(PROFILE, None)


def test_what_is_not_known_is_not_reckoned():
    unknown = dataclasses.replace(LAYERS[0], macs=None)
    opened = dataclasses.replace(LAYERS[0], activation_bytes=None)
    for layer in (unknown, opened):
        assert work_of(dataclasses.replace(PROFILE, layers=(layer, LAYERS[1])), None) is None
    assert work_of(None, None) is None


def test_the_model_as_given_has_the_size_of_its_float32_weights(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
    plain, packed = reference_sizes(model)
    assert plain == 4 * (3 * 5 + 5)
    values = b"".join(np.asarray(weight, np.float32).tobytes() for weight in model.weights)
    assert packed == pytest.approx(len(gzip.compress(values, 6)), abs=12)  # headers
    (tmp_path / "file").write_bytes(b"0" * 5000)
    assert reference_sizes(tmp_path / "file")[0] == 5000


def test_throughput_is_timed_at_larger_batches_where_every_file_takes_them():
    free, fixed = FunctionRunner(softmax_of, 3), FunctionRunner(softmax_of, 3)
    fixed.fixed_batch = 4
    assert batch_sizes(Budget(), [free], 100) == (1,)
    assert batch_sizes(Budget(objective="throughput"), [free], 100) == (1, 32)
    assert batch_sizes(Budget(constraints=("throughput_per_s>=5",)), [free], 10) == (1, 10)
    assert batch_sizes(Budget(objective="throughput"), [free, fixed], 100) == (4,)


def test_quantities_by_their_names():
    one = candidate("a", 0.9, 2.0, 1000, 3.0, 400)
    later = Latency(32, 10, 1, 8.0, 8.0, 8.0, 8.0, 9.0, 4000.0)
    timed = dataclasses.replace(one.measurement, latencies=(*one.measurement.latencies, later))
    one = dataclasses.replace(one, measurement=timed)
    values = {
        name: value_of(one, name)
        for name in ("latency_ms", "p99_ms", "throughput_per_s", "size_bytes", "gzip_bytes", "peak_memory_bytes")
    }
    assert values == {
        "latency_ms": 2.0, "p99_ms": 2.0, "throughput_per_s": 4000.0, "size_bytes": 1000.0, "gzip_bytes": 500.0,
        "peak_memory_bytes": 400.0,
    }  # fmt: skip
    assert (value_of(one, "millijoules"), value_of(one, "accuracy"), value_of(one, "auc")) == (3.0, 0.9, None)
    assert to_minimize(one, "throughput") == 1 / 4000
    assert joint(one, Budget(objective=("latency", "size"))) == pytest.approx((2.0 * 1000.0) ** 0.5)
    assert improvement(one, candidate("b", 0.9, 6.0), "latency", None) == 3.0
    bare = dataclasses.replace(one, measurement=None, artifact=None)
    assert joint(bare, Budget()) == float("inf")
    assert improvement(one, bare, "size", 5000) == 5.0
    assert improvement(one, bare, "energy", 5000) is None


def test_estimates_of_two_kinds_are_not_mixed(tmp_path):
    def costs(profile):
        return Costs(None, "given", None, Budget(), None, profile, Trials(tmp_path, {}))

    own, other = (dataclasses.replace(artifact("int8", 150), source_sha256=source) for source in ("given", "pruned"))
    assert costs(PROFILE)._works([None, own]) == [work_of(PROFILE, None), work_of(PROFILE, own)]
    assert costs(PROFILE)._works([None, own, other]) == [None, None, None]
    assert costs(None)._works([None, own]) == [None, None]


def test_memory_is_of_the_file_or_of_the_model_saved_and_otherwise_not_known(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
    measured, asked = candidate("a", 0.9).measurement, []

    def memory(path, *, threads=None):
        asked.append((path.name, path.exists(), threads))
        return 7

    monkeypatch.setattr("kopt.measure.memory", memory)
    file = tmp_path / "model.tflite"
    file.touch()
    assert with_memory(measured, file, model, 2).peak_memory_bytes == 7
    assert with_memory(measured, None, model, 2).peak_memory_bytes == 7
    assert asked == [("model.tflite", True, 2), ("model.keras", True, None)]

    def died(path, *, threads=None):
        raise MeasurementError("it died")

    monkeypatch.setattr("kopt.measure.memory", died)
    assert with_memory(measured, file, model, None) == measured
