import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, MeasurementError
from kopt.measure import evaluate, is_loss

# Scores whose largest entries are the classes 0, 1, 2, 1.
SCORES = np.array([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3]], np.float32)
LABELS = np.array([0, 1, 0, 2])
ONE_HOT = np.eye(3)[LABELS]
BINARY = np.array([[0.9], [0.2], [0.6], [0.4]], np.float32)


@pytest.fixture
def echo(function_runner):
    return lambda width, **settings: function_runner(lambda x: x, width, **settings)


@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], ONE_HOT, LABELS.astype(np.float32), LABELS.tolist()])
def test_accuracy_of_classes_however_labelled(echo, labels):
    found = evaluate(echo(3), (SCORES, labels))
    # 0 = 0, 1 = 1, 2 != 0, 1 != 2.
    assert found.metrics == {"accuracy": 0.5}
    assert (found.target, found.runtime, found.examples) == ("function", "NumPy", 4)


@pytest.mark.parametrize("labels", [np.array([1, 0, 0, 0]), np.array([[1], [0], [0], [0]]), np.array([1.0, 0, 0, 0])])
def test_accuracy_of_a_binary_output(echo, labels):
    # Cut at 0.5: 1 0 1 0, of which the third is wrong.
    assert evaluate(echo(1), (BINARY, labels)).metrics == {"accuracy": 0.75}


def test_two_examples_of_two_classes_are_not_taken_for_one_hot(echo):
    assert evaluate(echo(2), (np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]))).metrics == {"accuracy": 0.5}


def test_keras_metrics_by_name_and_object(echo):
    found = evaluate(echo(1), (BINARY, np.array([1, 0, 1, 0])), metrics=["mae", keras.metrics.MeanSquaredError()])
    # Errors 0.1 0.2 0.4 0.4.
    assert found.metrics == pytest.approx({"mae": 1.1 / 4, "mean_squared_error": 0.37 / 4})
    top = keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top2")
    # Second best of row 3 is 1, not 0; of row 4 it is 0 or 2 with equal scores.
    assert evaluate(echo(3), (SCORES[:3], LABELS[:3]), metrics=[top, "accuracy"]).metrics == pytest.approx(
        {"top2": 2 / 3, "accuracy": 2 / 3}
    )
    # The object starts anew at every call.
    assert evaluate(echo(3), (SCORES[:2], LABELS[:2]), metrics=top).metrics["top2"] == 1.0


def test_data_set_counts_every_example_once(echo):
    dataset = tf.data.Dataset.from_tensor_slices((SCORES, LABELS)).batch(3)
    runner = echo(3)
    assert evaluate(runner, dataset).metrics == {"accuracy": 0.5}
    assert runner.calls == [3, 1]


def test_sample_weights_count(echo):
    # Weights of the two right ones 3 + 1, of all 8.
    weights = np.array([3.0, 1.0, 2.0, 2.0])
    assert evaluate(echo(3), (SCORES, LABELS, weights)).metrics == {"accuracy": 0.5}
    weights = np.array([6.0, 1.0, 2.0, 1.0])
    assert evaluate(echo(3), (SCORES, LABELS, weights)).metrics["accuracy"] == pytest.approx(0.7)


def test_several_outputs_by_name(function_runner):
    runner = function_runner(lambda x: {"scores": x, "sum": x.sum(1, keepdims=True)}, 3, outputs=("scores", "sum"))
    found = evaluate(runner, (SCORES, {"scores": LABELS}))
    assert found.metrics == {"scores_accuracy": 0.5}
    with pytest.raises(DataError, match=r"labels as a dict by output name.*scores, sum"):
        evaluate(runner, (SCORES, LABELS))
    both = {"scores": ONE_HOT, "sum": np.ones((4, 1))}
    with pytest.raises(ConfigError, match="state of one output"):
        evaluate(runner, (SCORES, both), metrics=keras.metrics.MeanAbsoluteError())
    # One-hot against scores: 0.4, 1.0, 1.8 and 1.4 over 12 numbers; the scores of a row sum up to 1.
    found = evaluate(runner, (SCORES, both), metrics="mae")
    assert found.metrics == pytest.approx({"scores_mae": 4.6 / 12, "sum_mae": 0.0}, abs=1e-6)


def test_each_output_has_metrics_of_its_own(function_runner, echo):
    runner = function_runner(lambda x: {"scores": x, "sum": x.sum(1, keepdims=True)}, 3, outputs=("scores", "sum"))
    both = {"scores": LABELS, "sum": np.full((4, 1), 3.0)}
    metrics = {"scores": "accuracy", "sum": ["mae", keras.metrics.MeanSquaredError("squares")]}
    found = evaluate(runner, (SCORES, both), metrics=metrics)
    expected = {"scores_accuracy": 0.5, "sum_mae": 2.0, "sum_squares": 4.0}
    assert found.metrics == pytest.approx(expected, abs=1e-6)
    found = evaluate(runner, (SCORES, both), metrics={"sum": "mae"})
    assert found.metrics == pytest.approx({"sum_mae": 2.0}, abs=1e-6)
    assert evaluate(echo(3), (SCORES, LABELS), metrics={"y": "accuracy"}).metrics == {"accuracy": 0.5}
    with pytest.raises(ConfigError, match=r"no output 'sums'. Did you mean 'sum'\? Outputs: scores, sum"):
        evaluate(runner, (SCORES, both), metrics={"sums": "mae"})
    with pytest.raises(DataError, match="no labels of what `metrics` names: sum"):
        evaluate(runner, (SCORES, {"scores": LABELS}), metrics={"sum": "mae"})
    with pytest.raises(ConfigError, match="at least one metric"):
        evaluate(runner, (SCORES, both), metrics={})


def test_files_are_judged_in_their_runtime(models, dense):
    x = np.random.default_rng(0).random((100, 4), dtype=np.float32)
    labels = dense(x).argmax(axis=-1)
    labels[:10] = (labels[:10] + 1) % 3
    found = evaluate(models / "dense.tflite", (x, labels))
    assert found.metrics["accuracy"] == pytest.approx(0.9)
    assert found.target == "dense.tflite"
    assert found.runtime.startswith("LiteRT")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([0, 1, 3, 2]), r"class numbers from 0 to 2.*Received: .*3.* at position 2, 1 such"),
        (np.array([0, -1, 0, 0]), "position 1"),
        (np.array([0, 0.5, 0, 0]), "position 1"),
        (np.eye(4), r"\(4, 4\) do not fit outputs of shape \(4, 3\).*width 3"),
        (np.array([0, 1]), r"2 label\(s\) for 4 example"),
        (np.array(["a", "b", "c", "d"]), "array of numbers"),
    ],
)
def test_labels_that_do_not_fit(echo, labels, words):
    with pytest.raises(DataError, match=words):
        evaluate(echo(3), (SCORES, labels))


def test_binary_labels_that_do_not_fit(echo):
    with pytest.raises(DataError, match="from 0 to 1"):
        evaluate(echo(1), (BINARY, np.array([0, 1, 2, 0])))
    with pytest.raises(DataError, match="do not fit the binary output"):
        evaluate(echo(1), (BINARY, np.eye(4)))


def test_other_refusals(echo):
    with pytest.raises(MeasurementError, match=r"answers with NaN \(1 of 12"):
        evaluate(echo(3), (np.where(SCORES == 0.8, np.nan, SCORES), LABELS))
    with pytest.raises(ConfigError, match=r"Unknown metric 'recal'.*Did you mean 'Recall'"):
        evaluate(echo(3), (SCORES, LABELS), metrics=["recal"])
    with pytest.raises(ConfigError, match="at least one metric"):
        evaluate(echo(3), (SCORES, LABELS), metrics=())
    with pytest.raises(DataError, match=r"Labelled data is \(x, y\)"):
        evaluate(echo(3), SCORES)
    dataset = tf.data.Dataset.from_tensor_slices((SCORES, LABELS))
    with pytest.raises(DataError, match=r"dataset.batch\(32\)"):
        evaluate(echo(3), dataset)
    with pytest.raises(DataError, match="repeats without end"):
        evaluate(echo(3), dataset.batch(2).repeat())
    with pytest.raises(DataError, match="empty"):
        evaluate(echo(3), dataset.take(0).batch(2))


def test_weights_are_those_of_the_output():
    i = keras.Input((3,))
    model = keras.Model(i, {"a": keras.layers.Identity(name="a")(i), "b": keras.layers.Identity(name="b")(i)})
    weights = {"a": np.array([1.0, 0, 0, 0]), "b": np.array([0.0, 0, 0, 1])}
    found = evaluate(model, (SCORES, {"a": LABELS, "b": LABELS}, weights)).metrics
    assert found == {"a_accuracy": 1.0, "b_accuracy": 0.0}
    with pytest.raises(DataError, match=r"^Output 'b': Labels of shape \(4, 4\) do not fit"):
        evaluate(model, (SCORES, {"a": LABELS, "b": np.eye(4)}))


def test_a_loss_of_a_binary_output_takes_labels_without_its_axis(echo):
    labels = np.array([1, 0, 1, 0])
    expected = -np.log([0.9, 0.8, 0.6, 0.6]).mean()
    found = evaluate(echo(1), (BINARY, labels), metrics="binary_crossentropy").metrics
    assert found["binary_crossentropy"] == pytest.approx(expected, rel=1e-5)


def test_a_metric_without_a_meaning_is_named(echo):
    with pytest.raises(ConfigError, match=r"'categorical_crossentropy' cannot be computed of labels of shape \(4,\)"):
        evaluate(echo(3), (SCORES, LABELS), metrics="categorical_crossentropy")


@pytest.mark.parametrize("name", ["acc", "accuracy"])
def test_more_of_an_accuracy_is_better_by_either_name(name):
    assert not is_loss(name)


def test_a_function_gives_its_name(echo):
    def second_best(labels, predicted):
        return keras.metrics.sparse_top_k_categorical_accuracy(labels, predicted, k=2)

    assert list(evaluate(echo(3), (SCORES, LABELS), metrics=second_best).metrics) == ["second_best"]
