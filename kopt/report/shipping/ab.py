"""The comparison of two models as one sentence, as a table and as an interval against zero."""

import dataclasses
import math

from matplotlib.figure import Figure
from rich.console import RenderableType

from kopt.core.records.search.ab_test import ABTest
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.svg import INK

# Okabe and Ito: told apart by people with the common color-vision deficiencies, visible on white and on black.
_COLORS = {"better": "#009e73", "worse": "#d55e00", "equivalent": "#0072b2", "not worse": "#0072b2"}
_OPEN, _MARGIN = "#8a8f98", "#e69f00"
_NAME_LENGTH = 30
_LEAST_P = 1e-6


def conclusion(test: ABTest) -> str:
    """Return what was found, in one to three sentences."""
    interval = f"{_percent(test.level)} interval {_interval(test)}"
    numbers = f"{_change(test, test.difference)} {_of_metric(test)}, {interval}, p {_relation(test.p_value)}"
    margin = _size(test, test.margin)
    found = {
        "better": f"{test.b} is better than {test.a}",
        "worse": f"{test.b} is worse than {test.a}",
        "equivalent": f"{test.b} and {test.a} differ by less than the margin of {margin}",
        "not worse": f"{test.b} is not worse than {test.a} by more than the margin of {margin}",
        "undecided": f"No difference between {test.b} and {test.a} can be shown",
    }[test.verdict]
    if test.margin and test.verdict == "undecided":
        found = f"Whether {test.b} is worse than {test.a} by more than the margin of {margin} cannot be told"
    if test.margin and test.verdict == "worse":
        beyond = test.gain_interval[1] < -test.margin
        found += f" by more than the margin of {margin}" if beyond else f", maybe by more than the margin of {margin}"
    return f"{found}: {numbers}. {_needed(test)}" if test.verdict == "undecided" else f"{found}: {numbers}."


@dataclasses.dataclass(frozen=True)
class _Fact:
    name: str
    value: str


def _table(test: ABTest) -> RenderableType:
    facts = [
        _Fact(f"a: {test.a}", _value(test, test.value_a)),
        _Fact(f"b: {test.b}", _value(test, test.value_b)),
        _Fact("b / a - 1" if test.metric == "latency" else "b - a", _change(test, test.difference)),
        _Fact(f"  {_percent(test.level)} interval", _interval(test)),
        _Fact("  p-value", _relation(test.p_value).removeprefix("= ")),
        _Fact(test.unit, f"{test.pairs:,}"),
    ]
    if test.only_a is not None and test.only_b is not None:
        facts += [_Fact("  right only in a", f"{test.only_a:,}"), _Fact("  right only in b", f"{test.only_b:,}")]
    if test.detectable is not None:
        facts.append(_Fact(f"  detectable with {_percent(test.power)} power", _size(test, test.detectable)))
    if test.pairs_needed is not None:
        facts.append(_Fact(f"{test.unit} needed", f"about {_rounded(test.pairs_needed)}"))
    columns = (
        Column[_Fact]("", lambda fact: fact.name, is_number=False),
        Column[_Fact](test.metric, lambda fact: fact.value),
    )
    caption = [conclusion(test), f"{test.method}.", *(f"- {note}" for note in test.notes)]
    return FittedTable(f"A/B test: {_verdict(test)}", facts, columns, caption=caption)


def _figure(test: ABTest) -> Figure:
    figure = Figure(figsize=(8.6, 2.1), layout="constrained")
    axes = figure.add_subplot()
    color = _COLORS.get(test.verdict, _OPEN)
    low, high, middle = (_scaled(test, value) for value in (test.low, test.high, test.difference))
    margin = _scaled(test, test.margin)
    ends = (0.0, low, high, -margin, margin)
    room = 0.22 * ((max(ends) - min(ends)) or 1.0)
    left, right = min(ends) - room, max(ends) + room
    axes.axvline(0, color=INK, linewidth=1.0)
    if margin:
        edge, beyond = (-margin, left) if test.larger_is_better else (margin, right)
        axes.axvspan(edge, beyond, color=_MARGIN, alpha=0.12, linewidth=0)
        axes.axvline(edge, color=_MARGIN, linestyle="--", linewidth=1.2)
        side = "right" if beyond < edge else "left"
        axes.annotate(" beyond the margin ", (edge, 0.82), fontsize=8, ha=side, va="center")
    axes.plot([low, high], [0, 0], color=color, linewidth=4, solid_capstyle="butt")
    axes.plot([middle], [0], "o", color=color, markersize=9)
    for value, end, side in ((test.low, low, "right"), (test.high, high, "left")):
        axes.annotate(f" {_bare(test, value)} ", (end, 0), fontsize=9, ha=side, va="center")
    axes.annotate(_change(test, test.difference), (middle, 0.34), fontsize=9, ha="center", va="center")
    axes.set_xlim(left, right)
    axes.set_ylim(-0.6, 1.0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", alpha=0.15, color=INK)
    axes.set_xlabel(_axis(test))
    figure.suptitle(_title(test), x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _axis(test: ABTest) -> str:
    what = f"b - a in {test.metric}"
    if test.metric == "latency":
        what = "b / a - 1 of latency, percent"
    elif formats.is_counted(test.metric):
        what = f"b - a, points of {test.metric}"
    return f"{what} ({'right' if test.larger_is_better else 'left'} of 0: b is better)"


def _title(test: ABTest) -> str:
    a, b = (name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…" for name in (test.a, test.b))
    if test.verdict in ("better", "worse"):
        return f"{b} is {test.verdict} than {a}"
    return f"{_verdict(test).capitalize()}: b is {b}, a is {a}"


def _verdict(test: ABTest) -> str:
    if test.verdict == "undecided":
        return "undecided" if test.margin else "no difference can be shown"
    words = {"equivalent": "equal within the margin", "not worse": "b is not worse by more than the margin"}
    return words.get(test.verdict, f"b is {test.verdict}")


def _needed(test: ABTest) -> str:
    power, parts = _percent(test.power), []
    if test.detectable is not None:
        verb = "show" if test.pairs > 1 else "shows"
        size = _size(test, test.detectable)
        parts.append(f"{test.pairs:,} {test.unit} {verb} differences from {size} on with {power} power")
    if test.pairs_needed is not None:
        aim = "to show that it is not" if test.margin else "to see a difference of this size"
        parts.append(f"{aim}, about {_rounded(test.pairs_needed)} are needed")
    elif test.margin and test.gain <= -test.margin:
        parts.append("the loss seen is no smaller than the margin, so that no number of them would show it is")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _rounded(count: int) -> str:
    """Return `count` rounded up to two significant digits: more would pretend to know it."""
    step = 10 ** max(0, len(str(count)) - 2)
    return f"{math.ceil(count / step) * step:,}"


def _percent(share: float) -> str:
    return f"{share * 100:.6g}%"


def _relation(p_value: float) -> str:
    return f"= {p_value:.2g}" if p_value >= _LEAST_P else f"< {_LEAST_P:g}"


def _of_metric(test: ABTest) -> str:
    return "of latency" if test.metric == "latency" else f"in {test.metric}"


def _value(test: ABTest, value: float) -> str:
    return f"{formats.number(value)} ms" if test.metric == "latency" else formats.metric_value(value, test.metric)


def _is_scaled(test: ABTest) -> bool:
    return test.metric == "latency" or formats.is_counted(test.metric)


def _scaled(test: ABTest, value: float) -> float:
    return value * 100 if _is_scaled(test) else value


def _interval(test: ABTest) -> str:
    return f"{_bare(test, test.low)} to {_bare(test, test.high)}"


def _change(test: ABTest, value: float) -> str:
    """Return a difference with its sign and unit."""
    return f"{_bare(test, value)} points" if formats.is_counted(test.metric) else _bare(test, value)


def _size(test: ABTest, value: float) -> str:
    return _change(test, value).removeprefix("+")


def _bare(test: ABTest, value: float) -> str:
    if test.metric == "latency":
        text = f"{value * 100:+.1f}%"
    elif formats.is_counted(test.metric):
        text = f"{value * 100:+.2f}"
    else:
        text = f"{'-' if value < 0 else '+'}{formats.number(abs(value))}"
    return text[1:] if float(text.rstrip("%").replace(",", "")) == 0 else text


AB_TEST = Look("ab-test", _table, _figure, conclusion)
