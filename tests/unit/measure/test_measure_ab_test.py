import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.ab_records import ABTest
from kopt.core.errors import ConfigError, DataError, MeasurementError
from kopt.measure import ab_scores, ab_test
from kopt.measure.ab_test import verdict
from kopt.measure.paired import Interval

X = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
Y = X.argmax(1)


def linear(noise=0.0, name="linear", seed=1):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, use_bias=False)], name=name)
    generator = np.random.default_rng(seed)
    model.set_weights([np.eye(3, dtype="float32") + noise * generator.normal(size=(3, 3)).astype("float32")])
    return model


def test_accuracies_of_two_models_on_the_same_examples():
    result = ab_test(linear(0.6, "noisy"), linear(name="exact"), (X, Y))
    noisy = (X @ linear(0.6).get_weights()[0]).argmax(1) == Y
    assert (result.value_a, result.value_b) == (noisy.mean(), 1.0)
    assert (result.only_a, result.only_b) == (0, int((~noisy).sum()))
    assert result.difference == pytest.approx(1 - noisy.mean())
    assert result.low > 0
    assert result.p_value == pytest.approx(2 * 0.5**result.only_b - 0.5**result.only_b)
    assert result.verdict == "better"
    assert str(result).startswith("exact is better than noisy: +")
    assert (result.pairs, result.metric, result.larger_is_better) == (200, "accuracy", True)


def test_equal_models_and_how_many_examples_they_would_need():
    result = ab_test(linear(), linear(), (X, Y))
    assert (result.a, result.b) == ("linear (a)", "linear (b)")
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)
    assert result.verdict == "undecided"
    assert result.pairs_needed is None
    assert result.notes == ("The two agree on every pair.",)
    assert "No difference between" in str(result)


def test_losses_and_functions_of_labels_and_predictions():
    target = X @ np.ones((3, 3), "float32")
    result = ab_test(linear(0.1), linear(), (X, target), metric="mse")
    errors = [((X @ model.get_weights()[0] - target) ** 2).mean(1) for model in (linear(0.1), linear())]
    np.testing.assert_allclose([result.value_a, result.value_b], [one.mean() for one in errors], rtol=1e-5)
    assert not result.larger_is_better
    assert result.only_a is None

    def closeness(labels, predicted):
        return -np.abs(labels - predicted).max(1)

    assert ab_test(linear(0.1), linear(), (X, target), metric=closeness).metric == "closeness"


def test_batches_of_a_data_set_and_one_hot_and_binary_labels():
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(64)
    arrays = ab_test(linear(0.6), linear(), (X, Y))
    assert ab_test(linear(0.6), linear(), batches).difference == arrays.difference
    assert ab_test(linear(0.6), linear(), (X, np.eye(3)[Y])).difference == arrays.difference
    one = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)], name="one")
    one.set_weights([np.array([[1.0], [0.0], [0.0]], "float32")])
    result = ab_test(one, one, (X, (X[:, 0] > 0.5).astype(int)))
    assert result.value_a == 1.0


def test_latencies_are_ratios_of_rounds():
    small = linear()
    large = keras.Sequential([keras.Input((3,)), *[keras.layers.Dense(3) for _ in range(30)]], name="large")
    result = ab_test(small, large, metric="latency", seconds=0.3)
    assert result.verdict == "worse"
    assert result.value_b > result.value_a > 0
    assert 0 < result.low <= result.difference <= result.high
    assert result.pairs >= 20
    assert result.pairs_needed < 20


def test_few_runs_get_the_t_interval_and_all_signs():
    result = ab_scores([0.31, 0.35, 0.33, 0.36, 0.34], [0.28, 0.33, 0.29, 0.35, 0.31], larger_is_better=False)
    assert result.method == "Interval by Student's t; exact sign-flip test"
    assert result.p_value == 2 / 32
    assert result.verdict == "better"


@pytest.mark.parametrize(
    ("interval", "margin", "expected"),
    [
        ((0.01, 0.02), 0.0, "better"),
        ((-0.02, -0.01), 0.0, "worse"),
        ((-0.01, 0.01), 0.0, "undecided"),
        ((-0.01, 0.01), 0.02, "equivalent"),
        ((-0.01, 0.03), 0.02, "not worse"),
        ((-0.03, 0.01), 0.02, "undecided"),
        ((-0.015, -0.005), 0.02, "equivalent"),
        ((-0.05, -0.03), 0.02, "worse"),
    ],
)
def test_verdicts(interval, margin, expected):
    assert verdict(Interval(*interval), margin, larger_is_better=True) == expected
    assert verdict(Interval(-interval[1], -interval[0]), margin, larger_is_better=False) == expected


def test_the_record_travels_and_can_be_shown(tmp_path):
    result = ab_test(linear(0.6, "noisy"), linear(0.1, "finer", seed=2), (X, Y), margin=0.01)
    record = ABTest.from_json(result.to_json())
    assert json.loads(result.to_json())["schema"] == "ABTest/1"
    assert record == ABTest(**{**result.to_dict(), "notes": result.notes})
    table = result.table()
    assert max(map(len, table.splitlines())) <= 80
    assert "right only in finer" in table
    for ending in ("svg", "png"):
        assert result.plot(tmp_path / f"ab.{ending}").stat().st_size > 1000


def test_what_cannot_be_compared():
    with pytest.raises(ConfigError, match="`data` is needed"):
        ab_test(linear(), linear())
    with pytest.raises(ConfigError, match=r"Unknown metric 'acuracy'\. Did you mean 'accuracy'"):
        ab_test(linear(), linear(), (X, Y), metric="acuracy")
    with pytest.raises(ConfigError, match="direction of 'mse' is known"):
        ab_test(linear(), linear(), (X, Y), metric="mse", larger_is_better=True)
    with pytest.raises(ConfigError, match="`level` is a probability"):
        ab_test(linear(), linear(), (X, Y), level=1.0)
    with pytest.raises(ConfigError, match="no place in a paired comparison"):
        ab_test(linear(), linear(), (X, Y, np.ones(200)))
    with pytest.raises(DataError, match="do not fit outputs"):
        ab_test(linear(), linear(), (X, np.eye(5)[Y]))
    with pytest.raises(DataError, match=r"at least 2\. Received: 1 and 1"):
        ab_test(linear(), linear(), (X[:1], Y[:1]))
    with pytest.raises(DataError, match=r"Received: 3 and 2"):
        ab_scores([1, 2, 3], [1, 2])
    with pytest.raises(DataError, match=r"1 score\(s\) that are NaN"):
        ab_scores([1, 2, np.nan], [1, 2, 3])
    broken = linear()
    broken.set_weights([np.full((3, 3), np.nan)])
    with pytest.raises(MeasurementError, match="answers with NaN"):
        ab_test(linear(), broken, (X, Y))


def test_of_several_outputs_one_is_named():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, {"a": keras.layers.Dense(3)(inputs), "b": keras.layers.Dense(3)(inputs)})
    with pytest.raises(ConfigError, match="Set `output` to one of: a, b"):
        ab_test(model, model, (X, Y))
    assert ab_test(model, model, (X, Y), output="a").pairs == 200
    assert ab_test(model, model, (X, {"a": Y, "b": Y}), output="b").verdict == "undecided"
