"""The layers of a model with their costs: a table for the terminal, bars for a page."""

from collections.abc import Callable

from matplotlib.figure import Figure
from rich.console import RenderableType

from kopt.core.errors import ConfigError, InputError, nearest
from kopt.core.records.profiles.cost import LayerCost, ModelProfile
from kopt.core.records.training.finders import MemoryEstimate
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import draw_bars
from kopt.report.parts.columns import Column
from kopt.report.parts.paths import PathTable
from kopt.report.parts.row_choice import chosen_rows, more_rows

_MOST_LAYERS, _NAMED = 20, 5
_PARAMETERS, _MACS = "#0072b2", "#e69f00"
_ORDERS: dict[str, Callable[[LayerCost], float]] = {
    "order": lambda layer: 0,
    "macs": lambda layer: -(layer.macs or 0),
    "flops": lambda layer: -(layer.flops or 0),
    "parameters": lambda layer: -layer.parameters,
    "activations": lambda layer: -(layer.activation_bytes or 0),
}


def hidden_layers(profile: ModelProfile) -> int:
    """Return how many layers with a cost the plot leaves out."""
    return max(0, sum(map(_has_cost, profile.layers)) - _MOST_LAYERS)


def check_sort(sort: str) -> None:
    """Make sure that costs can be sorted by this.

    Raises:
        ConfigError: they cannot.

    Example:
        >>> kopt.report.check_sort("macs")
        >>> kopt.report.check_sort("weight")
        Traceback (most recent call last):
            ...
        kopt.core.errors.ConfigError: Unknown `sort` 'weight'. Accepted: order, macs, flops, parameters, activations.
    """
    if sort not in _ORDERS:
        raise ConfigError(f"Unknown `sort` {sort!r}.{nearest(sort, _ORDERS)} Accepted: {', '.join(_ORDERS)}.")


def _table(profile: ModelProfile, rows: int | None = None, sort: str = "order") -> RenderableType:
    """Return what every layer costs, with its shares; `rows` limits them, `sort` puts the largest first."""
    shown, others = chosen_rows(profile.layers, _ORDERS, sort, rows)
    total, macs = max(profile.parameters, 1), max(profile.macs, 1)
    columns = (
        Column[LayerCost]("Layer", lambda layer: layer.name, is_number=False),
        Column[LayerCost]("Type", lambda layer: layer.type, 3, is_number=False),
        Column[LayerCost]("Output", lambda layer: formats.shape(layer.output_shape), 4),
        # What is sorted by stays, however narrow the console.
        Column[LayerCost](
            "Activations", lambda layer: formats.size(layer.activation_bytes), 0 if sort == "activations" else 5
        ),
        Column[LayerCost]("FLOPs", lambda layer: formats.count(layer.flops), 0 if sort == "flops" else 6),
        Column[LayerCost]("Parameters", lambda layer: f"{layer.parameters:,}"),
        Column[LayerCost]("", lambda layer: _part(layer.parameters, total), 2),
        Column[LayerCost]("MACs", lambda layer: "?" if layer.macs is None else f"{layer.macs:,}"),
        Column[LayerCost]("", lambda layer: _part(layer.macs, macs), 1),
    )
    return PathTable(profile.model, shown, columns, caption=_caption(profile, len(others)))


def _caption(profile: ModelProfile, left_out: int) -> list[str]:
    caption = more_rows(left_out, "layers")
    caption.append(
        f"{profile.parameters:,} parameters ({profile.trainable_parameters:,} trainable, "
        f"{formats.size(profile.weight_bytes)}), {profile.macs:,} multiply-accumulates and "
        f"{formats.count(profile.flops)} floating-point operations for one example."
    )
    if profile.peak_activation_bytes is not None:
        at = f", at {profile.peak_layer}" if profile.peak_layer else ""
        caption.append(f"A forward pass keeps at most {formats.size(profile.peak_activation_bytes)} an example{at}.")
    if profile.training is not None:
        caption.append(_training(profile.training))
    if profile.unknown:
        caption.append(f"?: no formula for {len(profile.unknown)} layer(s); their work is not in the total.")
        caption += [f"  {name}: {reason}" for name, reason in _reasons(profile).items()]
    return caption


def _training(memory: MemoryEstimate) -> str:
    return (
        f"A training step of {memory.batch_size} takes about {formats.size(memory.total_bytes)}: weights "
        f"{formats.size(memory.weights_bytes)}, optimizer {formats.size(memory.optimizer_bytes)}, batch, activations "
        f"and gradients {formats.size(memory.step_bytes)} at the peak."
    )


def _reasons(profile: ModelProfile, most: int = 5) -> dict[str, str]:
    return {layer.name: layer.reason for layer in profile.unknown[:most] if layer.reason}


def _figure(profile: ModelProfile) -> Figure:
    layers = _largest(profile)
    if not layers:
        raise InputError(
            f"No layer of {profile.model} has parameters or multiply-accumulates: there is nothing to plot."
        )
    names = [layer.name for layer in layers]
    figure = Figure(figsize=(8.6, 0.8 + 0.27 * len(layers)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    parameters = [layer.parameters for layer in layers]
    draw_bars(left, names, parameters, [formats.count(value) for value in parameters], [_PARAMETERS] * len(names))
    macs = [layer.macs or 0 for layer in layers]
    draw_bars(right, names, macs, [formats.count(layer.macs) for layer in layers], [_MACS] * len(names))
    left.set_title("Parameters", loc="left", fontsize=10, fontweight="bold")
    right.set_title("Multiply-accumulates an example", loc="left", fontsize=10, fontweight="bold")
    right.tick_params(left=False, labelleft=False)
    return figure


def _has_cost(layer: LayerCost) -> bool:
    return bool(layer.parameters or layer.macs)


def _largest(profile: ModelProfile) -> list[LayerCost]:
    """Return the layers that take the largest share of parameters or arithmetic, in the order of the model."""
    parameters, macs = max(profile.parameters, 1), max(profile.macs, 1)
    costly = [layer for layer in profile.layers if _has_cost(layer)]
    ranked = sorted(costly, key=lambda layer: -max(layer.parameters / parameters, (layer.macs or 0) / macs))
    kept = {id(layer) for layer in ranked[:_MOST_LAYERS]}
    return [layer for layer in costly if id(layer) in kept]


def _words(profile: ModelProfile) -> str:
    costly = sorted(_largest(profile), key=lambda layer: -(layer.macs or 0))[:_NAMED]
    most = ", ".join(f"{layer.name} {_part(layer.macs, max(profile.macs, 1)) or '?'}" for layer in costly)
    return (
        f"{profile.model} has {formats.count(profile.parameters)} parameters and takes {formats.count(profile.macs)} "
        f"multiply-accumulates an example; most in {most or 'no layer'}."
    )


def _part(value: int | None, total: int) -> str:
    return "" if not value else formats.share(value / total)


COSTS = Look("layers", _table, _figure, _words)
"""How the costs of a model are shown; `.table()` and `.plot()` of `kopt.profile.model` do it.

Example:
    >>> costs = kopt.profile.model(model)
    >>> print(kopt.report.COSTS.text(costs, 80, rows=1, sort="macs"))
    digits
    Layer  Type           Output  Activations  Parameters         MACs
    ───────────────────────────────────────────────────────────────────────
    conv2  Conv2D  (?, 3, 3, 16)    576 bytes       1,168  43%  10,368  63%
    ...
"""
