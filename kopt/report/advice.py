"""Advice as text for the terminal, as a plot and as a page that needs no network."""

import dataclasses

from markupsafe import Markup
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.errors import InputError
from kopt.core.records.search.advice import AdviceItem, ModelAdvice
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import draw_bars
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.row_choice import first_rows
from kopt.report.parts.templating import environment

# Okabe and Ito: told apart by people with the common color-vision deficiencies.
_COLORS = {"basic": "#009e73", "intermediate": "#56b4e9", "advanced": "#8a8f98"}
_MOST_BARS = 12
_Row = tuple[int, AdviceItem]


def _table(advice: ModelAdvice, rows: int | None = None) -> RenderableType:
    """Return the advice in order, each item in full below, then what was not looked at; `rows` limits the items."""
    shown, hidden = first_rows(list(enumerate(advice.items, 1)), rows, "pieces of advice")
    columns = (
        Column[_Row]("", lambda row: f"{row[0]} {row[1].rule}", is_number=False),
        Column[_Row]("Gain", lambda row: gain_text(row[1])),
        Column[_Row]("Of", lambda row: row[1].gain.target, 1, is_number=False),
        Column[_Row]("Known from", lambda row: row[1].gain.source, 2, is_number=False),
        Column[_Row]("Effort", lambda row: row[1].effort, is_number=False),
    )
    table = FittedTable(f"{advice.model}: what to change, most gain for its effort first", shown, columns)
    parts: list[RenderableType] = [table] if shown else []
    for place, item in shown:
        parts += [Text(), *_lines(place, item)]
    return Group(*parts, *map(Text, hidden), Text(), Text(advice_headline(advice)), *map(Text, _left(advice)))


def gain_text(item: AdviceItem) -> str:
    """Return the expected share, or that it is not known."""
    return formats.NOTHING if item.gain.share is None else formats.share(item.gain.share)


def advice_headline(advice: ModelAdvice) -> str:
    """Return what was found in one or two sentences."""
    count = len(advice.items)
    first = f"; begin with {advice.items[0].rule}" if count else ""
    basic = sum(item.effort == "basic" for item in advice.items)
    looked = f"{len(advice.checked)} of {len(advice.checked) + len(advice.unchecked)} rules had what they need"
    found = (
        f"{count} thing{'s' * (count != 1)} to change, {basic} of them basic{first}" if count else "Nothing to change"
    )
    return f"{found}. {looked} ({formats.duration(advice.seconds)})."


def _lines(place: int, item: AdviceItem) -> list[Text]:
    where = f" ({item.where})" if item.where else ""
    code = [Text(f"     {line}", style="cyan") for line in item.code.splitlines()]
    return [
        Text(f"{place}. {item.symptom}{where}", style="bold"),
        Text(f"   {item.evidence}"),
        Text(f"   -> {item.remedy}"),
        *code,
        Text(f"   Gain of {item.gain.target}: {gain_text(item)} ({item.gain.source}; {item.gain.how}).", style="dim"),
    ]


def _left(advice: ModelAdvice) -> list[str]:
    """Return what was not looked at, what has one reason together."""
    left: dict[str, list[str]] = {}
    for look in advice.looks:
        if look.seconds is None:
            left.setdefault(look.reason, []).append(look.subject)
    looks = [f"Not looked at: {'; '.join(subjects)}. {reason}" for reason, subjects in left.items()]
    return [*looks, *(f"Note: {note}" for note in advice.notes)]


def _figure(advice: ModelAdvice) -> Figure:
    known = [item for item in advice.items if item.gain.share is not None][:_MOST_BARS]
    if not known:
        raise InputError("No advice has a gain in numbers, so that there is nothing to draw.")
    figure = Figure(figsize=(8.6, 0.9 + 0.34 * len(known)), layout="constrained")
    axes = figure.add_subplot()
    texts = [f"{gain_text(item)} of {item.gain.target}" for item in known]
    shares = [item.gain.share or 0.0 for item in known]
    draw_bars(axes, [item.rule for item in known], shares, texts, [_COLORS[item.effort] for item in known])
    axes.set_xlim(0, max(shares) * 1.35 or 1)
    axes.set_title(f"{advice.model}: expected gain", loc="left", fontsize=10, fontweight="bold")
    return figure


ADVICE = Look("advice", _table, _figure, advice_headline)


@dataclasses.dataclass(frozen=True)
class _Tile:
    label: str
    value: str
    detail: str


def advice_html(advice: ModelAdvice) -> str:
    """Return advice as one self-contained HTML page: items with evidence and code, then what was not looked at."""
    template = environment().get_template("advice.html")
    return template.render(
        advice=advice,
        headline=advice_headline(advice),
        tiles=_tiles(advice),
        plot=_plot(advice),
        items=[(item, gain_text(item)) for item in advice.items],
        left=[look for look in advice.looks if look.seconds is None],
        machine=advice.machine,
    )


def _plot(advice: ModelAdvice) -> Markup | None:
    try:
        return Markup(ADVICE.svg(advice))
    except InputError:  # There is no gain in numbers.
        return None


def _tiles(advice: ModelAdvice) -> list[_Tile]:
    basic = sum(item.effort == "basic" for item in advice.items)
    tiles = [_Tile("To change", str(len(advice.items)), f"{basic} with a setting or a call")]
    if advice.items:
        first = advice.items[0]
        tiles.append(_Tile("First", gain_text(first), f"{first.rule}: {first.gain.target}, {first.gain.source}"))
    rules = len(advice.checked) + len(advice.unchecked)
    return [*tiles, _Tile("Rules", f"{len(advice.checked)} of {rules}", "had what they need")]
