import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from search_cases import FunctionRunner, softmax_of

from kopt import data
from kopt.core.errors import ConfigError, DataError, InputError
from kopt.core.records.search.budget import Budget
from kopt.search.judging.examining import agreement_budget, threads_for
from kopt.search.judging.examples import check_reachable, checked_budget, examiner_of, overlap, read_split

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = X.argmax(axis=1)


def given():
    return FunctionRunner(softmax_of, 3, "given")


def swapping(count):
    """A runner that names class 0 and 1 the other way round for the first examples of `X`."""
    known = {row.tobytes() for row in X[:count]}

    def swapped(x):
        return np.array(
            [softmax_of(r[None])[0][[1, 0, 2]] if r.tobytes() in known else softmax_of(r[None])[0] for r in x]
        )

    return FunctionRunner(swapped, 3, "swapping")


def test_one_pass_over_the_examples_gives_everything():
    wrong = int((Y[:10] != 2).sum())
    labels = Y.copy()
    labels[-2:] = (labels[-2:] + 1) % 3  # the model as given is wrong on two
    examiner = examiner_of((X, labels), given(), Budget(constraints=("agreement>=0.5",)))
    runner = swapping(10)
    found = examiner.examine(runner)
    assert runner.calls == 2  # 40 examples, 32 a call
    assert found.outcomes.scores.sum() == 38 - wrong
    assert found.evaluation.metrics == {
        "accuracy": pytest.approx((38 - wrong) / 40), "agreement": pytest.approx((40 - wrong) / 40)
    }  # fmt: skip
    assert found.parity.argmax_agreement == pytest.approx((40 - wrong) / 40)
    assert examiner.examine(examiner.given).evaluation.metrics["accuracy"] == pytest.approx(38 / 40)


def test_the_model_as_given_answers_only_when_it_is_asked():
    runner = given()
    examiner = examiner_of((X, Y), runner, Budget())
    assert (examiner.count, list(np.unique(examiner.classes)), runner.calls) == (40, [0, 1, 2], 1)  # of a few
    examiner.examine(runner)
    examiner.examine(swapping(5))
    assert runner.calls == 3


@pytest.mark.parametrize(
    "unlabelled", [X, {"x": X}, [X], data.Split(X, None), (X, None), tf.data.Dataset.from_tensor_slices(X).batch(16)]
)
def test_without_labels_the_agreement_is_guarded(unlabelled):
    assert read_split(unlabelled, "validation").y is None
    budget = checked_budget(Budget(0.05, constraints=("accuracy>=0.9", "size_bytes<=5")), has_labels=False)
    assert (budget.metric, budget.max_drop) == ("agreement", 0.05)
    assert list(map(str, budget.constraints)) == ["agreement>=0.9", "size_bytes<=5"]
    examiner = examiner_of(unlabelled, given(), budget)
    assert examiner.examine(examiner.given).outcomes.value == 1.0
    wrong = int((Y[:10] != 2).sum())
    assert examiner.examine(swapping(10)).evaluation.metrics["agreement"] == pytest.approx(1 - wrong / 40)


def test_numbers_without_labels_are_held_against_those_of_the_model():
    def line(slope):
        return FunctionRunner(lambda x: slope * x[:, :1], 3)

    budget = checked_budget(Budget(metric="r2_score"), has_labels=False)
    examiner = examiner_of(X, line(10.0), budget)
    first = X[:, :1].astype(np.float64)
    residual = (first**2).sum() / ((10 * first - 10 * first.mean()) ** 2).sum()
    found = examiner.examine(line(11.0))
    assert found.evaluation.metrics["r2_score"] == pytest.approx(1 - residual, abs=1e-5)
    assert found.outcomes.left_out.shape == (20,)
    with pytest.raises(ConfigError, match=r"outside \[0, 1\], which name no class.*metric='r2_score'"):
        examiner_of(X, line(10.0), agreement_budget(Budget())).examine(line(11.0))


@pytest.mark.parametrize(
    ("budget", "match"),
    [
        (Budget(metric="auc"), "The metric 'auc' needs labels, and there are none"),
        (Budget(constraints=("recall>=0.5",)), "The metric 'recall' needs labels"),
    ],
)
def test_metrics_that_need_labels(budget, match):
    with pytest.raises(ConfigError, match=match):
        checked_budget(budget, has_labels=False)


def test_with_labels_the_agreement_can_be_bounded_not_guarded():
    with pytest.raises(ConfigError, match="is guarded where there are no labels"):
        checked_budget(Budget(metric="agreement"), has_labels=True)
    assert checked_budget(Budget(metric="agreement"), has_labels=False).metric == "agreement"


def test_metrics_that_nobody_knows_or_that_do_not_fit():
    with pytest.raises(ConfigError, match="Unknown metric 'size_byte'"):
        checked_budget(Budget(constraints=("size_byte<=5",)), has_labels=True)
    assert checked_budget(Budget(constraints=("mae<=5",)), has_labels=True).metrics == ("accuracy", "mae")
    budget = checked_budget(Budget(metric="auc"), has_labels=True)
    with pytest.raises(ConfigError, match=r"'auc' cannot be computed of labels of shape \(8,\) and outputs of shape"):
        examiner_of((X, Y), given(), budget)


def test_a_floor_for_classes_needs_classes():
    with pytest.raises(ConfigError, match=r"`max_class_drop` needs a class for every example.*shape \(40, 3\)"):
        examiner_of((X, X), given(), Budget(metric="r2_score", max_class_drop=0.1))
    examiner_of((X, Y), given(), Budget(max_class_drop=0.1))


def test_a_bound_above_what_the_model_keeps_is_a_contradiction():
    budget = Budget(0.01, constraints=("accuracy<=0.5",))
    with pytest.raises(ConfigError, match=r"accuracy<=0.5 and max_drop=0.01 contradict.*must keep 0.9400"):
        check_reachable(budget, 0.95)
    check_reachable(budget, 0.5)
    check_reachable(dataclasses.replace(budget, constraints=("accuracy>=0.99",)), 0.95)  # a file may be better


def test_a_test_split_that_was_seen_is_refused_and_a_part_is_counted():
    validation = examiner_of((X[:30], Y[:30]), given(), Budget())
    assert overlap(examiner_of((X[30:], Y[30:]), given(), Budget(), "test"), validation) == 0
    assert overlap(examiner_of((X[28:], Y[28:]), given(), Budget(), "test"), validation) == 2
    with pytest.raises(InputError, match="all 5 of it are among those of validation"):
        overlap(examiner_of((X[5:10], Y[5:10]), given(), Budget(), "test"), validation)


@pytest.mark.parametrize("wrong", ["digits", None])
def test_what_are_no_examples(wrong):
    with pytest.raises(DataError, match="`validation` is"):
        read_split(wrong, "validation")


@pytest.mark.parametrize("data", [(X, Y, Y), tf.data.Dataset.from_tensor_slices((X, Y, Y)).batch(10)])
def test_sample_weights_are_refused_where_files_are_judged(data):
    with pytest.raises(DataError, match=r"`test` has sample weights.*`train` takes weights"):
        read_split(data, "test")


@pytest.mark.parametrize(
    ("path", "given"), [("a/b.tflite", 2), ("b.onnx", 2), ("model", None), ("model.keras", None), ("model/1", None)]
)
def test_threads_go_to_the_runtimes_that_take_them(path, given):
    assert threads_for(path, 2) == given
