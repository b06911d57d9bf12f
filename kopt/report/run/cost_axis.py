"""The cost against which the trade-off is drawn: the one that the budget asks to improve."""

import dataclasses
from collections.abc import Callable, Sequence

from kopt.core.records.search.budget import Budget
from kopt.core.records.search.quantities import value_of
from kopt.report.parts import formats
from kopt.report.run.rows import Row


@dataclasses.dataclass(frozen=True)
class CostAxis:
    """The horizontal axis of the trade-off.

    Attributes:
        name: of the cost, for titles.
        label: of the axis, with the unit and the better side.
        value: of a row, in the unit of the label; `None` if it is not known.
        text: of a value, with its unit.
    """

    name: str
    label: str
    value: Callable[[Row], float | None]
    text: Callable[[float], str]


def cost_axis(budget: Budget, rows: Sequence[Row] = ()) -> CostAxis:
    """Return the axis of a budget: latency if it is among the objectives, else the first of them.

    Args:
        budget: what is to improve.
        rows: that are drawn, whose batch sizes the label names.
    """
    objective = "latency" if "latency" in budget.objectives else budget.objectives[0]
    if objective == "latency":
        batches = sorted({row.latency.batch_size for row in rows if row.latency})
        label = f"Median ms a call at batch {' or '.join(map(str, batches))}  (left is faster)"
        return CostAxis(objective, label, lambda row: row.latency_ms, lambda value: f"{formats.number(value)} ms")
    if objective == "size":
        return CostAxis(objective, "KiB on disk  (left is smaller)", _kibibytes, lambda value: f"{value:,.1f} KiB")
    if objective == "throughput":
        label = "Examples a second  (right is more)"
        return CostAxis(objective, label, _cost("throughput_per_s"), lambda value: f"{formats.number(value)} a second")
    if objective == "memory":
        label = "Peak memory, MiB  (left is less)"
        return CostAxis(objective, label, _mebibytes, lambda value: f"{formats.number(value)} MiB")
    label = "Energy, mJ an example  (left is less)"
    return CostAxis(objective, label, _cost("millijoules"), lambda value: f"{formats.number(value)} mJ")


def _cost(quantity: str) -> Callable[[Row], float | None]:
    return lambda row: value_of(row.candidate, quantity)


def _kibibytes(row: Row) -> float | None:
    return None if row.size_bytes is None else row.size_bytes / 1024


def _mebibytes(row: Row) -> float | None:
    value = value_of(row.candidate, "peak_memory_bytes")
    return None if value is None else value / (1 << 20)
