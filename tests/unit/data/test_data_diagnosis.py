import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError
from kopt.core.records.training.data import StageTime
from kopt.data import diagnose, from_arrays
from kopt.data.advice import Facts, advise, verdict_of

X = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
Y = (X.sum(axis=1) > 0).astype(np.float32)[:, None]


def model():
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dropout(0.5)])
    network.add(keras.layers.Dense(1, activation="sigmoid"))
    network.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return network


def slow(x):
    """Return `x` after some milliseconds of arithmetic in the graph."""
    square = tf.eye(300) + x[0, 0] * 0
    for _ in range(40):
        square = tf.matmul(square, square)
    return x + square[0, 0] - 1


@pytest.mark.parametrize(
    ("batch_ms", "step_ms", "verdict"),
    [(1.0, None, "no model"), (2.0, 1.0, "input-bound"), (1.0, 2.0, "compute-bound"), (1.05, 1.0, "balanced")],
)
def test_verdicts(batch_ms, step_ms, verdict):
    assert verdict_of(batch_ms, step_ms) == verdict


def stage(name, up_to_ms, added_ms, python=False):
    return StageTime(stage=name, detail="", up_to_ms=up_to_ms, added_ms=added_ms, python=python)


def advice(stages, facts, verdict="input-bound", **settings):
    given = {"batch_ms": stages[-1].up_to_ms, "start_ms": 1.0, "has_prefetch": True, "cache": None, "cores": 2}
    return advise(verdict, stages, facts, **{**given, **settings})


def test_advice_names_the_edit_that_saves_most_first():
    stages = [stage("source: range", 1.0, 1.0), stage("map", 11.0, 10.0)]
    facts = [Facts("range"), Facts("map", function="decode", multiplicity=32, parallel_ms=5.0)]
    lines = advice(stages, facts, has_prefetch=False)
    assert ".prefetch(tf.data.AUTOTUNE)" in lines[0]
    assert "`map` of `decode` runs one call at a time" in lines[1]
    assert "11 ms a batch becomes 5 ms" in lines[1]


def test_advice_on_python_and_on_small_calls_and_none_where_the_model_is_the_limit():
    stages = [stage("source: range", 1.0, 1.0), stage("map", 2.0, 1.0, python=True)]
    assert "runs Python for every element" in advice(stages, [Facts("range"), Facts("map")])[0]
    small = [stage("source: range", 1.0, 1.0), stage("map", 1.3, 0.3)]
    facts = [Facts("range"), Facts("map", parallel=True, multiplicity=32)]
    assert "put `.batch` before it" in advice(small, facts)[0]
    assert advice(stages, [Facts("range"), Facts("map")], verdict="compute-bound") == ()
    assert "Nothing here is left undone on 2 core(s)" in advice(small[:1], facts[:1])[0]


@pytest.mark.slow
def test_the_slow_stage_is_found_and_what_follows_is_said(tmp_path):
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).map(lambda x, y: (slow(x), y))
    result = diagnose(dataset, model(), seconds=1.0)
    assert result.verdict == "input-bound"
    assert result.slowest == "map"
    by_name = {stage.stage: stage.added_ms for stage in result.stages}
    assert by_name["map"] > 0.8 * sum(by_name.values())
    assert result.ratio == result.batch_ms / result.step_ms > 1.1
    assert any(".prefetch" in line for line in result.advice)
    assert max(map(len, result.table().splitlines())) <= 80
    assert str(result).startswith("Input-bound")
    for name in ("input.svg", "input.png"):
        assert result.plot(tmp_path / name).stat().st_size > 1000


@pytest.mark.slow
def test_a_ready_batch_leaves_the_model_as_the_limit():
    batch = (tf.constant(X), tf.constant(Y))
    result = diagnose(tf.data.Dataset.from_tensors(batch).repeat().prefetch(2), model(), seconds=0.6)
    assert result.verdict == "compute-bound"
    assert result.waiting == 0
    assert result.batch_examples == 64


@pytest.mark.slow
def test_the_model_stays_as_it_was():
    network = model()
    network.fit(X, Y, verbose=0)
    state = [*network.variables, *network.optimizer.variables, *network.metrics_variables]
    before = [variable.numpy() for variable in state]
    diagnose(from_arrays(X, Y, batch_size=8), network, seconds=0.3)
    for variable, value in zip(state, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)


@pytest.mark.slow
def test_python_in_the_pipeline_is_named():
    def generate():
        yield from X

    generated = tf.data.Dataset.from_generator(generate, output_signature=tf.TensorSpec((8,))).batch(8)
    result = diagnose(generated, seconds=0.3)
    assert result.stages[0].stage == "source: from_generator"
    assert result.stages[0].python
    assert any("runs Python for every element" in line for line in result.advice)
    called = tf.data.Dataset.from_tensor_slices(X).map(lambda x: tf.numpy_function(np.abs, [x], tf.float32)).batch(8)
    assert [stage.stage for stage in diagnose(called, seconds=0.3).stages if stage.python] == ["map"]


@pytest.mark.slow
def test_the_record_survives_json():
    result = diagnose(from_arrays(X, batch_size=8), seconds=0.2)
    assert type(result).from_json(result.to_json()) == result
    assert result.verdict == "no model"
    assert result.ratio is None


@pytest.mark.parametrize("seconds", [0, -1, "1", True, float("inf")])
def test_impossible_seconds(seconds):
    with pytest.raises(ConfigError, match="`seconds` must be a positive number"):
        diagnose(from_arrays(X, batch_size=8), seconds=seconds)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tf.data.Dataset.from_tensor_slices((X, Y)), "Batch the data set if it gives single examples"),
        (from_arrays(X[:, :5], Y, batch_size=8), r"shapes \(8, 5\), \(8, 1\): Input 0 .* incompatible with the layer"),
    ],
)
def test_data_that_the_model_cannot_be_trained_on(data, message):
    with pytest.raises(DataError, match=message):
        diagnose(data, model(), seconds=0.1)


def test_what_cannot_be_diagnosed():
    with pytest.raises(DataError, match=r"Received: numpy\.ndarray"):
        diagnose(X)
    with pytest.raises(DataError, match="empty"):
        diagnose(tf.data.Dataset.range(0))
    with pytest.raises(ConfigError, match="compile"):
        diagnose(from_arrays(X, Y, batch_size=8), keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]))
