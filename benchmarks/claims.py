"""What a benchmark prints: one JSON object with both sides of every ratio, and whether the claims hold."""

import dataclasses
import json
import os
import sys

from kopt.core.environment import machine


@dataclasses.dataclass(frozen=True)
class Claim:
    """A measured value and the bound it is held against.

    Attributes:
        what: in words, e.g. `"model.predict over LiteRT int8"`.
        value: the measured ratio (or seconds, or points, if `unit` says so).
        bound: what it may at most be, or, with `above`, must exceed.
        above: whether the bound is a lower one.
        unit: of value and bound; empty for a ratio.
    """

    what: str
    value: float
    bound: float
    above: bool = False
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether the value is on the right side of the bound; never for NaN."""
        return self.value > self.bound if self.above else self.value <= self.bound

    @property
    def bound_text(self) -> str:
        """The bound as `> 150` or `<= 0.5 s`."""
        return f"{'>' if self.above else '<='} {self.bound:g} {self.unit}".strip()


def publish(name: str, what: str, numbers: dict[str, object], claims: list[Claim]) -> int:
    """Print the result as one JSON object on standard output.

    Args:
        name: of the script.
        what: how it was measured, in a sentence.
        numbers: everything measured, both sides of each ratio among it, with units in the keys.
        claims: at least one.

    Returns:
        The exit code: 0 if all claims hold, 1 if one does not.
    """
    holds = all(claim.holds for claim in claims)
    result = {
        "name": name,
        "what": what,
        "numbers": numbers,
        "ratio": {claim.what: round(claim.value, 4) for claim in claims},
        "bound": {claim.what: claim.bound_text for claim in claims},
        "holds": holds,
        "failing": [claim.what for claim in claims if not claim.holds],
        "load_average": round(os.getloadavg()[0], 2),
        "machine": machine().to_dict(),
    }
    json.dump(result, sys.stdout, indent=2)
    print()
    return 0 if holds else 1
