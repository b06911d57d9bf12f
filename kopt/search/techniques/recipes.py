"""Whether the steps of a recipe can follow each other. Records in, words out."""

from kopt.core.records.candidates import ExportConfig
from kopt.core.records.search.recipes import Recipe, ship_name
from kopt.core.records.search.techniques import AwareConfig, PostTrainingConfig, Step
from kopt.search.techniques.catalog import CATALOG, Technique, row_of


def why_illegal(recipe: Recipe) -> str:
    """Return why a recipe makes no sense, in a sentence; empty if it is legal.

    Steps may follow each other as the `then` of their rows say, every one of them with all behind it, and what was
    rounded for one numeric scheme ships in that scheme alone.
    """
    rows = [row_of(step.technique) for step in recipe.steps]
    for place, before in enumerate(rows):
        for later in rows[place + 1 :]:
            if later.stage not in before.then:
                return (
                    f"{later.name!r} ({later.stage}) may not come after {before.name!r} ({before.stage}), which only "
                    f"{' and '.join(before.then)} may follow."
                )
    for step, row in zip(recipe.steps, rows, strict=True):
        if reason := _why_not_shipped(step, row, recipe.export):
            return reason
    return ""


def needs(steps: tuple[Step, ...]) -> frozenset[str]:
    """Return what the steps need beside the model, of `catalog.NEEDS`."""
    return frozenset(need for step in steps for need in row_of(step.technique).needs)


def way_of(recipe: Recipe) -> Technique:
    """Return the row of the way in which a recipe ships."""
    return CATALOG[_way_name(recipe.export)]


def _way_name(export: ExportConfig) -> str:
    return ship_name(ExportConfig(export.format, export.scheme))


def _why_not_shipped(step: Step, row: Technique, export: ExportConfig) -> str:
    name = _way_name(export)
    if name not in row.pays_on:
        return f"{row.name!r} does not show in {name!r}; it pays on {', '.join(row.pays_on)}."
    config = step.config
    if isinstance(config, AwareConfig | PostTrainingConfig) and export.scheme != config.scheme:
        return f"{row.name!r} was made for {config.scheme}, and {name!r} is {export.scheme}."
    return ""
