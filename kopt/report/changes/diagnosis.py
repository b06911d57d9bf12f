"""Where a model loses its accuracy in integers: a table, a plot over the layers, and a page."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.changes.quantization_diagnosis import ExampleError, LayerDiagnosis, QuantizationDiagnosis
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column
from kopt.report.parts.html_tables import html_of
from kopt.report.parts.paths import PathTable, short_path
from kopt.report.parts.row_choice import chosen_rows, more_rows
from kopt.report.parts.svg import INK
from kopt.report.parts.templating import environment

# Okabe and Ito: told apart by people with the common color-vision deficiencies, visible on white and on black.
_ACCUMULATED, _ALONE, _BAD = "#0072b2", "#e69f00", "#d55e00"
_ORDERS: dict[str, Callable[[LayerDiagnosis], Any]] = {
    "order": lambda one: 0,
    "error": lambda one: one.output_db,
    "accumulated": lambda one: one.sqnr_db,
    "alone": lambda one: one.alone_db,
}
_MOST_FINDINGS, _MOST_NAMES, _NAME_LENGTH = 8, 40, 34
# Plots end here: what is better has no error that anybody could see.
_TOP_DB = 80.0


def _table(diagnosis: QuantizationDiagnosis, rows: int | None = 20, sort: str = "order") -> RenderableType:
    """Return a row a layer, then findings and the examples that suffer most.

    Args:
        diagnosis: what to show.
        rows: at most so many; `None` for all.
        sort: `"order"` of execution, `"error"` of the model's output, or of the layer's own output `"accumulated"` or
            `"alone"`, worst first.
    """
    shown, hidden = chosen_rows(diagnosis.layers, _ORDERS, sort, rows)
    columns = (
        Column[LayerDiagnosis]("Layer", lambda one: one.layer, is_number=False),
        Column[LayerDiagnosis]("Type", lambda one: one.type, 6, is_number=False),
        Column[LayerDiagnosis]("All up to\nhere dB", lambda one: _db(one.sqnr_db)),
        Column[LayerDiagnosis]("Alone\ndB", lambda one: _db(one.alone_db)),
        Column[LayerDiagnosis]("Weights\ndB", lambda one: _db(one.kernel_db), 4),
        Column[LayerDiagnosis]("Output\ndB", lambda one: _db(one.rounding_db), 5),
        Column[LayerDiagnosis]("Model's\noutput dB", lambda one: _db(one.output_db)),
        Column[LayerDiagnosis]("Range", lambda one: f"{one.low:.3g} {one.high:.3g}", 3),
        Column[LayerDiagnosis]("Used", lambda one: formats.share(one.range_use), 2),
        Column[LayerDiagnosis]("Outside", lambda one: formats.share(one.saturated), 7),
        Column[LayerDiagnosis]("Channels\ndiffer", lambda one: formats.times(one.output_spread), 1),
        Column[LayerDiagnosis]("Dead", lambda one: str(one.dead_channels or ""), 8),
    )
    caption = [_words(diagnosis), *more_rows(len(hidden), "layers")]
    table = PathTable(f"{diagnosis.model}: {diagnosis.scheme}, layer by layer", shown, columns, caption=caption)
    return Group(table, *map(Text, _lines(diagnosis)), Text(), _examples(diagnosis.worst[:rows]))


def _lines(diagnosis: QuantizationDiagnosis) -> list[str]:
    told = [f"{one.layer}: {one.words}" for one in diagnosis.findings[:_MOST_FINDINGS]]
    more = len(diagnosis.findings) - len(told)
    floats = [f"In float: {one.layer} ({one.type}): {one.detail}" for one in diagnosis.left]
    return [*told, *([f"{more} more findings in the record."] if more else []), *floats, *diagnosis.notes]


def _examples(worst: Sequence[ExampleError]) -> PathTable[ExampleError]:
    columns = (
        Column[ExampleError]("Example", lambda one: str(one.row), is_number=False),
        Column[ExampleError]("Error", lambda one: formats.share(one.error)),
        Column[ExampleError]("Answer", lambda one: _answer(one.answer)),
        Column[ExampleError]("Rounded", lambda one: _answer(one.rounded_answer)),
        Column[ExampleError]("", lambda one: "another answer" if one.is_flipped else "", is_number=False),
    )
    return PathTable("Examples that suffer most", worst, columns)


def _answer(value: int | None) -> str:
    return formats.NOTHING if value is None else str(value)


def _db(value: float | None) -> str:
    if value is None:
        return ""
    return "exact" if value == math.inf else f"{value:.1f}"


def _words(diagnosis: QuantizationDiagnosis) -> str:
    lowest = min(diagnosis.layers, key=lambda one: one.output_db, default=None)
    answers = ""
    if diagnosis.agreement is not None:
        answers = f" {diagnosis.flips} of {diagnosis.examples} examples get another answer."
    blame = f" {lowest.layer} costs the output most." if lowest and lowest.output_db < math.inf else ""
    return (
        f"Rounded as {diagnosis.scheme}, the outputs have a signal-to-noise ratio of {_db(diagnosis.output_db)} dB on "
        f"{diagnosis.examples} examples.{answers}{blame} {_count(len(diagnosis.findings))}."
    )


def _count(findings: int) -> str:
    return "Nothing is wrong with the layers" if not findings else f"{findings} finding{'s' * (findings > 1)}"


def _figure(diagnosis: QuantizationDiagnosis) -> Figure:
    layers = diagnosis.layers
    places = list(range(len(layers)))
    bad = {one.layer for one in diagnosis.findings}
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    accumulated = [_shown(one.sqnr_db) for one in layers]
    axes.plot(places, accumulated, "o-", color=_ACCUMULATED, markersize=4, label="all layers up to here rounded")
    axes.plot(
        places,
        [_shown(one.alone_db) for one in layers],
        "s:",
        color=_ALONE,
        markersize=4,
        label="this layer alone rounded",
    )
    axes.bar(
        places,
        [_TOP_DB - _shown(one.output_db) for one in layers],
        bottom=[_shown(one.output_db) for one in layers],
        color=INK,
        alpha=0.1,
        label="the model's output, this layer alone rounded (long: it costs much)",
    )
    found = [(place, _shown(one.sqnr_db)) for place, one in enumerate(layers) if one.layer in bad]
    if found:
        axes.plot(*zip(*found, strict=True), "v", color=_BAD, markersize=9, label="with a finding")
    every = max(1, -(-len(layers) // _MOST_NAMES))
    names = [short_path(one.layer, _NAME_LENGTH) for one in layers]
    axes.set_xticks(places[::every], names[::every], rotation=60, ha="right")
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel("Signal over rounding noise, dB")
    axes.set_ylim(min(0.0, *accumulated, *(_shown(one.output_db) for one in layers)), _TOP_DB)
    axes.grid(axis="y", alpha=0.15, color=INK)
    axes.set_title(_title(diagnosis), loc="left", fontsize=10, fontweight="bold")
    axes.legend(loc="best", fontsize=8)
    return figure


def _shown(decibels: float) -> float:
    return max(min(decibels, _TOP_DB), -10.0)


def _title(diagnosis: QuantizationDiagnosis) -> str:
    return f"Error by layer, {diagnosis.scheme}: {_db(diagnosis.output_db)} dB at the output"


DIAGNOSIS = Look("quantization-diagnosis", _table, _figure, _words)


@dataclasses.dataclass(frozen=True)
class _Tile:
    label: str
    value: str
    detail: str


def diagnosis_html(diagnosis: QuantizationDiagnosis) -> str:
    """Return a diagnosis as one self-contained HTML page: findings, plot, all numbers, examples."""
    table, *_ = _table(diagnosis, rows=None).renderables  # type: ignore[union-attr]
    return (
        environment()
        .get_template("diagnosis.html")
        .render(
            diagnosis=diagnosis,
            headline=_words(diagnosis),
            tiles=_tiles(diagnosis),
            plot=Markup(DIAGNOSIS.svg(diagnosis)),
            layers=html_of(table),
            examples=html_of(_examples(diagnosis.worst)),
        )
    )


def _tiles(diagnosis: QuantizationDiagnosis) -> list[_Tile]:
    tiles = [_Tile("Outputs", f"{_db(diagnosis.output_db)} dB", "signal over rounding noise, all layers rounded")]
    if diagnosis.agreement is not None:
        detail = f"of {diagnosis.examples} examples get the same answer"
        tiles.append(_Tile("Agreement", formats.agreement(diagnosis.agreement), detail))
    tiles.append(_Tile("Operators", str(len(diagnosis.layers)), f"{len(diagnosis.left)} layers stay in float"))
    return tiles
