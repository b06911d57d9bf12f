"""How long work shows where it stands: always on standard error, so that standard output stays data."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from kopt.core.progress import Progress, Silent
from kopt.report.parts.formats import duration


def make_progress(console: Console | None = None, *, quiet: bool = False) -> Progress:
    """Return the progress display that suits the console: a bar on a terminal, else a line a step.

    Args:
        console: where to show it; standard error by default.
        quiet: say nothing, for `--json` and `--quiet`.

    Example:
        >>> progress = kopt.report.make_progress(quiet=True)
        >>> found = kopt.profile.parameters(model, progress=progress)
        >>> found.parameters
        2722
    """
    if quiet:
        return Silent()
    console = console or Console(stderr=True)
    return BarProgress(console) if console.is_terminal else LineProgress(console)


class BarProgress:
    """A bar with the current step, the count and the time."""

    def __init__(self, console: Console):
        # One redraw a second and no capture of the standard streams: kopt measures latency while this is on screen.
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=1,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=None)
        self._total = self._begun = 0

    def start(self, total: int) -> None:
        """Show the bar."""
        self._total, self._begun = total, 0
        self._bar.reset(self._task, total=total)
        self._bar.start()

    def more(self, count: int) -> None:
        """Make the bar longer."""
        self._total += count
        self._bar.update(self._task, total=self._total)

    def step(self, description: str) -> None:
        """Show `description` and count the step before it as done."""
        self._begun += 1
        self._bar.update(self._task, description=description, completed=self._begun - 1, refresh=True)

    def finish(self) -> None:
        """Leave the bar as it stands; full only if every step began and no exception ended the last."""
        if self._begun >= self._total and sys.exc_info()[0] is None:
            self._bar.update(self._task, completed=self._total)
        self._bar.stop()


class LineProgress:
    """A line a step, for logs and pipes."""

    def __init__(self, console: Console):
        self._console = console
        self._total = self._begun = 0
        self._started = 0.0

    def start(self, total: int) -> None:
        """Begin to count."""
        self._total, self._begun, self._started = total, 0, time.monotonic()

    def more(self, count: int) -> None:
        """Count so many steps more."""
        self._total += count

    def step(self, description: str) -> None:
        """Print the step with its number."""
        self._begun += 1
        self._print(f"[{self._begun}/{self._total}] {description}")

    def finish(self) -> None:
        """Print how many steps are done and how long they took; the last one is not if an exception ends it."""
        done = max(self._begun - (sys.exc_info()[0] is not None), 0)
        self._print(f"{done} of {self._total} steps in {duration(time.monotonic() - self._started)}")

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)
