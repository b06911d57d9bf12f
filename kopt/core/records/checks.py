"""One thing that was checked about an installation."""

import dataclasses

from kopt.core.errors import ConfigError
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class Check(Record):
    """One line of what an installation has and lacks.

    Attributes:
        status: `"ok"`, `"missing"` (a feature is off) or `"warning"` (it works, but not well).
        found: version or fact, in words.
        remedy: what to do about it, e.g. a pip command; empty if nothing is to be done.
    """

    name: str
    status: str
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.status not in ("ok", "missing", "warning"):
            raise ConfigError(f"`status` must be ok, missing or warning. Received: {self.status!r}.")
