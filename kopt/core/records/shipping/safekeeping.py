"""What is known of a file after it was checked again, and of its copies: frozen, serialisable."""

import dataclasses

from kopt.core.records.artifacts import Artifact, FileHash
from kopt.core.serialization import Record
from kopt.core.settings import choice

VERDICTS = ("ok", "failed", "absent")
COPY_STATES = ("good", "damaged", "none")


@dataclasses.dataclass(frozen=True)
class Verdict(Record):
    """One thing that was checked.

    Attributes:
        checked: what was looked at.
        against: what it was held against.
        status: `"ok"`, `"failed"`, or `"absent"` where there is nothing to hold it against.
        found: in words.
    """

    checked: str
    against: str
    status: str
    found: str

    def __post_init__(self) -> None:
        choice("status", self.status, VERDICTS)


@dataclasses.dataclass(frozen=True)
class Verification(Record):
    """A file held against its manifest and the reference beside it.

    Attributes:
        verdicts: in the order in which they were reached; the checks that run the file come only after its hash fits.
        artifact: what the manifest says; `None` if it cannot be read.
    """

    path: str
    verdicts: tuple[Verdict, ...]
    artifact: Artifact | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(verdict.status != "failed" for verdict in self.verdicts)


@dataclasses.dataclass(frozen=True)
class CopyContent(Record):
    """What a copy in a backup consists of; written after everything else.

    Attributes:
        name: of the file or directory that was copied.
        sha256: of its content, as its manifest has it.
        files: of the copy, with manifest and reference.
    """

    name: str
    sha256: str
    files: tuple[FileHash, ...]


@dataclasses.dataclass(frozen=True)
class BackupCopy(Record):
    """A copy as it was found.

    Attributes:
        place: directory or URL.
        name: of the file or directory that was copied.
        copy: its own name, which begins with a number that grows; empty where there is none.
        status: `"good"`, `"damaged"`, or `"none"` of a place without any.
        found: what is wrong with it, in words; empty if nothing is.
        sha256: of the content it should have; empty if that is not known.
    """

    place: str
    name: str
    copy: str
    status: str
    found: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        choice("status", self.status, COPY_STATES)


@dataclasses.dataclass(frozen=True)
class BackupReport(Record):
    """Copies in all places, the newest of each place first.

    Attributes:
        copies: after the work was done.
        written: how many were made.
        removed: how many older ones went.
    """

    copies: tuple[BackupCopy, ...]
    written: int = 0
    removed: int = 0

    @property
    def damaged(self) -> tuple[BackupCopy, ...]:
        """The copies that are not what was written."""
        return tuple(copy for copy in self.copies if copy.status == "damaged")
