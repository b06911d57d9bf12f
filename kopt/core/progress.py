"""How long work tells the caller where it stands."""

from typing import Protocol


class Progress(Protocol):
    """Receives the steps of long work; the renderings are in `kopt.report`."""

    def start(self, total: int) -> None:
        """Announce the number of steps."""

    def step(self, description: str) -> None:
        """Announce that the step called `description` begins; the one before it is done."""

    def finish(self) -> None:
        """Announce that all steps are done, or that the work stopped."""


def announce_more(progress: Progress, count: int) -> None:
    """Announce steps that were not foreseen to a display that takes them; others go on as they are."""
    more = getattr(progress, "more", None)
    if more is not None:
        more(count)


class Silent:
    """Says nothing."""

    def start(self, total: int) -> None:
        """Ignore."""

    def step(self, description: str) -> None:
        """Ignore."""

    def finish(self) -> None:
        """Ignore."""
