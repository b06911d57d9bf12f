import dataclasses

import pytest

from kopt.core.records.profiles.gradients import VariableGradient
from kopt.core.records.profiles.training import TrainingEpoch, TrainingRun
from kopt.profile.training.advice import training_advice

RUN = TrainingRun("net", "SGD", 10, ("a/kernel", "b/kernel"))


def gradient(layer, variance=1e-4, rms=1e-2):
    shape = (10, 10)
    return VariableGradient(
        f"{layer}/kernel", layer, "Dense", shape, True, True, 10 * rms, rms, 0.0, variance, 0.0, 5.0, 2 * rms, 0.5, None
    )


def epochs(losses, judged=None, ratio=1e-3, **changes):
    made = []
    for number, loss in enumerate(losses):
        logs = {"loss": loss} if judged is None else {"loss": loss, "val_loss": judged[number]}
        one = TrainingEpoch(
            number, 100 * number, logs, 10, (gradient("a"), gradient("b")), (ratio, ratio), {"a/kernel": 0.0}, (), {}
        )
        made.append(dataclasses.replace(one, **changes))
    return made


def kinds(*args, run=RUN, **settings):
    return [one.kind for one in training_advice(run, epochs(*args, **settings))]


def test_a_healthy_training_gets_no_advice():
    assert kinds([2.3, 1.5, 1.0, 0.8, 0.6, 0.5, 0.42], [2.2, 1.5, 1.1, 0.9, 0.75, 0.7, 0.68]) == []
    assert training_advice(RUN, ()) == ()


def test_over_fitting_is_a_rise_of_the_validation_loss_while_the_loss_falls():
    losses, judged = [2.0, 1.0, 0.6, 0.4, 0.3, 0.2], [2.0, 1.2, 1.0, 1.1, 1.2, 1.3]
    [advice] = training_advice(RUN, epochs(losses, judged))
    assert (advice.kind, advice.where) == ("over-fitting", "val_loss")
    assert advice.value == pytest.approx(0.3)
    assert "of epoch 3" in advice.words
    assert kinds(losses, [2.0, 1.2, 1.0, 1.01, 1.02, 1.03]) == []  # 3 % above the best
    assert kinds(losses, [2.0, 1.8, 1.5, 1.2, 1.0, 1.3]) == []  # one bad epoch


def test_a_plateau_is_five_epochs_without_a_fall():
    flat = [2.0, 1.0, 0.5, 0.499, 0.498, 0.497, 0.496, 0.495]
    assert kinds(flat) == ["plateau"]
    assert kinds(flat[:5]) == []


def test_rates_that_are_too_high_or_too_low():
    assert kinds([1.0, 1.4, 1.1, 1.6], ratio=0.1) == ["learning rate too high"]
    assert kinds([1.0, 0.8, 0.6, 0.5], ratio=0.1) == []  # large steps that work
    assert kinds([1.0, 0.999, 0.998, 0.997], ratio=1e-6) == ["learning rate too low"]
    assert kinds([1.0, 0.7, 0.4, 0.2], ratio=1e-6) == []


def test_gradients_dead_units_and_statistics():
    assert kinds([1.0, 0.5], gradients=(gradient("a", rms=1e-7), gradient("b", rms=1e-2)))[0] == "vanishing"
    assert kinds([1.0, 0.5], dead_units={"a/kernel": 0.4, "b/kernel": 0.2}) == ["dead units"]
    assert kinds([1.0, 0.5], batch_norm_shifts={"norm": 0.5}) == []  # in the first epochs they have to move
    assert kinds([1.0, 0.5, 0.3], batch_norm_shifts={"norm": 0.5}) == ["batch normalization drifts"]


def test_uneven_variance_brings_the_multipliers_that_even_it_out():
    uneven = (gradient("a", variance=4e-4), gradient("b", variance=1e-4), gradient("c", variance=2.5e-5))
    [advice] = training_advice(RUN, epochs([1.0, 0.5], gradients=uneven, update_ratios=(1e-3,) * 3))
    assert (advice.kind, advice.where, advice.value) == ("uneven gradient variance", "a", pytest.approx(16.0))
    # (median / variance) ** 0.5: the noise of the updates is the same for all.
    assert [row.multiplier for row in advice.multipliers.rows] == pytest.approx([0.5, 1.0, 2.0])
    assert "LearningRateMultipliers" in advice.words
    adam = dataclasses.replace(RUN, optimizer="Adam")
    [advice] = training_advice(adam, epochs([1.0, 0.5], gradients=uneven, update_ratios=(1e-3,) * 3))
    assert "Adam divides each entry" in advice.words
