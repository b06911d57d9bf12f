"""Which advice comes first: what is won for what it takes. Pure."""

from collections.abc import Iterable

from kopt.core.records.search.advice import AdviceItem

# Hours, about: a setting or a call; a training; another architecture or another way to train.
HOURS = {"basic": 1.0, "intermediate": 4.0, "advanced": 16.0}
# What a gain counts as where no number is known: a model that answers wrongly or does not run has everything to win.
ASSUMED = {
    "correctness": 1.0,
    "quality": 0.5,
    "memory": 0.5,
    "training time": 0.1,
    "inference time": 0.1,
    "size": 0.05,
}
# A share of the size is worth less than the same share of time, and both less than a model that answers rightly.
WEIGHTS = {"correctness": 4.0, "memory": 2.0, "size": 0.5}


def worth(item: AdviceItem) -> float:
    """Return `weight * share / hours`, with the assumed share where none is known."""
    gain = item.gain
    share = ASSUMED[gain.target] if gain.share is None else gain.share
    return WEIGHTS.get(gain.target, 1.0) * share / HOURS[item.effort]


def ordered(items: Iterable[AdviceItem]) -> tuple[AdviceItem, ...]:
    """Return items, most worth first; equal ones in the order of the table."""
    return tuple(sorted(items, key=lambda item: -worth(item)))
