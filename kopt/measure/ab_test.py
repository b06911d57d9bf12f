"""Is one model better than another: on the same examples, with an interval and the number of examples it takes."""

import dataclasses
import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kopt.core.ab_records import ABTest
from kopt.core.errors import ConfigError, DataError, nearest
from kopt.core.settings import number, whole
from kopt.measure import paired
from kopt.measure.accuracy import correct_share, labelled_batches, predicted_labels
from kopt.measure.loading import load
from kopt.measure.runner import Runner
from kopt.measure.timing import paired_rounds
from kopt.report.ab import AB_TEST
from kopt.report.look import Shown

_LEAST = 2
Score = Callable[[np.ndarray, np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class ABResult(Shown, ABTest):
    """What `ab_test` found; `str()` is the conclusion."""

    look = AB_TEST


def ab_test(
    a: Any,
    b: Any,
    data: Any = None,
    *,
    metric: str | Score = "accuracy",
    larger_is_better: bool | None = None,
    margin: float = 0.0,
    level: float = 0.95,
    power: float = 0.8,
    output: str | None = None,
    batch_size: int | None = None,
    seconds: float = 4.0,
    resamples: int = 10_000,
    seed: int = 0,
) -> ABResult:
    """Compare two models or files on the same examples.

    Use it before replacing one model by another: two accuracies on the same thousand examples can differ by a point for
    no reason. Because both answer the same examples, only those on which they differ count, which shows far smaller
    differences than two separate intervals would.

    Args:
        a: the reference: runner, Keras model or path, as `kopt.measure.load` takes it.
        b: what is compared with it.
        data: `(x, y)` arrays or a finite, batched `tf.data.Dataset` of such. For `"latency"` the inputs alone; made up
            from the signature if `None`.
        metric: `"accuracy"`; the name of a loss in `keras.losses`, e.g. `"mse"`, of which less is better; `"latency"`,
            in rounds that take turns; or a function of labels and predictions that returns one number an example.
        larger_is_better: direction of a function; `True` if `None`.
        margin: a loss that does not matter, in the unit of the metric (0.005 is half a point of accuracy; of
            `"latency"` a share of the time). With it `b` can be found to be not worse, or equivalent.
        level: of the interval.
        power: probability with which a difference of this size is to be seen, for the number of pairs needed.
        output: the output to judge, of models with several.
        batch_size: examples a call; for `"latency"` 1 if `None`.
        seconds: of timing, for `"latency"`.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The record, with `.table()` and `.plot(path)`. Accuracy: McNemar's test and the bootstrap interval of the
        difference. Other scores: bootstrap interval and paired t test. Latency: median of the ratios of the rounds.
        Fewer than 20 pairs: t interval and all sign changes, because a bootstrap of so few is too narrow.

    Raises:
        DataError: the examples or labels do not fit, or are fewer than two.
        ConfigError: an unknown metric or impossible setting, or several outputs without `output`.
        MeasurementError: one of the two answers NaN.

    Example:
        ```python
        print(kopt.measure.ab_test("float.tflite", "int8.tflite", (x_test, y_test), margin=0.005))
        ```

    Source: see `kopt.measure.paired`.
    """
    settings = _Settings(margin, level, power, resamples, seed)
    first, second = load(a), load(b)
    names = _names(first, second)
    if metric == "latency":
        return _latency(first, second, names, data, batch_size or 1, seconds, settings)
    if data is None:
        raise ConfigError(f"`data` is needed for the metric {metric!r}: pass (x, y).")
    score, name, direction = _score(metric, larger_is_better)
    scores_a, scores_b = (
        np.concatenate([np.asarray(score(y, p), np.float64) for y, p in _answers(runner, data, output, batch_size)])
        for runner in (first, second)
    )
    return _compared(scores_a, scores_b, names, name, direction, settings)


def ab_scores(
    a: Any,
    b: Any,
    *,
    names: tuple[str, str] = ("a", "b"),
    metric: str = "score",
    larger_is_better: bool = True,
    margin: float = 0.0,
    level: float = 0.95,
    power: float = 0.8,
    resamples: int = 10_000,
    seed: int = 0,
) -> ABResult:
    """Compare two settings by numbers that belong together in pairs, e.g. the losses of trainings with equal seeds.

    Args:
        a: one number a pair, of the reference.
        b: the numbers of what is compared with it, in the same order.
        names: of the two, for the words.
        metric: name of the number.
        larger_is_better: its direction.
        margin: see `ab_test`, as for the arguments below.
        level: of the interval.
        power: for the number of pairs needed.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        DataError: different lengths, fewer than two pairs, NaN or infinity.
        ConfigError: an impossible setting.

    Example:
        >>> losses = {"single rate": [0.31, 0.35, 0.33], "multipliers": [0.28, 0.33, 0.29]}
        >>> print(kopt.measure.ab_scores(*losses.values(), names=tuple(losses), metric="loss", larger_is_better=False))
    """
    settings = _Settings(margin, level, power, resamples, seed)
    return _compared(np.asarray(a, np.float64), np.asarray(b, np.float64), names, metric, larger_is_better, settings)


@dataclasses.dataclass(frozen=True)
class _Settings:
    margin: float
    level: float
    power: float
    resamples: int
    seed: int

    def __post_init__(self) -> None:
        number("margin", self.margin, least=0.0)
        for name, value in (("level", self.level), ("power", self.power)):
            if not 0.5 <= number(name, value, least=0.0, most=1.0) < 1.0:
                raise ConfigError(f"`{name}` is a probability from 0.5, below 1. Received: {value!r}.")
        whole("resamples", self.resamples, least=1000)
        whole("seed", self.seed, least=0)


def _compared(
    a: np.ndarray, b: np.ndarray, names: tuple[str, str], metric: str, larger_is_better: bool, settings: _Settings
) -> ABResult:
    _check_scores(a, b, names)
    differences = b - a
    answers = all(np.isin(scores, (0.0, 1.0)).all() for scores in (a, b))
    only_a, only_b = (int((a > b).sum()), int((b > a).sum())) if answers else (None, None)
    interval, p_value, method = _inference(differences, only_a, only_b, settings)
    return ABResult(
        a=names[0],
        b=names[1],
        metric=metric,
        value_a=float(a.mean()),
        value_b=float(b.mean()),
        difference=float(differences.mean()),
        low=interval.low,
        high=interval.high,
        level=settings.level,
        p_value=p_value,
        method=method,
        pairs=len(a),
        larger_is_better=larger_is_better,
        margin=settings.margin,
        verdict=verdict(interval, settings.margin, larger_is_better),
        only_a=only_a,
        only_b=only_b,
        pairs_needed=paired.pairs_needed(differences, settings.level, settings.power),
        detectable=paired.detectable(paired.standard_error(differences), settings.level, settings.power),
        power=settings.power,
        notes=_notes(differences, only_a, only_b),
    )


def verdict(interval: paired.Interval, margin: float, larger_is_better: bool) -> str:
    """Return what an interval of `b - a` says of `b`; see `ABTest.verdict`."""
    low, high = interval if larger_is_better else (-interval.high, -interval.low)
    if low > 0:
        return "better"
    if margin > 0 and low > -margin:
        return "equivalent" if high < margin else "not worse"
    return "worse" if high < 0 else "undecided"


def _inference(
    differences: np.ndarray, only_a: int | None, only_b: int | None, settings: _Settings
) -> tuple[paired.Interval, float, str]:
    if not np.ptp(differences):
        same = float(differences[0])
        p_value = 1.0 if same == 0 else paired.sign_test_p(differences)
        return paired.Interval(same, same), p_value, "All differences are equal: there is no spread to work with"
    if len(differences) < paired.FEW:
        p_value = paired.sign_flip_p(differences)
        return paired.t_interval(differences, settings.level), p_value, "Interval by Student's t; exact sign-flip test"
    interval = paired.bca_interval(differences, settings.level, settings.resamples, settings.seed)
    if only_a is not None and only_b is not None:
        p_value, test = paired.mcnemar_p(only_a, only_b), "McNemar's test (mid-p)"
    else:
        p_value, test = paired.t_test_p(differences), "paired t test"
    return interval, p_value, f"Paired bootstrap interval (BCa, {settings.resamples:,} resamples); {test}"


def _latency(
    a: Runner, b: Runner, names: tuple[str, str], data: Any, batch_size: int, seconds: float, settings: _Settings
) -> ABResult:
    number("seconds", seconds, least=0.0, open_below=True)
    times = paired_rounds(a, b, data, batch_size=batch_size, seconds=seconds)
    ratios = times[:, 1] / times[:, 0] - 1
    interval, difference = paired.median_interval(ratios, settings.level), float(np.median(ratios))
    seen = paired.detectable(paired.error_of(interval, settings.level), settings.level, settings.power)
    return ABResult(
        a=names[0],
        b=names[1],
        metric="latency",
        value_a=float(np.median(times[:, 0])),
        value_b=float(np.median(times[:, 1])),
        difference=difference,
        low=interval.low,
        high=interval.high,
        level=settings.level,
        p_value=paired.sign_test_p(ratios),
        method=f"Median over rounds of b / a - 1, batch {batch_size}, in turns; order statistics; sign test",
        pairs=len(ratios),
        larger_is_better=False,
        margin=settings.margin,
        verdict=verdict(interval, settings.margin, larger_is_better=False),
        only_a=None,
        only_b=None,
        pairs_needed=math.ceil(len(ratios) * (seen / difference) ** 2) if difference else None,
        detectable=seen,
        power=settings.power,
    )


def _score(metric: str | Score, larger_is_better: bool | None) -> tuple[Score, str, bool]:
    """Return the function of labels and predictions, its name and whether more is better."""
    if callable(metric):
        return metric, getattr(metric, "__name__", "score"), larger_is_better is not False
    if larger_is_better is not None:
        raise ConfigError(f"The direction of {metric!r} is known; `larger_is_better` is for functions. Leave it out.")
    if metric == "accuracy":
        return correct_share, "accuracy", True
    losses = importlib.import_module("keras").losses  # here, because timing a `.tflite` file needs no Keras
    try:
        function = losses.get(metric)
    except (ValueError, TypeError) as error:
        known = [name for name in dir(losses) if name.islower() and callable(getattr(losses, name))]
        raise ConfigError(
            f"Unknown metric {metric!r}.{nearest(str(metric), ['accuracy', 'latency', *known])} Accepted: 'accuracy', "
            f"'latency', a function of `keras.losses` such as 'mse', or a function of labels and predictions."
        ) from error

    def loss(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        values = np.asarray(function(labels, predicted), np.float64)
        return values.reshape(len(labels), -1).mean(axis=1)

    return loss, metric, False


def _answers(runner: Runner, data: Any, output: str | None, batch_size: int | None) -> Any:
    """Yield labels and predictions of one output, batch by batch."""
    for x, y, weight in labelled_batches(data):
        if weight is not None:
            raise ConfigError("`sample_weight` has no place in a paired comparison. Pass (x, y).")
        yield predicted_labels(runner, y, runner.predict(x, batch_size=batch_size), output)


def _check_scores(a: np.ndarray, b: np.ndarray, names: tuple[str, str]) -> None:
    for name, scores in zip(names, (a, b), strict=True):
        if scores.ndim != 1:
            raise DataError(f"{name!r} needs one number a pair. Received an array of shape {scores.shape}.")
        if not np.isfinite(scores).all():
            bad = int((~np.isfinite(scores)).sum())
            raise DataError(f"{name!r} has {bad} score(s) that are NaN or infinite. Leave those pairs out of both.")
    if len(a) != len(b) or len(a) < _LEAST:
        raise DataError(
            f"Pairs need as many numbers on both sides, at least {_LEAST}. Received: {len(a)} and {len(b)}."
        )


def _notes(differences: np.ndarray, only_a: int | None, only_b: int | None) -> tuple[str, ...]:
    if only_a is not None and only_b is not None and 0 < only_a + only_b < 10:
        return (f"Only {only_a + only_b} examples tell the two apart: take the interval as rough.",)
    return ("The two agree on every pair.",) if not differences.any() else ()


def _names(a: Runner, b: Runner) -> tuple[str, str]:
    return (a.name, b.name) if a.name != b.name else (f"{a.name} (a)", f"{b.name} (b)")
