"""Is a file inside the budget: what it lost, how sure that is, and what became of each class."""

from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are first used

from kopt import measure
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.judgement import ClassChange, Ends, Judgement
from kopt.measure.paired import fractions_interval, jackknife_interval, t_interval
from kopt.report.parts.statistics import wilson_interval
from kopt.search.judging.outcomes import Outcomes

# A drop that equals the budget is inside it; Keras computes its metrics in float32.
TOLERANCE = 1e-6


class _Drop(NamedTuple):
    """The interval of what was lost."""

    interval: Ends | None
    method: str
    examples_needed: int | None


def judge(before: Outcomes, after: Outcomes, budget: Budget, classes: np.ndarray | None = None) -> Judgement:
    """Judge a file against the model as given, example by example.

    Because both answer the same examples, only those on which they differ count: see `kopt.measure.ab_test`. A metric
    that is no mean over examples gets a jackknife of the difference, over the same groups for both.

    Args:
        before: what the model as given scored.
        after: what the file scored, on the same examples.
        budget: what may be lost.
        classes: of every example, where there are any.
    """
    drop = _drop_interval(before, after, budget)
    changes = () if classes is None else class_changes(before, after, classes, budget.level)
    estimate = before.value - after.value
    verdict = position(drop.interval, budget.max_drop)
    return Judgement(
        metric=budget.metric,
        examples=after.examples,
        before=before.value,
        after=after.value,
        before_interval=own_interval(before, budget.level),
        after_interval=own_interval(after, budget.level),
        low=drop.interval[0] if drop.interval else None,
        high=drop.interval[1] if drop.interval else None,
        level=budget.level,
        method=drop.method,
        verdict=verdict,
        examples_needed=drop.examples_needed if verdict == "undecided" and estimate < budget.max_drop else None,
        classes=changes,
        worst_class=_worst(changes, budget.max_class_drop),
    )


def position(interval: Ends | None, allowed: float) -> str:
    """Return on which side of what may be lost an interval lies: `"inside"`, `"outside"` or `"undecided"`."""
    if interval is None:
        return "undecided"
    if interval[1] <= allowed + TOLERANCE:
        return "inside"
    return "outside" if interval[0] > allowed + TOLERANCE else "undecided"


def counted_drop(judgement: Judgement, budget: Budget) -> float:
    """Return the drop as the budget counts it: at most `max_drop` exactly where no drop is too large.

    Where `Budget.undecided` is `"outside"`, it is the upper end of the interval. What a class loses beyond
    `max_class_drop` counts as if it were lost beyond `max_drop`.
    """
    sure = budget.undecided == "outside"
    drop = judgement.before - judgement.after
    counted = [drop if judgement.high is None or not sure else max(drop, judgement.high)]
    if budget.max_class_drop is not None:
        lost = [one.high if sure else one.drop for one in judgement.classes]
        counted += [budget.max_drop + one - budget.max_class_drop for one in lost]
    return max(counted)


def own_interval(outcomes: Outcomes, level: float) -> Ends | None:
    """Return the interval of one file's metric; `None` of fewer than two examples."""
    if outcomes.examples < 2:
        return None
    if outcomes.scores is None:
        left_out = outcomes.left_out
        return None if left_out is None else jackknife_interval(outcomes.value, left_out, level)
    if outcomes.is_right_or_wrong:
        share = float(outcomes.scores.mean())
        return wilson_interval(share, outcomes.examples, z=float(scipy.special.ndtri((1 + level) / 2)))
    return t_interval(outcomes.scores, level)


def class_changes(before: Outcomes, after: Outcomes, classes: np.ndarray, level: float) -> tuple[ClassChange, ...]:
    """Return what became of every class, in their order; empty where examples are not simply right or wrong."""
    if before.scores is None or after.scores is None:
        return ()
    if not (before.is_right_or_wrong and after.is_right_or_wrong):
        return ()
    return tuple(
        _class_change(str(label), before.scores[classes == label], after.scores[classes == label], level)
        for label in np.unique(classes)
    )


def _class_change(label: str, before: np.ndarray, after: np.ndarray, level: float) -> ClassChange:
    lost, won = int(((before > 0) & (after == 0)).sum()), int(((before == 0) & (after > 0)).sum())
    low, high = fractions_interval(won, lost, len(before), level)
    return ClassChange(label, len(before), float(before.mean()), float(after.mean()), low, high)


def _drop_interval(before: Outcomes, after: Outcomes, budget: Budget) -> _Drop:
    if before.scores is not None and after.scores is not None:
        return _of_scores(before.scores, after.scores, budget)
    if before.left_out is None or after.left_out is None:
        return _Drop(None, "there are too few examples for an interval", None)
    value, left_out = before.value - after.value, before.left_out - after.left_out
    method = f"jackknife of the difference over {len(left_out)} groups of examples"
    return _Drop(jackknife_interval(value, left_out, budget.level), method, None)


def _of_scores(before: np.ndarray, after: np.ndarray, budget: Budget) -> _Drop:
    if len(before) < 2:
        return _Drop(None, "there are too few examples for an interval", None)
    found = measure.ab_scores(
        before, after, metric=budget.metric, margin=budget.max_drop, level=budget.level, names=("before", "after")
    )
    return _Drop((-found.high, -found.low), found.method, found.pairs_needed if budget.max_drop else None)


def _worst(changes: tuple[ClassChange, ...], floor: float | None) -> str:
    """Return the worst verdict on any class against what a class may lose."""
    if floor is None or not changes:
        return ""
    found = {position((change.low, change.high), floor) for change in changes}
    return next(verdict for verdict in ("outside", "undecided", "inside") if verdict in found)
