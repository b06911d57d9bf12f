import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, MeasurementError
from kopt.core.records.search.ab_test import ABTest
from kopt.measure import ab_scores, ab_test, evaluate, load
from kopt.measure.ab_inference import verdict
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


def test_logits_of_two_classes_part_at_zero(tmp_path):
    labels = (X[:, 0] > 0).astype(int)
    models = []
    for weight in (0.3, 3.0):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        model.set_weights([np.array([[weight], [0], [0]], "float32")])
        model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
        models.append(model)
    result = ab_test(*models, (X, labels))
    assert (result.value_a, result.value_b, result.verdict != "better") == (1.0, 1.0, True)
    models[0].export(tmp_path / "saved", verbose=False)  # does not say whether it gives logits
    with pytest.raises(ConfigError, match="gives logits"):
        ab_test(models[1], tmp_path / "saved", (X, labels))


@pytest.mark.parametrize("losses", [dict, list])
def test_logits_of_one_output_of_several_part_at_zero(losses):
    i = keras.Input((3,))
    parts = {"a": keras.layers.Dense(1, name="a")(i), "b": keras.layers.Dense(1, name="b")(i)}
    model = keras.Model(i, parts if losses is dict else list(parts.values()))
    model.set_weights([np.array([[0.3], [0], [0]], "float32"), np.zeros(1)] * 2)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile("sgd", {"a": loss, "b": "mse"} if losses is dict else [loss, "mse"])
    labels = {"a": (X[:, 0] > 0).astype(int)}
    assert evaluate(model, (X, labels), metrics={"a": "accuracy"}).metrics == {"a_accuracy": 1.0}
    labels = {"b": (X[:, 0] * 0.3 > 0.5).astype(int)}
    assert evaluate(model, (X, labels), metrics={"b": "accuracy"}).metrics == {"b_accuracy": 1.0}


def test_models_that_agree_are_not_called_equal_on_few_examples():
    result = ab_test(linear(), linear(), (X, Y), margin=0.01)
    assert (result.a, result.b) == ("linear (a)", "linear (b)")
    assert (result.difference, result.p_value, result.only_a, result.only_b) == (0, 1, 0, 0)
    # One added to each side: half width 1.96 sqrt(2) / 202 = 1.37 points, more than the margin.
    assert result.high == -result.low == pytest.approx(0.01372, abs=1e-5)
    assert result.verdict == "undecided"
    assert result.notes == ("The two agree on every pair.",)
    # No answer differs: z^2 (m - m^2) / m^2 = 3.8415 * 99.
    assert result.pairs_needed == 381
    assert str(result).endswith("; to show that it is not, about 390 are needed.")
    enough = np.tile(X, (2, 1))
    assert ab_test(linear(), linear(), (enough, enough.argmax(1)), margin=0.01).verdict == "equivalent"


def test_a_data_set_that_shuffles_shows_both_models_the_same_examples():
    shuffled = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(200).batch(64)
    result = ab_test(linear(0.6), linear(0.6), shuffled)
    assert (result.only_a, result.only_b) == (0, 0)
    assert 0.5 < result.value_a < 1.0


@pytest.mark.parametrize("count", [2, 5])
def test_nothing_is_claimed_from_fewer_pairs_than_could_show_it(count):
    result = ab_scores(np.zeros(count), np.ones(count), margin=0.5)
    assert result.verdict == "undecided"
    assert result.notes == (f"Nothing is claimed: {count} pairs cannot bring p below 0.05, 6 can.",)
    assert ab_scores(np.zeros(6), np.ones(6)).verdict == "better"


def test_a_difference_is_claimed_only_if_interval_and_test_agree():
    scores = np.array([0.0] * 197 + [1.0] * 3)
    few = ab_scores(np.zeros(200), scores, metric="accuracy")
    # 3 of 3: p = 2 / 8 less half of the 2 outcomes as uneven, 1 / 8.
    assert few.p_value == pytest.approx(1 / 8)
    assert few.verdict == "undecided"
    assert few.low < 0 < few.high
    assert "Bonett and Price" in few.method
    many = ab_scores(np.zeros(200), np.array([0.0] * 170 + [1.0] * 30), metric="accuracy")
    assert "BCa" in many.method
    assert many.verdict == "better"
    lopsided = ab_scores(np.zeros(7), [0.1, 1.0, 1.1, 1.0, 0.9, 1.0, -0.05], level=0.98)
    # One of 7 is against the others: 4 of the 128 signs add up to 5.05 or more.
    assert lopsided.p_value == 4 / 128
    assert lopsided.low > 0
    assert lopsided.verdict == "undecided"
    assert "not taken as a difference" in lopsided.notes[0]


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


@pytest.mark.slow
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
    a, b = [0.31, 0.35, 0.33, 0.36, 0.34, 0.32], [0.28, 0.33, 0.29, 0.35, 0.31, 0.30]
    result = ab_scores(a, b, larger_is_better=False, metric="loss")
    assert result.method.startswith("Interval by Student's t; exact sign-flip test")
    assert result.p_value == 2 / 64
    assert result.verdict == "better"
    # Differences 3 2 4 1 3 2: mean 2.5, sum of squares 5.5; t of 5 degrees of freedom at 0.975 is 2.570582.
    half = 0.01 * 2.570582 * (5.5 / 5 / 6) ** 0.5
    assert (result.low, result.high) == (pytest.approx(-0.025 - half), pytest.approx(-0.025 + half))
    assert str(result).startswith("b is better than a: -0.0250 in loss, 95% interval")
    assert ab_scores(a[:5], b[:5], larger_is_better=False).verdict == "undecided"  # p cannot be below 2 / 32


def test_right_is_what_is_better():
    # Of errors 0 is right: b alone is right on the first 8.
    errors = np.array([1.0] * 8 + [0.0] * 12)
    result = ab_scores(errors, np.zeros(20), metric="error", larger_is_better=False)
    assert (result.only_a, result.only_b, result.verdict) == (0, 8, "better")
    assert result.gain == pytest.approx(0.4)
    assert result.gain_interval == (-result.high, -result.low)


def test_the_margin_has_words_of_its_own():
    # Ten differences of -0.1 and -0.3 in turn: deviation 0.10541, t of 9 degrees at 0.975
    # is 2.262157: half width 0.07541.
    losses = np.array([-0.1, -0.3] * 5)
    maybe = ab_scores(np.zeros(10), losses, margin=0.2)
    assert (maybe.low, maybe.high) == (pytest.approx(-0.27541, abs=1e-5), pytest.approx(-0.12459, abs=1e-5))
    assert maybe.verdict == "worse"
    assert str(maybe).startswith("b is worse than a, maybe by more than the margin of 0.200:")
    assert str(ab_scores(np.zeros(10), losses, margin=0.1)).startswith("b is worse than a by more than the margin")
    assert ab_scores(np.zeros(10), losses, margin=0.3).verdict == "equivalent"
    # -1.2 and 0.8 in turn: the mean is -0.2 again, but the interval reaches from -0.95 to 0.55.
    lost = ab_scores(np.zeros(10), np.array([-1.2, 0.8] * 5), margin=0.1)
    assert lost.verdict == "undecided"
    assert lost.pairs_needed is None
    assert str(lost).startswith("Whether b is worse than a by more than the margin of 0.100 cannot be told:")
    assert str(lost).endswith(
        "the loss seen is no smaller than the margin, so that no number of them would show it is."
    )


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


def test_a_loss_is_per_example_and_that_of_compile_if_asked():
    models = [linear(0.4, "noisy"), linear(name="exact")]
    for model in models:
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    compiled = ab_test(*models, (X, Y), metric="loss")
    logits = X @ models[0].get_weights()[0]
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(200), Y]
    assert compiled.value_a == pytest.approx(expected.mean(), rel=1e-5)
    assert (compiled.metric, compiled.larger_is_better, compiled.unit) == ("loss", False, "examples")
    named = ab_test(*models, (X, Y), metric=models[0].loss)
    assert named.difference == compiled.difference
    one_hot = ab_test(*models, (X, np.eye(3)[Y]), metric=keras.losses.CategoricalCrossentropy(from_logits=True))
    assert one_hot.difference == pytest.approx(compiled.difference, rel=1e-5)
    models[1].compile(loss="mse")
    with pytest.raises(ConfigError, match="compiled with different losses"):
        ab_test(*models, (X, Y), metric="loss")
    with pytest.raises(ConfigError, match="none was found"):
        ab_test(linear(), linear(), (X, Y), metric="loss")


def test_inputs_of_a_file_may_have_other_names(models):
    x = np.random.default_rng(0).random((60, 4), dtype=np.float32)
    names = [{info.name for info in load(models / file).inputs} for file in ("dense.tflite", "dense.keras")]
    result = ab_test(models / "dense.tflite", models / "dense.keras", ({next(iter(names[0])): x}, np.arange(60) % 3))
    assert (result.only_a, result.only_b) == (0, 0)


def test_one_number_and_two_classes_are_one_question():
    one = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")], name="one")
    two = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")], name="two")
    kernel = np.array([[1.0], [0.0], [0.0]], "float32")
    one.set_weights([kernel, np.zeros(1)])
    two.set_weights([np.hstack([-kernel, kernel]), np.zeros(2)])
    result = ab_test(one, two, (X, (X[:, 0] > 0).astype(int)))
    assert (result.value_a, result.value_b) == (1.0, 1.0)
    with pytest.raises(DataError, match=r"The mse of the two cannot be compared: one answers with shape \(200, 1\)"):
        ab_test(one, two, (X, X[:, :1]), metric="mse")


def test_loads_of_one_file_are_not_told_apart_by_latency(models):
    result = ab_test(
        models / "dense.tflite", models / "dense.tflite", (np.ones((8, 4), "float32"), np.ones(8)), metric="latency",
        seconds=0.3, margin=0.5,
    )  # fmt: skip
    assert result.verdict == "equivalent"
    assert result.high - result.low >= 0.04
    assert result.unit == "rounds"


def test_the_record_travels_and_can_be_shown(tmp_path):
    result = ab_test(linear(0.6, "noisy"), linear(0.1, "finer", seed=2), (X, Y), margin=0.01)
    record = ABTest.from_json(result.to_json())
    assert json.loads(result.to_json())["schema"] == "ABTest/1"
    assert record == ABTest(**{**result.to_dict(), "notes": result.notes})
    assert record.gain == result.difference
    table = result.table()
    assert max(map(len, table.splitlines())) <= 80
    assert "right only in b" in table
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
    with pytest.raises(DataError, match=r"cannot be compared: linear answers with shape \(200, 3\), wide"):
        ab_test(linear(), keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)], name="wide"), (X, Y))
    with pytest.raises(DataError, match=r"does not fit linear: Input .* shape \(200, 2\)"):
        ab_test(linear(), linear(), (X[:, :2], Y))
    one = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(DataError, match=r"Labels of shape \(200, 3\) do not fit outputs of shape \(200, 1\) for mse"):
        ab_test(one, one, (X, X), metric="mse")
    with pytest.raises(DataError, match="class numbers from 0 to 2"):
        ab_test(linear(), linear(), (X, Y + 1), metric="sparse_categorical_crossentropy")
    for wrong in (lambda y, p: 1.0, lambda y, p: p, lambda y, p: y - p[:, :1]):
        with pytest.raises(ConfigError, match=r"one number an example, shape \(200,\)"):
            ab_test(linear(), linear(), (X, Y), metric=wrong)
    with pytest.raises(DataError, match="The data set is empty"):
        ab_test(linear(), linear(), tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).take(0))
    with pytest.raises(DataError, match="'a' needs numbers"):
        ab_scores(["x", "y"], [1, 2])
    with pytest.raises(ConfigError, match="`names` must be two"):
        ab_scores([1, 2], [1, 2], names="ab")
    with pytest.raises(ConfigError, match=r"0.999 needs at least 20,000 resamples"):
        ab_scores([1, 2], [1, 2], level=0.999)
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
    with pytest.raises(ConfigError, match=r"There is no output 'c'.*Outputs: a, b"):
        ab_test(model, model, (X, Y), output="c")
    with pytest.raises(DataError, match=r"no labels for the output 'b'\. Received those of: a"):
        ab_test(model, model, (X, {"a": Y}), output="b")
