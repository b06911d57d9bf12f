"""Pruning in rounds with training between them: frozen, serialisable."""

import dataclasses

from kopt.core.records.changes.footprint import Footprints
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class PruningRound(Record):
    """One round.

    Attributes:
        number: from 1.
        target: multiply-accumulates or parameters that it had to come down to.
        macs: multiply-accumulates for one example after it.
        parameters: after it.
        pruned: metric on the validation data right after channels went; `None` without such data.
        recovered: the same after training.
        note: what else is to be said, e.g. that nothing had to go; `""` if nothing is.
    """

    number: int
    target: int
    macs: int
    parameters: int
    pruned: float | None = None
    recovered: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class IterativePruningReport(Record):
    """A model before, and after every round.

    Attributes:
        model: name.
        goal: what was asked for, e.g. `"target_macs=0.5"`.
        metric: that rounds were judged by, on the validation data; `"loss"` or the name of a metric.
        macs_before: multiply-accumulates for one example.
        parameters_before: of the given model.
        metric_before: on the validation data; `None` without.
        rounds: in order.
        resumed: how many of the rounds were found finished on disk.
        measured: the model before and after as exported files; `None` until `kopt.prune.measured` adds it.
    """

    model: str
    goal: str
    metric: str
    macs_before: int
    parameters_before: int
    metric_before: float | None
    rounds: tuple[PruningRound, ...]
    resumed: int = 0
    measured: Footprints | None = None

    @property
    def parameters_after(self) -> int:
        """After the last round."""
        return self.rounds[-1].parameters
