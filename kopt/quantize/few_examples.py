"""The warning of a calibration with few examples."""

import warnings

import numpy as np

from kopt.export.integers import ENOUGH, beyond


def widened(first: np.ndarray, whole: np.ndarray) -> float:
    """Return by what share ranges are wider than those of the first half of the examples: the median of all.

    Of one example, which has no half, it is 0 and says nothing. So many examples more would still add about the same.

    Args:
        first: width of each range after the first half.
        whole: after all examples.
    """
    known = first > 0
    return float(np.median(whole[known] / first[known] - 1.0)) if known.any() else 0.0


def warn_of_few(examples: int, growth: float) -> tuple[str, ...]:
    """Warn of too few examples, and return what is said; nothing where there are enough.

    Args:
        examples: how many there are.
        growth: see `widened`.
    """
    if examples >= ENOUGH:
        return ()
    note = (
        f"`calibration` has {examples} example(s); from {ENOUGH} on, better 100, ranges and choices can be trusted. "
        f"{effect(examples, growth)}: new examples may be clipped."
    )
    # The caller of the public function, whose random state a decorator brings back.
    warnings.warn(note, UserWarning, stacklevel=4)
    return (note,)


def effect(examples: int, growth: float) -> str:
    """Return what few examples do to ranges, without a full stop.

    Args:
        examples: how many there are.
        growth: see `widened`.
    """
    likely = f"another example has values outside a range with a probability of up to {beyond(examples):.0%}"
    if examples < 2:
        return f"How far others widen the ranges of one cannot be told, and {likely}"
    return f"From the first half of these to all, ranges widened by {growth:.0%} (median), and {likely}"
