"""Is one model better than another: on the same examples, with an interval and the number of examples it takes."""

import dataclasses
from typing import Any

import numpy as np

from kopt.core.errors import ConfigError, DataError
from kopt.core.records.search.ab_test import ABTest
from kopt.core.settings import number
from kopt.measure import paired_power
from kopt.measure.ab_inference import Finding, Settings, doubts, of_answers, of_rounds, of_scores, verdict
from kopt.measure.example_scores import Score, inputs_of, metric_of, paired_scores
from kopt.measure.loading import load
from kopt.measure.runner import Runner
from kopt.measure.timing import paired_rounds
from kopt.report.look import Shown
from kopt.report.shipping.ab import AB_TEST

_LEAST = 2


@dataclasses.dataclass(frozen=True)
class ABResult(Shown, ABTest):
    """What `ab_test` found; `str()` is the conclusion.

    Example:
        >>> found = kopt.measure.ab_test(model, "model.tflite", (x_val, y_val))
        >>> found.pairs, found.difference, found.only_a, found.only_b  # the same answer to every example
        (269, 0.0, 0, 0)
    """

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
    threads: int | None = None,
    seconds: float = 4.0,
    resamples: int = 10_000,
    seed: int = 0,
) -> ABResult:
    """Compare two models or files on the same examples.

    Use it before replacing one model by another: two accuracies on the same thousand examples can differ by a point for
    no reason. Because both answer the same examples, only those on which they differ count, which shows far smaller
    differences than two separate intervals would.

    A difference is claimed only if the interval leaves out zero and the test agrees, and nothing at all is claimed from
    fewer pairs than could show it (6 at 95 %).

    Args:
        a: the reference: runner, Keras model or path, as `kopt.measure.load` takes it.
        b: what is compared with it.
        data: `(x, y)` arrays or a finite, batched `tf.data.Dataset` of such, which is gone through once. For
            `"latency"` the inputs will do; made up from the signature if `None`.
        metric: `"accuracy"`; `"binary_accuracy"`, of several 0/1 labels an example; `"loss"`, the one the Keras models
            were compiled with; the name of a loss in `keras.losses`, e.g. `"mse"`, or a `keras.losses.Loss`, of which
            less is better; `"latency"`, in rounds that take turns; or a function of labels and predictions that returns
            one number an example.
        larger_is_better: direction of a function; `True` if `None`.
        margin: a loss that does not matter, in the unit of the metric (0.005 is half a point of accuracy; of
            `"latency"` a share of the time). With it `b` can be found to be not worse, or equivalent.
        level: of the two-sided interval.
        power: probability with which the question is to be answered, for the number of pairs needed.
        output: the output to judge, of models with several.
        batch_size: examples a call; for `"latency"` 1 if `None`, or what the file fixes.
        threads: see `kopt.measure.load`.
        seconds: of timing, for `"latency"`.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The record, with `.table()` and `.plot(path)`. Accuracy: McNemar's test and the bootstrap interval of the
        difference, or, where fewer than 20 examples tell the two apart, the one of Bonett and Price. Other scores:
        bootstrap interval and paired t test; of fewer than 20 pairs, for which a bootstrap is too narrow, t interval
        and all sign changes. Latency: median of the ratios of the rounds, between order statistics and
        widened by 2 % at both ends, by which two loads of one file differ, and sign test.

    Raises:
        DataError: the examples or labels do not fit, are fewer than two, or the outputs cannot be compared.
        ConfigError: an unknown metric or impossible setting, or several outputs without `output`.
        MeasurementError: one of the two answers NaN.

    Example:
        >>> made = kopt.export.tflite(model, "int8.tflite", scheme="int8", calibration=x_train)
        >>> found = kopt.measure.ab_test("model.tflite", "int8.tflite", (x_val, y_val), margin=0.05)
        >>> found.verdict
        'equivalent'
        >>> print(found)
        int8.tflite and model.tflite differ by less than the margin of 5.00 points: ...

    Source: see `kopt.measure.paired` and `kopt.measure.paired_power`.
    """
    settings = Settings(margin, level, power, resamples, seed)
    first, second = load(a, threads=threads), load(b, threads=threads)
    names = _names(first, second)
    if isinstance(metric, str) and metric == "latency":
        return _latency(first, second, names, data, batch_size, seconds, settings)
    if data is None:
        raise ConfigError(f"`data` is needed for the metric {metric!r}: pass (x, y).")
    chosen = metric_of(metric, larger_is_better, (a, b), output)
    scores = paired_scores(first, second, data, chosen, output=output, batch_size=batch_size)
    return _compared(scores[0], scores[1], names, chosen.name, chosen.larger_is_better, "examples", settings)


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

    Scores that are all 0 or 1 are taken as right and wrong answers.

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
        >>> single = [0.31, 0.35, 0.33, 0.36, 0.30, 0.34, 0.32, 0.35]  # losses of eight trainings
        >>> multipliers = [0.28, 0.33, 0.29, 0.34, 0.28, 0.33, 0.29, 0.31]  # with the same eight seeds
        >>> found = kopt.measure.ab_scores(single, multipliers, metric="loss", larger_is_better=False)
        >>> found.verdict, found.pairs, round(found.difference, 4)
        ('better', 8, -0.0262)
    """
    settings = Settings(margin, level, power, resamples, seed)
    if isinstance(names, str) or len(names) != 2:
        raise ConfigError(f"`names` must be two, of `a` and of `b`. Received: {names!r}.")
    return _compared(_numbers(a, names[0]), _numbers(b, names[1]), names, metric, larger_is_better, "pairs", settings)


def _compared(
    a: np.ndarray,
    b: np.ndarray,
    names: tuple[str, str],
    metric: str,
    larger_is_better: bool,
    unit: str,
    settings: Settings,
) -> ABResult:
    _check_scores(a, b, names)
    if all(np.isin(scores, (0.0, 1.0)).all() for scores in (a, b)):
        found = of_answers(b - a, larger_is_better, settings)
    else:
        found = of_scores(b - a, larger_is_better, settings)
    same = ("The two agree on every pair.",) if np.array_equal(a, b) else ()
    means = float(a.mean()), float(b.mean())
    return _result(found, names, means, len(a), unit, metric, larger_is_better, settings, same)


def _latency(
    a: Runner,
    b: Runner,
    names: tuple[str, str],
    data: Any,
    batch_size: int | None,
    seconds: float,
    settings: Settings,
) -> ABResult:
    number("seconds", seconds, least=0.0, open_below=True)
    size = batch_size or a.fixed_batch or b.fixed_batch or 1
    times = paired_rounds(a, b, inputs_of(data, a), batch_size=size, seconds=seconds)
    found = of_rounds(times, size, settings)
    medians = float(np.median(times[:, 0])), float(np.median(times[:, 1]))
    return _result(found, names, medians, len(times), "rounds", "latency", False, settings, ())


def _result(
    found: Finding,
    names: tuple[str, str],
    values: tuple[float, float],
    pairs: int,
    unit: str,
    metric: str,
    larger_is_better: bool,
    settings: Settings,
    notes: tuple[str, ...],
) -> ABResult:
    enough = pairs >= paired_power.least_pairs(settings.level)
    differs = found.p_value < 1 - settings.level
    return ABResult(
        a=names[0],
        b=names[1],
        metric=metric,
        value_a=values[0],
        value_b=values[1],
        difference=found.difference,
        low=float(found.interval.low),
        high=float(found.interval.high),
        level=settings.level,
        p_value=found.p_value,
        method=found.method,
        pairs=pairs,
        larger_is_better=larger_is_better,
        margin=settings.margin,
        verdict=verdict(found.interval, settings.margin, larger_is_better, differs=differs) if enough else "undecided",
        only_a=found.only_a,
        only_b=found.only_b,
        pairs_needed=found.pairs_needed,
        detectable=found.detectable,
        power=settings.power,
        unit=unit,
        notes=(*notes, *doubts(found, pairs, unit, enough, differs, settings.level)),
    )


def _numbers(values: Any, name: str) -> np.ndarray:
    found = np.asarray(values)
    if found.dtype.kind not in "biuf":
        raise DataError(f"{name!r} needs numbers. Received: {found.dtype} of shape {found.shape}.")
    return found.astype(np.float64)


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


def _names(a: Runner, b: Runner) -> tuple[str, str]:
    return (a.name, b.name) if a.name != b.name else (f"{a.name} (a)", f"{b.name} (b)")
