import math

import keras
import numpy as np
import pytest
from sensitivity_cases import profile_of

from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.core.records.profiles.sensitivity_plan import SensitivityPlan
from kopt.profile.layer_sensitivity import sensitivity
from kopt.profile.layer_sensitivity.measured import Change
from kopt.profile.layer_sensitivity.plan import back_off, choice_of, make_plan, steps_within


def names(steps):
    return {layer: one.name for layer, one in choice_of(steps).items()}


def test_every_layer_gets_the_strongest_perturbation_that_the_budget_allows():
    profile = profile_of({"a": {"int8": 0.0, "int4": 0.004}, "b": {"int8": 0.001, "int4": 0.2}})
    assert names(steps_within(profile, "bits", 0.01)) == {"a": "int4", "b": "int8"}


def test_the_drops_add_up_to_at_most_the_budget():
    drops = {name: {"pruned_30": 0.002, "pruned_50": 0.004} for name in "abcdef"}
    steps = steps_within(profile_of(drops), "sparsity", 0.01)
    # A step to 30 % costs 0.002 for 30 weights, one from there to 50 % 0.002 for 20. Five fit: the cheaper ones first.
    assert [step.to.name for step in steps] == ["pruned_30"] * 5
    assert sum(step.drop for step in steps) == pytest.approx(0.01)


def test_the_layer_that_saves_more_for_its_drop_goes_first():
    drops = {"small": {"int8": 0.006}, "large": {"int8": 0.006}}
    steps = steps_within(profile_of(drops, parameters={"small": 10, "large": 10_000}), "bits", 0.01)
    assert names(steps) == {"large": "int8"}


def test_a_metric_that_got_better_costs_nothing_and_pays_for_no_other_layer():
    profile = profile_of({"lucky": {"int8": -0.5}, "other": {"int8": 0.02}})
    assert names(steps_within(profile, "bits", 0.01)) == {"lucky": "int8"}


def test_a_stronger_perturbation_that_costs_no_more_makes_a_milder_one_pointless():
    profile = profile_of({"a": {"pruned_30": 0.005, "pruned_50": 0.003, "pruned_70": 0.5}})
    # Never less than that of a milder one: 50 % counts as 0.005, which is one step from the dense layer.
    [step] = steps_within(profile, "sparsity", 0.01)
    assert (step.to.name, step.drop, step.saving) == ("pruned_50", 0.005, 50.0)


def test_caution_adds_standard_errors_to_the_drops():
    profile = profile_of({"a": {"int8": 0.005}}, error=0.004)
    assert names(steps_within(profile, "bits", 0.01, caution=1.0)) == {"a": "int8"}
    assert steps_within(profile, "bits", 0.01, caution=2.0) == []


def test_a_broken_model_stops_the_layer():
    profile = profile_of({"a": {"int8": 0.0, "int4": math.nan}})
    assert names(steps_within(profile, "bits", 1.0)) == {"a": "int8"}


def test_backing_off_gives_up_the_steps_that_save_least_until_the_joint_drop_fits():
    profile = profile_of({name: {"int8": cost} for name, cost in zip("abcd", (0.0, 0.001, 0.002, 0.003), strict=True)})
    steps = steps_within(profile, "bits", 0.01)
    calls = []

    def measure(choices):
        calls.append(len(choices))
        # Together they cost twice what they cost alone.
        return Change(0.0, 0.0, 2 * sum({"a": 0.0, "b": 0.001, "c": 0.002, "d": 0.003}[name] for name in choices), 0.0)

    kept, whole, change = back_off(steps, 0.01, measure)
    assert names(kept) == {"a": "int8", "b": "int8", "c": "int8"}
    assert (whole.metric_drop, change.metric_drop) == pytest.approx((0.012, 0.006))
    assert calls == [4, 2, 3]


def test_a_budget_that_nothing_keeps_leaves_every_layer_alone():
    profile = profile_of({"a": {"int8": 0.0}, "b": {"int8": 0.0}})
    plan = make_plan(profile, 0.01, 0.0, lambda choices: Change(1.0, 0.0, 0.5, 0.1))
    assert plan.bits == {"a": None, "b": None}
    assert plan.joint[0].relaxed == ("a", "b")
    assert plan.joint[0].drop == 0.0
    assert any("less than their own drop allowed" in note for note in plan.notes)


def test_a_plan_without_a_model_says_that_it_is_not_verified():
    plan = profile_of({"a": {"int8": 0.0, "pruned_50": 0.5}, "b": {"int8": 0.3, "pruned_50": 0.001}}).plan(0.01)
    assert plan.bits == {"a": 8, "b": None}
    assert plan.sparsity == {"a": 0.0, "b": 0.5}
    assert not plan.is_verified
    assert "Not verified" in plan.notes[0]
    # (8 + 32) / 2 bits; half of a hundred of two hundred weights.
    assert (plan.mean_bits, plan.mean_sparsity) == (20.0, 0.25)


def test_a_plan_survives_json():
    plan = profile_of({"a": {"int8": 0.0, "pruned_50": 0.5}}).plan(0.01)
    again = SensitivityPlan.from_json(plan.to_json())
    assert (again.bits, again.sparsity, again.notes) == (plan.bits, plan.sparsity, plan.notes)


def test_impossible_settings_are_refused():
    profile = profile_of({"a": {"int8": 0.0}})
    with pytest.raises(ConfigError, match="max_drop"):
        profile.plan(-0.1)
    with pytest.raises(ConfigError, match="belong together"):
        profile.plan(0.01, data=(np.zeros((2, 2)), np.zeros(2)))
    with pytest.raises(ConfigError, match="neither was measured"):
        profile_of({"a": {"removed": 0.0}}).plan(0.01)


@pytest.fixture(scope="module")
def judged():
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 6)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(np.int32)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(12, "relu"), keras.layers.Dense(2, "softmax")])
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=4, verbose=0)
    profile = sensitivity(model, (x, y), perturbations=("int4", "pruned_70"), estimate_examples=0)
    return model, (x, y), profile


def test_the_joint_drop_is_that_of_a_model_with_all_planned_weights(judged):
    model, (x, y), profile = judged
    plan = profile.plan(0.05, model=model, data=(x, y))
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    accuracy = [np.mean(np.argmax(one.predict(x, verbose=0), 1) == y) for one in (model, twin)]
    for layer, allowance in zip(twin.layers, plan.layers, strict=True):
        kernel = layer.kernel.numpy()
        if allowance.sparsity:
            limit = np.sort(np.abs(kernel), axis=None)[round(allowance.sparsity * kernel.size)]
            kernel = np.where(np.abs(kernel) < limit, 0, kernel)
        if allowance.bits:
            scale = np.maximum(np.abs(kernel).max(0), 1e-30) / (2 ** (allowance.bits - 1) - 1)
            kernel = np.round(kernel / scale) * scale
        layer.kernel.assign(kernel)
    accuracy[1] = np.mean(np.argmax(twin.predict(x, verbose=0), 1) == y)
    both = plan.joint[-1]
    assert both.what == "bits and sparsity"
    assert both.drop == pytest.approx(accuracy[0] - accuracy[1], abs=1e-6)
    assert all(one.drop <= 0.05 for one in plan.joint[:-1])


def test_a_plan_for_another_model_is_refused(judged):
    model, data, profile = judged
    twin = keras.models.clone_model(model)
    twin.compile(loss="sparse_categorical_crossentropy")
    with pytest.raises(UnsupportedModelError, match="not the one that was profiled"):
        profile.plan(0.01, model=twin, data=data)
    with pytest.raises(ConfigError, match="with the metric 'accuracy'"):
        profile.plan(0.01, model=model, data=data, metric="loss")
