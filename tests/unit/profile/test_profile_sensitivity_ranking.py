import math

import numpy as np
import pytest
from sensitivity_cases import profile_of

from kopt.core.errors import ConfigError
from kopt.core.records.profiles.sensitivity import LayerSensitivity, PerturbationEffect
from kopt.profile.layer_sensitivity.differences import WeightedMean
from kopt.profile.layer_sensitivity.ranking import agreements_of, rank_layers, ranks, spearman


def test_equal_values_share_the_mean_of_their_ranks():
    np.testing.assert_array_equal(ranks([3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0])
    np.testing.assert_array_equal(ranks([math.nan, 1.0]), [2.0, 1.0])


def test_spearman_by_hand():
    # Ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 * (1 + 1 + 1 + 1 + 0) / (5 * 24) = 0.8.
    assert spearman([1, 2, 3, 4, 5], [20, 10, 40, 30, 50]) == pytest.approx(0.8)
    assert spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)


def test_spearman_of_too_few_or_constant_values_is_nan():
    assert math.isnan(spearman([1, 2], [1, 2]))
    assert math.isnan(spearman([1, 2, 3], [5, 5, 5]))


def test_a_ranking_goes_by_the_change_of_the_loss():
    profile = profile_of({"a": {"int8": 0.1}, "b": {"int8": 0.3}, "c": {"int8": -0.2}})
    ranking = rank_layers(profile, "loss", "int8")
    assert [(one.rank, one.layer, one.score) for one in ranking] == [(1, "b", 0.3), (2, "a", 0.1), (3, "c", -0.2)]


def test_a_ranking_without_a_perturbation_takes_the_mean_rank():
    drops = {"a": (0.1, 9.0), "b": (0.2, 1.0), "c": (0.3, 5.0)}
    profile = profile_of({name: {"int8": one, "removed": other} for name, (one, other) in drops.items()})
    # Ranks by int8 1 2 3, by removed 3 1 2: means 2, 1.5, 2.5.
    assert [(one.layer, one.score) for one in rank_layers(profile)] == [("c", 2.5), ("a", 2.0), ("b", 1.5)]


def test_a_layer_that_broke_the_model_comes_first():
    profile = profile_of({"a": {"int4": 5.0}, "b": {"int4": math.nan}})
    assert [one.layer for one in rank_layers(profile, perturbation="int4")] == ["b", "a"]


def test_a_ranking_by_what_was_not_estimated_is_refused():
    profile = profile_of({"a": {"int4": 5.0}, "b": {"int4": 1.0}})
    with pytest.raises(ConfigError, match="not estimated"):
        rank_layers(profile, "fisher")
    with pytest.raises(ConfigError, match="Did you mean 'metric'"):
        rank_layers(profile, "metrics")
    with pytest.raises(ConfigError, match="Did you mean 'int4'"):
        rank_layers(profile, "loss", "int8")


def test_agreement_compares_an_estimate_with_the_measured_loss():
    def layer(name, change, first, second):
        effect = PerturbationEffect("int4", change, 0.0, 0.0, 0.0, 1.0, first, second)
        return LayerSensitivity(name, "Dense", ("k",), 1, (effect,))

    layers = [layer("a", 1.0, 3.0, 0.0), layer("b", 2.0, 2.0, 2.0), layer("c", 3.0, 1.0, 4.0)]
    found = {one.estimate: one.spearman for one in agreements_of(layers, ["int4"])}
    # The sums are 3, 4 and 5; there is no Fisher information.
    assert found == pytest.approx({"first_order": -1.0, "second_order": 1.0, "taylor": 1.0})


def test_the_error_of_equal_weights_is_the_deviation_over_the_root_of_the_count():
    values = np.random.default_rng(0).normal(3, 2, 50).astype(np.float32)
    mean = WeightedMean()
    for part in np.split(values, [7, 30]):
        mean.add(part, np.ones(len(part)))
    assert mean.mean == pytest.approx(values.mean())
    assert mean.error == pytest.approx(values.std(ddof=1) / np.sqrt(50), rel=1e-5)


def test_an_example_of_weight_zero_does_not_count_whatever_its_value():
    mean = WeightedMean()
    mean.add(np.array([1.0, np.nan, 3.0]), np.array([1.0, 0.0, 1.0]))
    # Two values 1 apart from their mean: deviation sqrt(2), error 1.
    assert (mean.count, mean.mean, mean.error) == (2, 2.0, pytest.approx(1.0))


def test_the_error_of_one_example_is_unknown():
    mean = WeightedMean()
    mean.add(np.array([1.0]), np.array([2.0]))
    assert math.isnan(mean.error)
