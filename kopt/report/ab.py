"""The comparison of two models as one sentence, as a table and as an interval against zero."""

import dataclasses

from matplotlib.figure import Figure
from rich.console import RenderableType

from kopt.core.ab_records import ABTest
from kopt.report import formats
from kopt.report.columns import Column, FittedTable
from kopt.report.look import Look
from kopt.report.svg import INK

# Okabe and Ito: told apart by people with the common color-vision deficiencies, visible on white and on black.
_COLORS = {"better": "#009e73", "worse": "#d55e00", "equivalent": "#0072b2", "not worse": "#0072b2"}
_OPEN, _MARGIN = "#8a8f98", "#e69f00"


def conclusion(test: ABTest) -> str:
    """Return what was found, in one or two sentences."""
    change, interval = _change(test, test.difference), f"[{_change(test, test.low)}, {_change(test, test.high)}]"
    numbers = f"{change} in {test.metric}, {test.level:.0%} interval {interval}, p = {test.p_value:.2g}"
    margin = _change(test, test.margin).removeprefix("+")
    found = {
        "better": f"{test.b} is better than {test.a}: {numbers}.",
        "worse": f"{test.b} is worse than {test.a}: {numbers}.",
        "equivalent": f"{test.b} and {test.a} differ by less than the margin of {margin}: {numbers}.",
        "not worse": f"{test.b} is not worse than {test.a} by more than the margin of {margin}: {numbers}.",
        "undecided": f"No difference between {test.b} and {test.a} can be shown: {numbers}.",
    }[test.verdict]
    return f"{found} {_needed(test)}" if test.verdict == "undecided" else found


@dataclasses.dataclass(frozen=True)
class _Fact:
    name: str
    value: str


def _table(test: ABTest) -> RenderableType:
    facts = [
        _Fact(test.a, _value(test, test.value_a)),
        _Fact(test.b, _value(test, test.value_b)),
        _Fact("difference", _change(test, test.difference)),
        _Fact(f"{test.level:.0%} interval", f"{_change(test, test.low)} to {_change(test, test.high)}"),
        _Fact("p-value", f"{test.p_value:.2g}"),
        _Fact("pairs", f"{test.pairs:,}"),
    ]
    if test.only_a is not None and test.only_b is not None:
        facts.append(_Fact(f"right only in {test.a}", f"{test.only_a:,}"))
        facts.append(_Fact(f"right only in {test.b}", f"{test.only_b:,}"))
    facts.append(_Fact(f"seen with {test.power:.0%} power", _change(test, test.detectable).removeprefix("+")))
    columns = (
        Column[_Fact]("", lambda fact: fact.name, is_number=False),
        Column[_Fact](test.metric, lambda fact: fact.value),
    )
    return FittedTable("A/B test", facts, columns, caption=[conclusion(test), f"{test.method}.", *test.notes])


def _figure(test: ABTest) -> Figure:
    figure = Figure(figsize=(8.6, 1.9), layout="constrained")
    axes = figure.add_subplot()
    color = _COLORS.get(test.verdict, _OPEN)
    axes.axvline(0, color=INK, linewidth=1.0)
    if test.margin:
        edge = -test.margin if test.larger_is_better else test.margin
        axes.axvline(edge, color=_MARGIN, linestyle="--", linewidth=1.2)
        axes.annotate("margin", (edge, 0.72), color=_MARGIN, fontsize=9, ha="center")
    axes.plot([test.low, test.high], [0, 0], color=color, linewidth=4, solid_capstyle="butt")
    axes.plot([test.difference], [0], "o", color=color, markersize=9)
    for value, ha in ((test.low, "right"), (test.high, "left")):
        axes.annotate(f" {_change(test, value)} ", (value, 0), fontsize=9, ha=ha, va="center")
    axes.annotate(_change(test, test.difference), (test.difference, 0.3), fontsize=9, ha="center")
    ends = (0.0, test.low, test.high, -test.margin, test.margin)
    room = 0.22 * ((max(ends) - min(ends)) or 1.0)
    axes.set_xlim(min(ends) - room, max(ends) + room)
    axes.set_ylim(-0.6, 1.0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    better = "right" if test.larger_is_better else "left"
    axes.set_xlabel(f"Difference in {test.metric}, {test.b} less {test.a}; better is to the {better}")
    axes.set_title(_title(test), loc="left", fontsize=10, fontweight="bold")
    return figure


def _title(test: ABTest) -> str:
    verdict = {"undecided": "no difference can be shown", "not worse": "not worse by more than the margin"}
    return f"{test.b} against {test.a}: {verdict.get(test.verdict, test.verdict)}"


def _needed(test: ABTest) -> str:
    what = "rounds" if test.metric == "latency" else "pairs"
    seen = _change(test, test.detectable).removeprefix("+")
    able = f"{test.pairs:,} {what} show differences from {seen} on"
    if test.pairs_needed is None:
        return f"{able}, with a power of {test.power:.0%}."
    return f"{able}; to see one of this size with a power of {test.power:.0%}, about {test.pairs_needed:,} are needed."


def _value(test: ABTest, value: float) -> str:
    return f"{formats.number(value)} ms" if test.metric == "latency" else formats.metric_value(value, test.metric)


def _change(test: ABTest, value: float) -> str:
    if test.metric == "latency":
        return f"{value * 100:+.1f}%"
    if formats.is_counted(test.metric):
        return f"{value * 100:+.2f} points"
    return f"{'-' if value < 0 else '+'}{formats.number(abs(value))}"


AB_TEST = Look("ab-test", _table, _figure, conclusion)
