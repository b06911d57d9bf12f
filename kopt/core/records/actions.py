"""What a transform did to each layer."""

import dataclasses

from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class LayerAction(Record):
    """What a transform did to one layer, or why it did nothing."""

    layer: str
    type: str
    detail: str


@dataclasses.dataclass(frozen=True)
class TransformReport(Record):
    """What a transform did and what it left as it was, with the reason."""

    transform: str
    applied: tuple[LayerAction, ...]
    skipped: tuple[LayerAction, ...]
