"""Whether inputs or predictions are still distributed as they were when the model was judged."""

import math

import numpy as np
import scipy  # loads its parts when they are first used

from kopt.core.blocks import is_number
from kopt.core.errors import ConfigError, DataError
from kopt.core.records.shipping.drift import DriftProfile, DriftReport, FeatureDrift, FeatureProfile
from kopt.core.settings import whole
from kopt.measure.feeding import Arrays

_QUANTILES = 1001
# Siddiqi, Credit Risk Scorecards (2006): below 0.1 nothing happened, above 0.25 the population is another one.
_WATCH_PSI, _DRIFTED_PSI = 0.1, 0.25


def drift_profile(data: Arrays, *, bins: int = 10) -> DriftProfile:
    """Describe the distribution of inputs or predictions, for `drift` to hold later ones against.

    Columns of `(examples, features)` are features. Of arrays with more axes, the mean and the standard deviation of
    each example by channel (last axis) are.

    Args:
        data: one array, a sequence, or arrays by name; examples first.
        bins: of equal counts; fewer where values repeat.

    Raises:
        ConfigError: `bins` is less than 2.
        DataError: a feature has fewer than `bins` finite values, or the arrays are no numbers.

    Example:
        >>> profile = kopt.measure.drift_profile({"age": np.arange(100.0)[:, None]}, bins=4)
        >>> profile.features[0].name, profile.features[0].counts
        ('age[0]', (24, 25, 25, 26))
    """
    whole("bins", bins, least=2)
    return DriftProfile(tuple(_profile(name, values, bins) for name, values in drift_features(data).items()))


def drift(profile: DriftProfile, data: Arrays, *, level: float = 0.01) -> DriftReport:
    """Hold later inputs or predictions against a profile, feature by feature.

    A feature has drifted if its PSI is above 0.25 and the Kolmogorov-Smirnov test, at `level` shared among the
    features, says that this is no chance; from 0.1 on it is to be watched. Both count from the PSI that so few values
    come to without any change, `(bins - 1) * (1 / n + 1 / m)`. More NaN than before, by more than chance, is drift as
    well.

    Args:
        profile: from `drift_profile`.
        data: as it was given there.
        level: chance of a false alarm over all features together.

    Raises:
        ConfigError: `level` is not in (0, 1).
        DataError: the features are not those of the profile.

    Example:
        >>> profile = kopt.measure.drift_profile(x_val)
        >>> report = kopt.measure.drift(profile, 1 - x_train)  # white on black has become black on white
        >>> [feature.name for feature in report.drifted]
        ['mean of input[..., 0]']
        >>> kopt.measure.drift(profile, x_train).drifted
        ()
    """
    if not 0.0 < level < 1.0:
        raise ConfigError(f"`level` is a probability in (0, 1). Received: {level!r}.")
    found = drift_features(data)
    expected = [feature.name for feature in profile.features]
    if sorted(found) != sorted(expected):
        raise DataError(f"The profile has the features {', '.join(expected)}. Received: {', '.join(found)}.")
    share = level / len(expected)
    features = tuple(_drift(before, found[before.name], share) for before in profile.features)
    return DriftReport(len(next(iter(found.values()))), level, features)


def drift_features(data: Arrays) -> dict[str, np.ndarray]:
    """Return the features of inputs or predictions by name, one number an example; what it returns it takes as well.

    Raises:
        DataError: the arrays are no numbers.
    """
    if isinstance(data, dict):
        named = {str(name): np.asarray(array) for name, array in data.items()}
    elif isinstance(data, (list, tuple)):
        named = {f"input_{place}": np.asarray(array) for place, array in enumerate(data)}
    else:
        named = {"input": np.asarray(data)}
    found: dict[str, np.ndarray] = {}
    for name, array in named.items():
        if not is_number(array.dtype) or array.ndim == 0 or not array.size:
            raise DataError(f"{name!r} must hold numbers, examples first. Received: {array.dtype} of {array.shape}.")
        found |= _columns(name, array.astype(np.float64))
    return found


def psi(before: np.ndarray, after: np.ndarray) -> float:
    """Return the population stability index of two histograms over the same bins: `sum((q - p) * log(q / p))`.

    Half a value is added to every bin, so that empty ones count as rare and not as impossible.

    Args:
        before: counts by bin.
        after: likewise.
    """
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (np.asarray(before), np.asarray(after)))
    return float(np.sum((q - p) * np.log(q / p)))


def ks(before: np.ndarray, after: np.ndarray) -> float:
    """Return the largest distance of the distribution functions of two samples, which are sorted."""
    places = np.concatenate([before, after])
    below = [np.searchsorted(one, places, side="right") / len(one) for one in (before, after)]
    return float(np.max(np.abs(below[0] - below[1])))


def _columns(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    if array.ndim == 1:
        return {name: array}
    if array.ndim == 2:
        return {f"{name}[{column}]": array[:, column] for column in range(array.shape[1])}
    axes = tuple(range(1, array.ndim - 1))
    with np.errstate(invalid="ignore"):
        means, deviations = array.mean(axis=axes), array.std(axis=axes)
    return {
        f"{word} of {name}[..., {channel}]": values[:, channel]
        for word, values in (("mean", means), ("deviation", deviations))
        for channel in range(array.shape[-1])
    }


def _profile(name: str, values: np.ndarray, bins: int) -> FeatureProfile:
    finite = np.sort(values[np.isfinite(values)])
    if len(finite) < bins:
        raise DataError(f"Feature {name!r} has {len(finite)} finite values; {bins} bins need at least as many.")
    edges = _edges(finite, bins)
    steps = np.linspace(0, len(finite) - 1, min(_QUANTILES, len(finite))).round().astype(int)
    return FeatureProfile(
        name=name,
        count=len(finite),
        nonfinite=len(values) - len(finite),
        edges=tuple(map(float, edges)),
        counts=tuple(map(int, _histogram(finite, edges))),
        quantiles=tuple(map(float, finite[steps])),
    )


def _edges(values: np.ndarray, bins: int) -> np.ndarray:
    """Return where bins begin, but the first: at quantiles, and right behind a value that is one more than once.

    Such a value, or the smallest, has a bin of its own: what is larger would else fall into the same.
    """
    quantiles = np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf")
    found, times = np.unique(quantiles, return_counts=True)
    heavy = found[(times > 1) | (found == values[0])]
    return np.unique([*found, *np.nextafter(heavy, np.inf)])


def _histogram(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)


def _drift(before: FeatureProfile, values: np.ndarray, level: float) -> FeatureDrift:
    finite = np.sort(values[np.isfinite(values)])
    if not len(finite):  # how it is spread says nothing; that it is gone says all
        was = before.nonfinite / (before.nonfinite + before.count)
        chance = _chance(len(values), values, before)
        return FeatureDrift(before.name, 0.0, 0.0, 0.0, chance, 1.0, was, "drifted" if chance < level else "same")
    index = psi(np.array(before.counts), _histogram(finite, np.array(before.edges)))
    noise = (len(before.counts) - 1) * (1 / before.count + 1 / len(finite))
    distance = ks(np.array(before.quantiles), finite)
    size = before.count * len(finite) / (before.count + len(finite))
    p_value = float(scipy.stats.kstwobign.sf(math.sqrt(size) * distance))
    bad, bad_before = len(values) - len(finite), before.nonfinite
    more_bad = bad / len(values) > bad_before / (bad_before + before.count) and _chance(bad, values, before) < level
    status = "same"
    if more_bad or (index > _DRIFTED_PSI + noise and p_value < level):
        status = "drifted"
    elif index > _WATCH_PSI + noise and p_value < level:
        status = "watch"
    return FeatureDrift(
        before.name,
        index,
        noise,
        distance,
        p_value,
        bad / len(values),
        bad_before / (bad_before + before.count),
        status,
    )


def _chance(bad: int, values: np.ndarray, before: FeatureProfile) -> float:
    """Return Fisher's exact p-value of so many values that are not finite, or more."""
    table = [[bad, len(values) - bad], [before.nonfinite, before.count]]
    return float(scipy.stats.fisher_exact(table, alternative="greater").pvalue)
