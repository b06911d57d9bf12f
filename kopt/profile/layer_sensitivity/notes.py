"""What to know before the measured numbers are used."""

import math
from collections.abc import Sequence

from kopt.core.records.profiles.sensitivity import LayerSensitivity

_FEW = 100


def notes_of(layers: Sequence[LayerSensitivity], examples: int, groups: int) -> list[str]:
    """Return remarks on how far the measured changes can be told from chance, and on how they were measured."""
    notes = []
    effects = [effect for layer in layers for effect in layer.effects]
    unclear = [one for one in effects if abs(one.loss_change) < one.loss_error]
    if 2 * len(unclear) > len(effects):
        notes.append(
            f"Of {len(effects)} changes of the loss, {len(unclear)} are smaller than their standard error: with "
            f"{examples:,} examples these layers are not told apart. Use more examples or stronger perturbations."
        )
    elif examples < _FEW:
        notes.append(f"Only {examples} examples: the order of layers with similar effects is chance.")
    broken = sum(1 for one in effects if not math.isfinite(one.loss_change))
    if broken:
        notes.append(f"{broken} perturbations made the loss NaN or infinite; they count as the worst.")
    if groups > 1:
        notes.append(f"The layers were measured in {groups} groups, because of `cache_bytes`; each read the data once.")
    return notes
