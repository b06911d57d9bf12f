"""How many bits the weights of each layer get, as a table and a plot."""

from matplotlib.figure import Figure
from rich.console import RenderableType

from kopt.core.records.changes.bits import BitsPlan, LayerBits
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import draw_bars
from kopt.report.parts.columns import Column
from kopt.report.parts.paths import PathTable
from kopt.report.parts.row_choice import first_rows
from kopt.report.parts.time_parts import BLUE

_MOST_BARS = 25


def _table(plan: BitsPlan, rows: int | None = 20) -> RenderableType:
    shown, hidden = first_rows(plan.layers, rows, "layers")
    columns = (
        Column[LayerBits]("Layer", lambda one: one.layer, is_number=False),
        Column[LayerBits]("Type", lambda one: one.type, 3, is_number=False),
        Column[LayerBits]("Weights", lambda one: formats.count(one.weights)),
        Column[LayerBits]("Bits", lambda one: str(one.bits)),
        Column[LayerBits]("Noise with 4", lambda one: f"{one.noise[0]:.1e}", 1),
        Column[LayerBits]("with 8", lambda one: f"{one.noise[1]:.1e}", 2),
    )
    return PathTable(f"{plan.model}: bits of weights", shown, columns, caption=[_words(plan), *hidden])


def _figure(plan: BitsPlan) -> Figure:
    layers = plan.layers[:_MOST_BARS]
    figure = Figure(figsize=(8.6, 1.2 + 0.3 * len(layers)), layout="constrained")
    bits = [float(one.bits) for one in layers]
    texts = [str(one.bits) for one in layers]
    draw_bars(figure.add_subplot(), [one.layer for one in layers], bits, texts, [BLUE] * len(layers))
    figure.suptitle("Bits of a weight", x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _words(plan: BitsPlan) -> str:
    narrow = sum(one.bits == 4 for one in plan.layers)
    return (
        f"{narrow} of {len(plan.layers)} layers get 4 bits: {formats.size(plan.size_bytes)} of kernels, "
        f"{formats.size(plan.budget_bytes)} allowed. Untrained, the outputs have {formats.number(plan.output_db)} dB; "
        f"with 8 bits everywhere {formats.number(plan.widest_db)}, with 4 {formats.number(plan.narrowest_db)}."
    )


BITS = Look("bits", _table, _figure, _words)
