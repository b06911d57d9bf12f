"""What a search found out on the way: frozen, serialisable."""

import dataclasses

from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class Decision(Record):
    """What became of a model that was looked at before any file was made of it.

    Attributes:
        name: of its steps, e.g. `"channels-0.35+recover-1"`.
        why: what spoke for trying it.
        metric: of the model in Keras, on what the files are judged on; `None` if it could not be made.
        drop: metric of the original minus `metric`; likewise.
        kept: whether the search went on with it.
        reason: why, or why not.
        seconds: that making it took.
    """

    name: str
    why: str
    metric: float | None
    drop: float | None
    kept: bool
    reason: str
    seconds: float = 0.0
