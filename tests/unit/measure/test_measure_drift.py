"""PSI and KS against arithmetic by hand and SciPy; false alarms and alarms counted."""

import math

import numpy as np
import pytest
from scipy import stats

import kopt
from kopt.core.errors import ConfigError, DataError
from kopt.core.records.shipping.drift import DriftProfile, DriftReport
from kopt.measure.drifting import ks, psi


def test_psi_by_hand():
    # With half a value more in each: shares 10/20, 10/20 and 5/20, 15/20.
    expected = (0.25 - 0.5) * math.log(0.25 / 0.5) + (0.75 - 0.5) * math.log(0.75 / 0.5)
    assert psi(np.array([9.5, 9.5]), np.array([4.5, 14.5])) == pytest.approx(expected, abs=1e-15)
    assert psi(np.array([3, 4, 5]), np.array([3, 4, 5])) == 0.0
    assert math.isfinite(psi(np.array([10, 0]), np.array([0, 10])))


def test_ks_is_that_of_scipy():
    generator = np.random.default_rng(0)
    a, b = np.sort(generator.normal(size=300)), np.sort(generator.normal(0.3, size=170).round(1))
    assert ks(a, b) == pytest.approx(stats.ks_2samp(a, b).statistic, abs=1e-12)


def test_the_same_distribution_raises_no_alarm_and_its_psi_is_the_noise():
    generator = np.random.default_rng(1)
    profile = kopt.measure.drift_profile(generator.normal(size=(1000, 200)))
    report = kopt.measure.drift(profile, generator.normal(size=(500, 200)))
    assert {feature.status for feature in report.features} == {"same"}
    # 9 * (1 / 1000 + 1 / 500) = 0.027; the mean of 200 features has a standard error of 0.027 * sqrt(2 / 9 / 200).
    assert report.features[0].psi_noise == pytest.approx(0.027)
    assert np.mean([feature.psi for feature in report.features]) == pytest.approx(0.027, abs=0.004)


@pytest.mark.parametrize(("shift", "status"), [(0.0, "same"), (0.45, "watch"), (1.0, "drifted")])
def test_a_shift_of_a_normal_distribution(shift, status):
    # PSI of two normal distributions of deviation 1 is shift ** 2, over infinitely many bins: 0.2 and 1.
    generator = np.random.default_rng(2)
    profile = kopt.measure.drift_profile(generator.normal(size=5000))
    (feature,) = kopt.measure.drift(profile, generator.normal(shift, size=5000)).features
    assert feature.status == status
    assert feature.psi == pytest.approx(shift**2, abs=0.04 + 0.1 * shift)
    # The distribution functions are farthest apart in the middle: 2 * Phi(shift / 2) - 1.
    assert feature.ks == pytest.approx(2 * stats.norm.cdf(shift / 2) - 1, abs=0.03)


def test_nan_that_was_not_there_before_is_drift_even_where_the_rest_is_the_same():
    values = np.linspace(0, 1, 1000)
    profile = kopt.measure.drift_profile(values)
    later = values.copy()
    later[::50] = np.nan
    (feature,) = kopt.measure.drift(profile, later).features
    assert (feature.status, feature.nonfinite_share, feature.nonfinite_share_before) == ("drifted", 0.02, 0.0)
    later = values.copy()
    later[0] = np.inf  # one of a thousand may be chance: p = 0.5
    assert kopt.measure.drift(profile, later).features[0].status == "same"


def test_images_are_looked_at_by_channel():
    generator = np.random.default_rng(3)
    images = generator.random((500, 4, 4, 2))
    profile = kopt.measure.drift_profile({"image": images})
    darker = images * [1.0, 0.5]
    drifted = kopt.measure.drift(profile, {"image": darker}).drifted
    assert [one.name for one in drifted] == ["mean of image[..., 1]", "deviation of image[..., 1]"]


def test_constants_and_few_values_have_bins_of_their_own():
    profile = kopt.measure.drift_profile(np.repeat([0.0, 1.0], 50))
    assert profile.features[0].counts == (0, 50, 0, 50, 0)  # below, 0, between, 1, above
    assert kopt.measure.drift(profile, np.repeat([0.0, 1.0], 50)).features[0].psi == 0.0
    assert kopt.measure.drift(profile, np.ones(100)).features[0].status == "drifted"


def test_records_travel():
    profile = kopt.measure.drift_profile(np.arange(20.0))
    assert DriftProfile.from_json(profile.to_json()) == profile
    report = kopt.measure.drift(profile, np.arange(20.0))
    assert DriftReport.from_json(report.to_json()) == report


def test_a_feature_of_nothing_finite_has_drifted_and_hides_no_other():
    rng = np.random.default_rng(0)
    profile = kopt.measure.drift_profile(rng.normal(size=(500, 3)))
    now = rng.normal((0.0, 0.0, 3.0), size=(300, 3))
    now[:, 1] = np.nan
    report = kopt.measure.drift(profile, now)
    assert [one.status for one in report.features] == ["same", "drifted", "drifted"]
    gone = report.features[1]
    assert (gone.nonfinite_share, gone.psi) == (1.0, 0.0)
    assert gone.p_value < 1e-9
    assert DriftReport.from_json(report.to_json()) == report


def test_what_cannot_be_compared_is_said():
    profile = kopt.measure.drift_profile(np.arange(20.0))
    with pytest.raises(DataError, match=r"has the features input. Received: input\[0\], input\[1\]"):
        kopt.measure.drift(profile, np.zeros((20, 2)))
    with pytest.raises(DataError, match="has 3 finite values; 10 bins"):
        kopt.measure.drift_profile(np.arange(3.0))
    with pytest.raises(DataError, match="must hold numbers"):
        kopt.measure.drift_profile(np.array(["a"] * 20))
    with pytest.raises(ConfigError, match="level"):
        kopt.measure.drift(profile, np.arange(20.0), level=0.0)
    with pytest.raises(ConfigError, match="bins"):
        kopt.measure.drift_profile(np.arange(20.0), bins=1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.repeat([0.0, 1.0], [1900, 100]), np.repeat([0.0, 1.0], [800, 1200])),  # a rare 1 becomes a common one
        (np.zeros(1000), np.ones(1000)),
        (np.ones(1000), np.zeros(1000)),
        (np.r_[np.zeros(950), np.linspace(1, 2, 50)], np.r_[np.zeros(400), np.linspace(1, 2, 600)]),
    ],
)
def test_a_feature_that_is_nearly_always_the_same_drifts_too(before, after):
    profile = kopt.measure.drift_profile(before)
    assert [one.status for one in kopt.measure.drift(profile, after).features] == ["drifted"]
    assert [one.status for one in kopt.measure.drift(profile, before).features] == ["same"]


def test_halves_of_a_brain_float_are_numbers():
    import ml_dtypes

    values = np.linspace(0, 1, 64).reshape(32, 2).astype(ml_dtypes.bfloat16)
    assert kopt.measure.drift(kopt.measure.drift_profile(values), values).drifted == ()
