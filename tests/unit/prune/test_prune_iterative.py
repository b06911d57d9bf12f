"""Pruning in rounds: targets, training between, and a run that goes on after a kill."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from channel_cases import outputs, randomized
from processes import run_program
from test_prune_channels import conv_block, head, image

from kopt.core.errors import ConfigError, InputError, OutputError
from kopt.core.records.changes.iterative_pruning import PruningRound
from kopt.prune import IterativePruning, channels, iterative

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 8, 8, 3)).astype("float32")
Y = RNG.integers(0, 3, 48)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build():
    keras.utils.set_random_seed(0)
    i = image()
    return randomized(keras.Model(i, head(conv_block(conv_block(i, 32, "a"), 32, "b")), name="net"))


def small():
    keras.utils.set_random_seed(0)
    # Names of their own, as in another process: Keras counts those that it gives.
    layers = [*(L.Dense(32, activation="relu", name=name) for name in "ab"), L.Dense(3, name="out")]
    return randomized(keras.Sequential([keras.Input((6,), name="x"), *layers], name="small"))


def halved(model):
    """Stand for a training: something that changes the weights, and each round's in another way."""
    for variable in model.trainable_variables:
        variable.assign(variable.value * 0.5)


def test_every_round_takes_the_same_share_of_what_is_left_and_prunes_the_trained_model():
    model, seen = build(), []

    def fine_tune(smaller):
        seen.append(smaller.count_params())
        assert not smaller.compiled
        halved(smaller)

    smaller, report = iterative(model, target_macs=0.25, rounds=2, fine_tune=fine_tune, round_to=1)
    before = report.macs_before
    assert [one.target for one in report.rounds] == [round(before * 0.25**0.5), round(before * 0.25)]
    by_hand = model
    for target in (round(before * 0.5), round(before * 0.25)):
        by_hand, _ = channels(by_hand, target_macs=target, round_to=1)
        halved(by_hand)
    for one, other in zip(smaller.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [one.parameters for one in report.rounds] == seen
    assert all(one.macs <= one.target for one in report.rounds)
    assert report.metric_before is None
    assert (report.resumed, type(smaller)) == (0, type(model))


@pytest.mark.slow
def test_parameters_as_a_count_and_rounds_in_which_nothing_has_to_go():
    model = build()
    target = round(0.62 * model.count_params())
    # Widths of 32 and 16: the first round overshoots so far that the second has nothing to do.
    _, report = iterative(model, target_params=target, rounds=8, fine_tune=halved, round_to=16)
    assert report.goal == f"target_params={target:,}"
    assert report.rounds[-1].parameters <= target
    assert any(one.note == "it was small enough already" for one in report.rounds)


@pytest.mark.slow
def test_rounds_are_judged_and_statistics_estimated_anew():
    model = build()
    model.compile("adam", LOSS)
    means = []

    def fine_tune(smaller):
        means.append(smaller.get_layer("b_bn").moving_mean.numpy())
        copy = keras.models.clone_model(smaller)
        copy.set_weights(smaller.get_weights())
        return copy

    _, report = iterative(
        model, target_macs=0.5, rounds=1, fine_tune=fine_tune, train=(X, Y), validation=(X, Y), batch_size=48
    )
    smaller, _ = channels(model, target_macs=0.5)
    assert not np.allclose(means[0], smaller.get_layer("b_bn").moving_mean.numpy(), atol=1e-2)
    accuracy = [np.mean(outputs(one, X)[0].argmax(axis=1) == Y) for one in (model, smaller)]
    assert [report.metric_before, report.rounds[0].pruned] == pytest.approx(accuracy)
    assert report.metric == "accuracy"
    assert "accuracy" in report.table()


@pytest.mark.slow
def test_training_is_that_of_recover_with_the_given_model_as_teacher():
    model = build()
    model.compile("adam", LOSS)
    smaller, report = iterative(
        model, target_macs=0.4, rounds=2, train=(X, Y), validation=(X, Y), epochs=2, distill=True, criterion="taylor"
    )
    assert all(one.recovered >= one.pruned for one in report.rounds)
    hits = np.mean(outputs(smaller, X)[0].argmax(axis=1) == Y)
    assert report.rounds[-1].recovered == pytest.approx(hits)
    assert not smaller.compiled


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_after_the_last_finished_round(tmp_path):
    calls = []

    def fine_tune(model):
        calls.append(model.count_params())
        if len(calls) == 3:
            raise Killed
        halved(model)

    settings = {"target_macs": 0.3, "rounds": 4, "round_to": 1}
    whole, report = iterative(small(), fine_tune=halved, **settings)
    with pytest.raises(Killed):
        iterative(small(), fine_tune=fine_tune, workdir=tmp_path, **settings)
    (tmp_path / ".round-3-x.y.kopt-tmp").mkdir()  # as a kill in the midst of writing leaves it
    resumed, again = iterative(small(), fine_tune=fine_tune, workdir=tmp_path, **settings)
    assert len(calls) == 5  # 1, 2, 3 and, again, 3 and 4
    assert calls[2] == calls[3]
    assert again.resumed == 2
    assert again.rounds == report.rounds
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sorted(path.name.rpartition("-")[0] for path in tmp_path.iterdir()) == [f"round-{n}" for n in (1, 2, 3, 4)]
    # Once more: all is there. Other settings begin anew.
    assert iterative(small(), fine_tune=fine_tune, workdir=tmp_path, **settings)[1].resumed == 4
    assert iterative(small(), fine_tune=halved, workdir=tmp_path, **{**settings, "rounds": 1})[1].resumed == 0


KILLED = """
import os, sys
sys.path[:0] = {paths!r}
import test_prune_iterative as case
calls = []
def fine_tune(model):
    calls.append(1)
    case.halved(model)
    if len(calls) == {at}:
        os._exit(9)
settings = dict(target_macs=0.3, rounds=3, round_to=1)
_, report = case.iterative(case.small(), fine_tune=fine_tune, workdir={workdir!r}, **settings)
print("resumed", report.resumed, len(calls))
"""


@pytest.mark.slow
def test_a_process_that_was_killed_goes_on(tmp_path):
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1]), *sys.path]

    def run(at):
        script = KILLED.format(paths=paths, at=at, workdir=str(tmp_path))
        return run_program(script)

    killed = run(2)
    assert killed.exit_code == 9, killed.errors
    done = run(0)
    assert done.exit_code == 0, done.errors
    assert "resumed 1 2" in done.output


def test_the_report_shows_itself(tmp_path):
    rounds = (
        PruningRound(1, 50, 48, 9, 0.5, 0.75),
        PruningRound(2, 25, 24, 5, 0.25, 0.7, "it was small enough already"),
    )
    report = IterativePruning("net", "target_macs=25", "accuracy", 100, 20, 0.8, rounds, 1)
    assert IterativePruning.from_json(report.to_json()) == report
    table = report.table(110)
    assert "net: 100 to 24 multiply-accumulates and 20 to 5 parameters in 2 rounds. accuracy from 80.00% to" in table
    assert "75.00%" in table
    assert "1 of the rounds were found finished" in table
    assert "75.00%" not in report.table(110, rows=1)
    assert report.plot(tmp_path / "rounds.svg").read_text().startswith("<")
    plain = IterativePruning("net", "target_macs=25", "loss", 100, 20, None, (PruningRound(1, 50, 48, 9),))
    assert "loss" not in plain.table()
    assert plain.plot(tmp_path / "plain.svg").read_text().startswith("<")


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"fine_tune": None}, ConfigError, "Give `train` or `fine_tune`"),
        ({"fine_tune": "adam"}, ConfigError, "must be a function"),
        ({"fine_tune": lambda model: 3}, ConfigError, "must return a model"),
        ({"target_macs": None}, ConfigError, "Give one of"),
        ({"target_params": 0.5}, ConfigError, "Give one of"),
        ({"target_macs": 1e-4}, ConfigError, "cannot be reached"),
        ({"target_macs": 10**12}, ConfigError, "not below what the model has"),
        ({"rounds": 0}, ConfigError, "rounds"),
        ({"epochs": 0}, ConfigError, "epochs"),
        ({"batch_size": 0}, ConfigError, "batch_size"),
        ({"protect": "c"}, ConfigError, "no layer"),
        ({"protect": ["a", "b"]}, InputError, "no channels"),
        ({"validation": (X, Y)}, ConfigError, "There is no loss"),
        ({"train": (X, Y), "fine_tune": None}, ConfigError, "There is no loss"),
        ({"workdir": "/proc/no/such/place"}, OutputError, "Cannot write"),
    ],
)
def test_bad_settings(settings, error, text):
    with pytest.raises(error, match=text):
        iterative(build(), **{"target_macs": 0.5, "rounds": 2, "fine_tune": halved, **settings})
