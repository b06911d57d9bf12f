import keras
import numpy as np
import pytest

from kopt.core.errors import ConfigError
from kopt.graph.tfmot import load_tfmot
from kopt.prune import schedules
from kopt.prune.schedules import as_schedule, highest_sparsity


def turns(schedule, steps):
    seen = [(step, schedule(step)) for step in steps]
    return {step: pytest.approx(float(sparsity), abs=1e-6) for step, (turn, sparsity) in seen if bool(turn)}


def test_polynomial_is_its_formula_and_ends_at_its_end():
    schedule = schedules.Polynomial(0.8, begin=2, end=12, initial_sparsity=0.3, power=2.0, frequency=4)
    # Every fourth step from 2 on, and the last one.
    assert turns(schedule, range(20)) == {
        step: 0.8 + (0.3 - 0.8) * (1 - (step - 2) / 10) ** 2 for step in (2, 6, 10, 12)
    }


def test_cubic_is_polynomial_of_power_three():
    cubic, polynomial = schedules.Cubic(0.9, 1, 50), schedules.Polynomial(0.9, 1, 50, power=3.0)
    assert turns(cubic, range(60)) == turns(polynomial, range(60))


def test_one_cycle_is_its_formula():
    schedule = schedules.OneCycle(0.7, begin=1, end=101, frequency=25)
    expected = {1 + 25 * k: 0.7 * (1 + np.exp(5.0 - 14.0)) / (1 + np.exp(5.0 - 14.0 * k / 4)) for k in range(5)}
    assert turns(schedule, range(120)) == expected
    assert expected[101] == pytest.approx(0.7)


def test_rounds_remove_the_same_share_of_what_is_left():
    schedule = schedules.Iterative(0.875, begin=10, every=100, rounds=3)
    assert turns(schedule, range(400)) == {10: 0.5, 110: 0.75, 210: 0.875}


def test_a_number_is_one_turn_before_training():
    assert turns(as_schedule(0.5), range(100)) == {1: 0.5}
    assert turns(schedules.Constant(0.5, begin=3, end=9, frequency=4), range(20)) == {3: 0.5, 7: 0.5, 9: 0.5}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_schedules_of_tfmot_are_taken_step_for_step():
    sparsity = load_tfmot().sparsity.keras
    given = [
        sparsity.PolynomialDecay(0.1, 0.9, begin_step=3, end_step=50, power=2, frequency=7),
        sparsity.ConstantSparsity(0.4, begin_step=5, frequency=10),
    ]
    for theirs in given:
        ours = as_schedule(theirs)
        restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
        for step in range(80):
            for one in (ours, restored):
                assert [float(part) for part in one(step)] == [float(part) for part in theirs(step)]


class Custom:
    """Prunes by half at step 5."""

    def __call__(self, step):
        return step == 5, 0.5

    def get_config(self):
        return {}


def test_any_object_of_that_protocol_is_taken():
    schedule = as_schedule(Custom())
    assert turns(schedule, range(10)) == {5: 0.5}
    assert highest_sparsity(schedule, 1, 10) == 0.5
    assert repr(schedule) == "Custom"  # what reports call it
    with pytest.raises(ConfigError, match=r"cannot be written to a `\.keras` file"):
        schedule.get_config()


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.Constant(0.5),
        schedules.Polynomial(0.8, 2, 12, initial_sparsity=0.1),
        schedules.Cubic(0.8, 2, 12),
        schedules.OneCycle(0.8, 2, 12, alpha=10.0),
        schedules.Iterative(0.8, 2, every=3, rounds=4),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_schedules_are_stored_and_restored(schedule):
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert repr(restored) == repr(schedule)
    assert turns(restored, range(20)) == turns(schedule, range(20))


def test_the_sparsity_that_a_training_reaches():
    schedule = schedules.Polynomial(0.8, begin=100, end=200, frequency=50)
    assert highest_sparsity(schedule, 1, 99) == 0.0
    assert highest_sparsity(schedule, 1, 160) == pytest.approx(0.8 - 0.8 * 0.5**3)
    assert highest_sparsity(schedule, 1, 1000) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: as_schedule(1.0), r"in \[0, 1\)"),
        (lambda: as_schedule(-0.1), "least|must be"),
        (lambda: as_schedule("half"), "must be a sparsity"),
        (lambda: as_schedule(True), "must be a sparsity"),
        (lambda: schedules.Polynomial(0.5, 10, 5), "must not come before `begin`"),
        (lambda: schedules.Polynomial(0.5, 0, 5), "at least 1"),
        (lambda: schedules.Cubic(0.5, frequency=0), "at least 1"),
        (lambda: schedules.Iterative(0.5, every=5, rounds=0), "at least 1"),
    ],
)
def test_what_is_no_schedule(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
