"""What may be given up, for what, and what must hold: the request of a search."""

import dataclasses
import math
import re
from collections.abc import Iterator

from kopt.core.errors import ConfigError, nearest
from kopt.core.serialization import Record
from kopt.core.settings import choice, number

# Objective -> the number that is compared, with its unit.
QUANTITY_OF = {
    "latency": "latency_ms",
    "throughput": "throughput_per_s",
    "size": "size_bytes",
    "memory": "peak_memory_bytes",
    "energy": "millijoules",
}
OBJECTIVES = tuple(QUANTITY_OF)
COSTS = (*QUANTITY_OF.values(), "p99_ms", "gzip_bytes")
RELATIONS = ("<=", ">=")
UNDECIDED = ("estimate", "outside")
AGREEMENT = "agreement"
# Metrics whose values are fractions: a bound outside [0, 1] holds always or never.
_FRACTIONS = ("accuracy", "auc", "precision", "recall", AGREEMENT)
_FORM = re.compile(r"\s*([A-Za-z_]\w*)\s*(<=|>=)\s*(\S+)\s*")


@dataclasses.dataclass(frozen=True)
class Constraint(Record):
    """A bound that every file must keep, on a cost or on a metric.

    Attributes:
        quantity: `"latency_ms"`, `"p99_ms"`, `"throughput_per_s"` (examples), `"size_bytes"`, `"gzip_bytes"`,
            `"peak_memory_bytes"`, `"millijoules"` (an example), or a metric as `kopt.measure.evaluate` takes it.
        relation: `"<="` or `">="`.
        bound: in the unit of the quantity.

    Example:
        >>> kopt.Constraint.parse("size_bytes<=200_000")
        Constraint(quantity='size_bytes', relation='<=', bound=200000.0)
    """

    quantity: str
    relation: str
    bound: float

    def __post_init__(self) -> None:
        choice("relation", self.relation, RELATIONS)
        object.__setattr__(self, "bound", number("bound", self.bound))
        if self.quantity in QUANTITY_OF:
            raise ConfigError(f"{self.quantity!r} has no unit here. Write {QUANTITY_OF[self.quantity]!r}.")
        if self.is_cost and self.bound <= 0 and self.relation == "<=":
            raise ConfigError(f"Nothing can keep {self}: {self.quantity} is above 0.")
        if self.quantity in _FRACTIONS and not 0.0 <= self.bound <= 1.0:
            raise ConfigError(f"{self.quantity} lies in [0, 1], e.g. {self.quantity}>=0.9. Received: {self}.")

    def __str__(self) -> str:
        return f"{self.quantity}{self.relation}{self.bound:.15g}"

    @classmethod
    def parse(cls, text: str) -> "Constraint":
        """Read a bound as it is written on the command line.

        Args:
            text: a quantity, `<=` or `>=`, and a number, e.g. `"size_bytes<=200_000"`.

        Raises:
            ConfigError: it is written otherwise, or can never hold.
        """
        found = _FORM.fullmatch(text) if isinstance(text, str) else None
        try:
            assert found is not None
            bound = float(found[3])
        except (AssertionError, ValueError):
            raise ConfigError(
                f"A constraint is a quantity, <= or >=, and a number, e.g. 'size_bytes<=200000' or 'auc>=0.9'. "
                f"Received: {text!r}. Costs: {', '.join(COSTS)}; everything else is a metric."
            ) from None
        return cls(found[1], found[2], bound)

    @property
    def is_cost(self) -> bool:
        """Whether it bounds what a file costs, not what it answers."""
        return self.quantity in COSTS

    def holds(self, value: float | None) -> bool:
        """Return whether `value` keeps the bound; what is not known, or NaN, does not."""
        if value is None or math.isnan(value):
            return False
        return value <= self.bound if self.relation == "<=" else value >= self.bound

    def excess(self, value: float | None) -> float:
        """Return by what share of the bound `value` misses it: 0 where it holds, infinite where nothing is known."""
        if self.holds(value):
            return 0.0
        if value is None or not math.isfinite(value):
            return math.inf
        return abs(value - self.bound) / (abs(self.bound) or 1.0)


@dataclasses.dataclass(frozen=True)
class Budget(Record):
    """What may be given up, for what, and what must hold.

    Attributes:
        max_drop: how much of the metric may be lost, as a fraction of 1 (0.01 = one point of accuracy).
        objective: what is to improve: `"latency"`, `"throughput"`, `"size"`, `"memory"` (peak of loading and running)
            or `"energy"`, or a tuple of several. Of several, the best is the candidate whose ratios to the other
            candidates, multiplied, are smallest: halving one weighs as much as halving another.
        metric: the metric that is guarded, higher is better.
        constraints: bounds that the file must keep; texts such as `"size_bytes<=200_000"` are taken, too.
        max_class_drop: how much of the accuracy on any one class may be lost, as a fraction; `None` for any amount.
            An average can hide a lost class.
        target: factor by which the objectives are to be better than the model as given: a number for all of them, or
            one by objective, e.g. `{"latency": 3.0, "size": 4.0}`; `None` for no target. A search ends at the first
            file that has it, where the intervals of its drop are inside the budget.
        level: of the intervals.
        undecided: how a candidate counts whose interval of the drop reaches to both sides of `max_drop`: by its
            `"estimate"`, or as `"outside"`.

    Example:
        >>> budget = kopt.Budget(0.005, ("latency", "size"), constraints=("auc>=0.9",), max_class_drop=0.02)
        >>> budget.metrics
        ('accuracy', 'auc')
    """

    max_drop: float = 0.01
    objective: str | tuple[str, ...] = "latency"
    metric: str = "accuracy"
    constraints: tuple[Constraint, ...] = ()
    max_class_drop: float | None = None
    target: float | dict[str, float] | None = None
    level: float = 0.95
    undecided: str = "estimate"

    def __post_init__(self) -> None:
        _check_drop("max_drop", self.max_drop)
        if self.max_class_drop is not None:
            _check_drop("max_class_drop", self.max_class_drop)
        object.__setattr__(self, "objective", _objective(self.objective))
        if not isinstance(self.metric, str):
            raise ConfigError(
                f"`metric` of a budget is a name, which its file can hold, e.g. 'auc'. Received: {self.metric!r}."
            )
        object.__setattr__(self, "constraints", _constraints(self.constraints))
        if self.target is not None:
            object.__setattr__(self, "target", _target(self.target, self.objectives))
        if not 0.5 <= number("level", self.level, least=0.0, most=1.0) <= 0.99:
            raise ConfigError(f"`level` is a probability from 0.5 to 0.99. Received: {self.level!r}.")
        choice("undecided", self.undecided, UNDECIDED)
        _check_contradictions(self.constraints)

    @property
    def objectives(self) -> tuple[str, ...]:
        """What is to improve, one or several."""
        return (self.objective,) if isinstance(self.objective, str) else self.objective

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that have to be evaluated: the guarded one and those of the constraints."""
        bounded = [constraint.quantity for constraint in self.constraints if not constraint.is_cost]
        return tuple(dict.fromkeys((self.metric, *bounded)))

    @property
    def targets(self) -> dict[str, float]:
        """The factor to be reached, by objective; empty without a target."""
        return dict(self.target) if isinstance(self.target, dict) else {}

    def needs(self, quantity: str) -> bool:
        """Return whether every candidate has to be measured for this cost."""
        bounded = {constraint.quantity for constraint in self.constraints}
        return quantity in bounded | {QUANTITY_OF[name] for name in (*self.objectives, *self.targets)}


def _check_drop(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"`{name}` must be a number. Received: {value!r}.")
    if not 0.0 <= value <= 1.0 or math.isnan(value):
        raise ConfigError(
            f"`{name}` is a fraction of the metric in [0, 1], e.g. 0.01 for one point of accuracy. Received: {value!r}."
        )


def _objective(given: object) -> str | tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, (list, tuple)) else ()
    for name in names:
        if name not in OBJECTIVES:
            raise ConfigError(
                f"Unknown objective {name!r}.{nearest(str(name), OBJECTIVES)} Accepted: {', '.join(OBJECTIVES)}."
            )
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"`objective` is a name or several different ones, of {', '.join(OBJECTIVES)}. Received: {given!r}."
        )
    return names[0] if len(names) == 1 else names


def _constraints(given: object) -> tuple[Constraint, ...]:
    several = given if isinstance(given, (list, tuple)) else (given,)
    return tuple(one if isinstance(one, Constraint) else Constraint.parse(one) for one in several)


def _target(given: object, objectives: tuple[str, ...]) -> dict[str, float]:
    factors = given if isinstance(given, dict) else dict.fromkeys(objectives, given)
    checked = {
        choice("target", name, OBJECTIVES): number(f"target[{name!r}]", value) for name, value in factors.items()
    }
    for name, factor in checked.items():
        if factor <= 1.0:
            raise ConfigError(
                f"`target` is the factor by which the {name} is to be better, above 1, e.g. 3.0. Received: {factor!r}."
            )
    if not checked:
        raise ConfigError("`target` is empty. Leave it out, or name a factor, e.g. {'latency': 3.0}.")
    return checked


def _check_contradictions(constraints: tuple[Constraint, ...]) -> None:
    for low, high in _pairs(constraints):
        if low.bound > high.bound:
            raise ConfigError(f"The constraints {low} and {high} contradict each other: no number keeps both.")


def _pairs(constraints: tuple[Constraint, ...]) -> Iterator[tuple[Constraint, Constraint]]:
    for low in constraints:
        for high in constraints:
            if low.quantity == high.quantity and (low.relation, high.relation) == (">=", "<="):
                yield low, high
