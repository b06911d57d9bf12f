import dataclasses
import json
import math

import numpy as np
import pytest

from kopt.core.errors import ConfigError
from kopt.core.records.artifacts import OutputParity, Parity, TensorInfo
from kopt.core.records.candidates import ExportConfig
from kopt.core.records.measurements import Latency
from kopt.core.records.search.budget import Budget
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class Sample(Record):
    number: float
    names: tuple[str, ...] = ()
    pair: tuple[int, str] = (1, "a")
    inner: TensorInfo | None = None
    by_name: dict[str, float] = dataclasses.field(default_factory=dict)


def full_sample():
    return Sample(1.5, ("x", "y"), (2, "b"), TensorInfo("i", (None, 3), "int8", 0.5, -3), {"a": 2.0})


def test_round_trip_keeps_every_value_and_type():
    assert Sample.from_json(full_sample().to_json()) == full_sample()


def test_json_begins_with_the_schema_tag():
    assert next(iter(json.loads(full_sample().to_json()).items())) == ("schema", "Sample/1")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_numbers_survive_in_standard_json(value):
    text = Sample(value).to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    read = Sample.from_json(text).number
    assert read == value or (math.isnan(read) and math.isnan(value))


def test_an_integer_in_a_float_field_is_read_as_float():
    assert isinstance(Sample.from_dict({"number": 3}).number, float)


def test_unknown_key_names_it_and_the_nearest():
    with pytest.raises(ConfigError, match=r"Unknown key 'max_dorp' in Budget. Did you mean 'max_drop'\?"):
        Budget.from_dict({"max_dorp": 0.1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "lacks the key"),
        ({"number": "1"}, "Sample.number must be a number"),
        ({"number": True}, "Sample.number must be a number"),
        ({"number": 1, "names": "xy"}, "Sample.names must be a list"),
        ({"number": 1, "pair": [1]}, "Sample.pair must be a list of 2"),
        ({"number": 1, "inner": {"name": "i", "shape": [1.5], "dtype": "x"}}, r"TensorInfo.shape\[0\]"),
        ({"number": 1, "by_name": [1]}, "Sample.by_name must be an object"),
    ],
)
def test_wrong_values_are_refused_where_they_stand(values, message):
    with pytest.raises(ConfigError, match=message):
        Sample.from_dict(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ('{"schema": "Budget/2"}', "schema 'Budget/1'. Received: 'Budget/2'"),
        ("{}", "Received: None"),
        ("[1]", "Received: None"),
    ],
)
def test_another_schema_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Budget.from_json(text)


@pytest.mark.parametrize("drop", [-0.01, 1.01, math.nan, "0.1", True, None])
def test_budget_outside_its_range_is_refused(drop):
    with pytest.raises(ConfigError, match="max_drop"):
        Budget(max_drop=drop)


def test_unknown_objective_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'latency'"):
        Budget(objective="latancy")


def test_export_config_refuses_an_io_dtype_that_the_scheme_lacks():
    with pytest.raises(ConfigError, match=r"'dynamic' has `io_dtype` float32\. Received: 'int8'"):
        ExportConfig("tflite", "dynamic", "int8")


def test_parity_reports_its_worst_output():
    def output(name, max_abs, agreement):
        return OutputParity(name, max_abs, 0.0, 0.0, 1.0, 1.0, agreement, 0, 0)

    parity = Parity("a", "b", 4, (output("x", 0.1, None), output("y", 0.3, 0.5), output("z", 0.2, 0.75)))
    assert parity.max_abs == 0.3
    assert parity.argmax_agreement == 0.5


def test_records_hold_plain_data_only():
    with pytest.raises(TypeError, match="cannot hold"):
        Latency(1, 1, 0, object(), 0.0, 0.0, 0.0, 0.0, 0.0).to_json()


@pytest.mark.parametrize(
    "number", ["[" * 100_000, "9" * 5000, "1" + "0" * 400], ids=["brackets", "five thousand digits", "no float"]
)
def test_what_json_cannot_hold_is_refused(number):
    with pytest.raises(ConfigError, match="Sample"):
        Sample.from_json(f'{{"schema": "Sample/1", "number": {number}}}')


def test_numbers_of_numpy_are_written_as_numbers():
    record = Sample(np.float32(1.5), pair=(np.int64(2), "b"), by_name={"a": np.float64(2)})
    assert json.loads(record.to_json())["pair"] == [2, "b"]
    assert Sample.from_json(record.to_json()).number == 1.5
    with pytest.raises(TypeError, match=r"cannot hold numpy\.ndarray"):
        Sample(np.ones(2)).to_json()
