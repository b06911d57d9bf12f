"""All that is known of a model, as one table after the other and as one HTML file that needs no network."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.errors import InputError
from kopt.core.records.profiles.full import FullProfile
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.html_tables import html_of
from kopt.report.parts.templating import environment
from kopt.report.profiles.costs import COSTS
from kopt.report.profiles.gradients import GRADIENTS
from kopt.report.profiles.parameters import PARAMETERS
from kopt.report.profiles.roofline import ROOFLINE
from kopt.report.profiles.sensitivity import SENSITIVITY
from kopt.report.profiles.timeline import TIMELINE
from kopt.report.profiles.times import LAYER_TIMES, OPS

# Title, field of the record, look.
_SECTIONS: tuple[tuple[str, str, Look], ...] = (
    ("Cost of the layers", "cost", COSTS),
    ("Roofline", "roofline", ROOFLINE),
    ("Parameters", "parameters", PARAMETERS),
    ("Time by layer", "layer_times", LAYER_TIMES),
    ("Time by operation", "operations", OPS),
    ("Timeline of a step", "operations", TIMELINE),
    ("Gradients", "gradients", GRADIENTS),
    ("Sensitivity", "sensitivity", SENSITIVITY),
)
_ALL = 1_000_000  # rows; not every table takes `None`


@dataclasses.dataclass(frozen=True)
class _Section:
    id: str
    title: str
    words: str
    plot: Markup | None
    tables: Markup


@dataclasses.dataclass(frozen=True)
class _Tile:
    label: str
    value: str
    detail: str


def full_profile_table(profile: FullProfile, rows: int | None = 20, sort: str = "order") -> RenderableType:
    """Return every part that there is, one below the other, and what is missing.

    Args:
        profile: what to show.
        rows: of each table; `None` for all.
        sort: of the costs: `"order"`, `"macs"`, `"flops"`, `"parameters"` or `"activations"`.

    Example:
        >>> from rich.console import Console
        >>> found = kopt.profile.full(model, parts=["cost"])
        >>> Console(width=80).print(kopt.report.full_profile_table(found, rows=1))
        Cost of the layers
        ...
        digits: 2.72 K parameters, 16.4 K multiply-accumulates.
    """
    parts: list[RenderableType] = []
    for title, record, look in _present(profile):
        options: dict[str, Any] = {"rows": rows, "sort": sort} if look is COSTS else {"rows": rows}
        parts += [Text(f"{title}\n", style="bold underline"), look.table(record, **options), Text()]
    parts += [Text(f"Left out: {part}. {reason}") for part, reason in profile.skipped.items()]
    return Group(*parts, Text(profile_headline(profile)))


def profile_headline(profile: FullProfile) -> str:
    """Return the findings in a few short sentences."""
    cost = profile.cost
    found = [
        f"{profile.model}: {formats.count(cost.parameters)} parameters, {formats.count(cost.macs)} multiply-accumulates"
    ]
    if profile.roofline is not None:
        found.append(f"{formats.share(profile.roofline.share('memory'))} of the least time is memory-bound")
    if profile.gradients is not None:
        kinds = {verdict.kind for verdict in profile.gradients.verdicts if verdict.kind != "frozen"}
        found.append(f"gradients: {', '.join(sorted(kinds)) or 'nothing is wrong'}")
    if profile.sensitivity is not None and profile.sensitivity.layers:
        worst = max(profile.sensitivity.layers, key=lambda layer: max(one.loss_change for one in layer.effects))
        found.append(f"{worst.layer} matters most")
    return f"{'; '.join(found)}."


def profile_html(profile: FullProfile) -> str:
    """Return the profile as one self-contained HTML page: plots, all numbers, and what is missing.

    Example:
        >>> page = kopt.report.profile_html(kopt.profile.full(model, parts=["cost"]))
        >>> page.startswith("<!DOCTYPE html>"), "conv2" in page
        (True, True)
    """
    sections = [
        _Section(f"part-{look.name}", title, look.words(record), _plot(look, record), html_of(_whole(look, record)))
        for title, record, look in _present(profile)
    ]
    template = environment().get_template("profile.html")
    return template.render(
        name=profile.model,
        headline=profile_headline(profile),
        notes=[f"Made in {formats.duration(profile.seconds)}."],
        tiles=_tiles(profile),
        sections=sections,
        skipped=profile.skipped,
        machine=profile.machine,
    )


def _present(profile: FullProfile) -> Iterator[tuple[str, Any, Look]]:
    for title, field, look in _SECTIONS:
        record = getattr(profile, field)
        if record is not None:
            yield title, record, look


def _whole(look: Look, record: Any) -> RenderableType:
    return look.table(record, rows=_ALL)


def _plot(look: Look, record: Any) -> Markup | None:
    try:
        return Markup(look.svg(record))
    except InputError:  # There is nothing to draw, e.g. no layer with a cost.
        return None


def _tiles(profile: FullProfile) -> list[_Tile]:
    cost = profile.cost
    tiles = [
        _Tile("Parameters", formats.count(cost.parameters), f"{formats.size(cost.weight_bytes)} of weights"),
        _Tile("Multiply-accumulates", formats.count(cost.macs), f"{formats.count(cost.flops)} operations an example"),
    ]
    if cost.peak_activation_bytes is not None:
        detail = f"an example, at {cost.peak_layer}" if cost.peak_layer else "an example"
        tiles.append(_Tile("Peak of activations", formats.size(cost.peak_activation_bytes), detail))
    if profile.layer_times is not None:
        times = profile.layer_times
        what = f"a {times.step} step of {times.batch_examples} examples"
        tiles.append(_Tile("Step", f"{formats.number(times.plain_step_ms)} ms", what))
    return tiles
