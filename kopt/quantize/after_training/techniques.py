"""What a technique says of itself when it was applied."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Done:
    """What a technique did.

    Attributes:
        layers: how many it changed; 0: there was nothing for it to do.
        note: what it did, or why nothing.
    """

    layers: int
    note: str
