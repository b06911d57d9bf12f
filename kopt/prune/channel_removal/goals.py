"""What is asked for, and the widths that reach it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from kopt.core.errors import ConfigError
from kopt.core.settings import choice, number
from kopt.prune.channel_removal import widths

SCOPES = ("layer", "global")
# Steps between keeping everything and keeping the least, where all groups keep the same share.
_SHARES = 1000
_MOST = 1e18


@dataclasses.dataclass(frozen=True)
class Goal:
    """What is asked for.

    Attributes:
        quantity: `"keep"`, `"target_macs"`, `"target_params"`, `"target_latency_ms"` or `"target_latency"`.
        value: as given.
        scope: `"layer"` or `"global"`.
    """

    quantity: str
    value: float
    scope: str

    @classmethod
    def of(cls, scope: str | None, **quantities: Any) -> "Goal":
        """Return the one goal among the quantities that is not `None`.

        Raises:
            ConfigError: none or several are given, or a value is out of range.
        """
        given = {name: value for name, value in quantities.items() if value is not None}
        if len(given) != 1:
            names = ", ".join(f"`{name}`" for name in quantities)
            raise ConfigError(f"Give one of {names}. Received: {', '.join(given) or 'none'}.")
        (quantity, value), *_ = given.items()
        number(quantity, value, least=0, most=1 if quantity in ("keep", "target_latency") else _MOST, open_below=True)
        scope = scope or ("layer" if quantity == "keep" else "global")
        return cls(quantity, value, choice("scope", scope, SCOPES))

    @property
    def text(self) -> str:
        """The goal as it is called."""
        is_count = self.quantity in ("target_macs", "target_params") and self.value > 1
        return f"{self.quantity}={self.value:,.0f}" if is_count else f"{self.quantity}={self.value:g}"

    def target(self, before: int) -> float:
        """Return the most that may be left: a share of `before` below 1, a count above."""
        return self.value * before if self.value < 1 else self.value

    @property
    def is_latency(self) -> bool:
        """Whether it can only be measured."""
        return self.quantity.startswith("target_latency")


@dataclasses.dataclass(frozen=True, eq=False)
class Path:
    """The widths that a model goes through as it shrinks: none grows from one step to the next.

    Attributes:
        candidates: the groups that may shrink.
        scope: `"global"`: one more unit goes at every step, that of the lowest score; `"layer"`: every group keeps
            the same share, a thousandth less at every step.
    """

    candidates: Sequence[widths.Candidate]
    scope: str

    @property
    def units(self) -> int:
        """Units of all candidates."""
        return sum(candidate.scores.size for candidate in self.candidates)

    @property
    def last(self) -> int:
        """The step at which every group has its smallest width."""
        return self.units if self.scope == "global" else _SHARES

    def at(self, step: int) -> list[int]:
        """Return the units left of every candidate at a step."""
        if self.scope == "global":
            return widths.by_rank(self.candidates, step)
        return widths.by_share(self.candidates, 1 - step / _SHARES)

    def keeping(self, share: float) -> list[int]:
        """Return the units left of every candidate where a share of all is left."""
        if self.scope == "layer":
            return widths.by_share(self.candidates, share)
        return self.at(round(self.units * (1 - share)))


def reach(goal: Goal, last: int, cost: Callable[[int], int], before: int, unit: str, staying: str = "") -> int:
    """Return the first step at which the cost is at most the target: costs fall from step to step.

    Args:
        goal: see `Goal.target`.
        last: step of the lowest cost.
        cost: of a step.
        before: cost of the model as it is.
        unit: of the cost, for messages.
        staying: what cannot shrink, for messages.

    Raises:
        ConfigError: the target is not below `before`, or below the lowest cost.
    """
    target = goal.target(before)
    if goal.value == 1 or target >= before:
        raise ConfigError(
            f"`{goal.quantity}={goal.value:g}` is not below what the model has: {before:,} {unit}. Give a share "
            f"below 1, or a smaller count."
        )
    least = cost(last)
    if least > target:
        raise ConfigError(
            f"`{goal.quantity}={goal.value:g}` ({target:,.0f} {unit}) cannot be reached: {least:,} "
            f"({least / before:.3f} of {before:,}) are left with every group at its smallest width. Lower "
            f"`round_to` or `min_channels`, or protect fewer layers.{staying}"
        )
    return first_below(cost, target, 0, last)


def first_below(cost: Callable[[int], float], target: float, low: int, high: int) -> int:
    """Return the first step in `(low, high]` with a cost of at most `target`, which that of `high` is taken to be."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle) <= target else (middle, high)
    return high
