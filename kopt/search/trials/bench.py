"""Where recipes are tried: each once, within the limits of the run, with what came of it."""

import dataclasses
import math
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from kopt.core.errors import KoptError
from kopt.core.progress import Progress, announce_more
from kopt.core.records.candidates import Candidate
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.decisions import Decision
from kopt.core.records.search.recipes import Recipe, steps_name
from kopt.core.records.search.techniques import Step
from kopt.search.techniques.catalog import TRAINING
from kopt.search.techniques.recipes import needs, why_illegal
from kopt.search.trials.limits import Limits, RunEnded, TargetReached
from kopt.search.trials.records import Trials
from kopt.search.trials.workshop import Made, NotMade, Workshop


@dataclasses.dataclass(frozen=True)
class Worth:
    """What a model is worth.

    Attributes:
        metric: the guarded one.
        counted: what it loses, as the budget counts it.
    """

    metric: float
    counted: float


class Judge(Protocol):
    """Makes files and judges files and models."""

    def candidate(self, recipe: Recipe, why: str, made: Made | None) -> Candidate:
        """Export a model, `None` for the original, and judge the file."""

    def worth(self, model: Path) -> Worth:
        """Return what a model is worth in Keras."""

    def counted(self, candidate: Candidate) -> float:
        """Return what a file loses, as the budget counts it."""

    def left(self, model: Path) -> float:
        """Return the share of what the original costs that a model has left."""

    def reached(self, candidate: Candidate) -> str:
        """Return that a file is all that was asked for, in a sentence; empty if it is not."""


@dataclasses.dataclass(frozen=True)
class Look:
    """What a model is worth in Keras.

    Attributes:
        steps: that made it.
        drop: metric of the original minus its own; `None` if it could not be made.
        counted: the same as the budget counts it, which is what decides; see `Judge.counted`.
        problem: why it could not.
        seconds: that its steps took.
    """

    steps: tuple[Step, ...]
    drop: float | None
    counted: float | None
    problem: str = ""
    seconds: float = 0.0

    @property
    def loss(self) -> str:
        """What it loses, in words; empty if it could not be made."""
        return "" if self.drop is None or self.counted is None else _loss(self.drop, self.counted)


class Bench:
    """Tries recipes and looks at models.

    Attributes:
        candidates: files that were made or failed, in order.
        decisions: on models of which no file was made, in order.
        remarks: on models that were not made as usual.
    """

    def __init__(
        self,
        judge: Judge,
        trials: Trials,
        workshop: Workshop | None,
        limits: Limits,
        reporter: Progress,
        budget: Budget,
        baseline: float,
        expected: int,
    ):
        """Prepare for the first recipe.

        Args:
            judge: makes and judges.
            trials: what is finished.
            workshop: where models are made; `None` where the layers of the original cannot be changed.
            limits: of the run.
            reporter: is told of every trial.
            budget: says which metric may fall how much.
            baseline: metric of the original.
            expected: trials that the reporter was told of.
        """
        self._judge, self._trials, self._workshop = judge, trials, workshop
        self._limits, self._reporter, self._budget = limits, reporter, budget
        self._baseline, self._expected = baseline, expected
        self._tried: dict[str, Candidate | None] = {}
        self._counted: set[Path] = set()
        self.candidates: list[Candidate] = []
        self.decisions: list[Decision] = []
        self.remarks: list[str] = []

    @property
    def allowed(self) -> float:
        """Drop that is inside the budget."""
        return self._budget.max_drop

    def drop(self, candidate: Candidate | None) -> float | None:
        """Return what a candidate loses of the metric, as the budget counts it; `None` if there is no file."""
        if candidate is None or candidate.evaluation is None:
            return None
        return self._judge.counted(candidate)

    def loss(self, candidate: Candidate | None) -> str:
        """Return what a candidate loses, in words; empty if there is no file."""
        if candidate is None or candidate.evaluation is None:
            return ""
        drop = self._baseline - candidate.evaluation.metrics[self._budget.metric]
        return _loss(drop, self._judge.counted(candidate))

    def attempt(self, recipe: Recipe, why: str = "") -> Candidate | None:
        """Return the candidate that a recipe makes; `None` where its steps find nothing to do.

        Raises:
            RunEnded: the limits are used up.
            TargetReached: the file is all that was asked for.
            ValueError: the recipe is not legal.
        """
        if recipe.name in self._tried:
            return self._tried[recipe.name]
        if problem := why_illegal(recipe):
            raise ValueError(f"{recipe.name}: {problem}")
        self._limits.begin(counts=bool(recipe.steps))
        self._announce()
        known = self._trials.finished(recipe)
        self._reporter.step(f"{recipe.name}: {'kept from an earlier run' if known else _doing(recipe)}")
        if known:
            self._limits.charge(known.seconds)
            self._count(recipe.steps)
        candidate = known or self._new(recipe, why)
        self._tried[recipe.name] = candidate
        if candidate is not None:
            self.candidates.append(candidate)
            if reached := self._judge.reached(candidate):
                raise TargetReached(reached)
        return candidate

    def look(self, steps: tuple[Step, ...], known: Collection[str] = ()) -> Look:
        """Return what a model is worth in Keras, before any file is made of it.

        Args:
            steps: that make it.
            known: fingerprints of models of which nothing new is to be made.

        Raises:
            RunEnded: the limits are used up.
        """
        self._limits.begin()
        self._announce()
        self._reporter.step(f"{steps_name(steps)}: make and look")
        made = self._made(steps, known)
        if isinstance(made, NotMade):
            return Look(steps, None, None, made.reason)
        try:
            worth = self._judge.worth(made.path)
        except KoptError as error:  # a model that cannot be run is one that is out, not the end of the search
            return Look(steps, None, None, str(error), made.seconds)
        if math.isnan(worth.metric):
            return Look(steps, None, None, f"its {self._budget.metric} is not a number", made.seconds)
        return Look(steps, self._baseline - worth.metric, worth.counted, seconds=made.seconds)

    def overrun(self) -> None:
        """Go on without limits."""
        self._limits = Limits()

    def fingerprint(self, steps: tuple[Step, ...]) -> str | None:
        """Return the hash of what the model of these steps computes; `None` if it was not made."""
        assert self._workshop is not None
        made = self._workshop.finished(steps)
        return None if made is None else made.record.fingerprint

    def left(self, steps: tuple[Step, ...]) -> float:
        """Return the share of what the original costs that the model of these steps, which is made, has left."""
        assert self._workshop is not None
        return self._judge.left(self._workshop.path(steps))

    def files(self, steps: tuple[Step, ...]) -> list[Candidate]:
        """Return the files that were made of the model of these steps."""
        return [one for one in self.candidates if one.steps == steps and one.artifact is not None]

    def decide(self, look: Look, why: str, *, kept: bool, reason: str) -> None:
        """Note what becomes of a model that was looked at."""
        metric = None if look.drop is None else self._baseline - look.drop
        self.decisions.append(Decision(steps_name(look.steps), why, metric, look.drop, kept, reason, look.seconds))

    def _announce(self) -> None:
        """Tell the display of a trial beyond those that it was told of."""
        self._expected -= 1
        if self._expected < 0:
            announce_more(self._reporter, 1)

    def _new(self, recipe: Recipe, why: str) -> Candidate | None:
        self._trials.start(recipe)
        if not recipe.steps:
            return self._judge.candidate(recipe, why, None)
        made = self._made(recipe.steps)
        if isinstance(made, NotMade):
            self._trials.log(recipe, made.reason)
            return Candidate(recipe.name, recipe.export, "failed", reason=made.reason, steps=recipe.steps, why=why)
        self._trials.log(recipe, made.record.summary)
        if not made.record.changed:
            look = Look(recipe.steps, None, None, seconds=made.seconds)
            self.decide(look, why, kept=False, reason=made.record.summary)
            return None
        return self._judge.candidate(recipe, why, made)

    def _made(self, steps: tuple[Step, ...], known: Collection[str] = ()) -> Made | NotMade:
        assert self._workshop is not None
        self._count(steps)
        made = self._workshop.make(steps, self._limits.seconds_left(), known)
        if isinstance(made, NotMade) and made.out_of_time:
            raise RunEnded("The time that `seconds` allows was used up in the middle of a training.")
        self._counted.update(self._workshop.path(steps[:count]) for count in range(1, len(steps) + 1))
        if isinstance(made, Made):
            self._remark(steps, made)
        return made

    def _count(self, steps: tuple[Step, ...]) -> None:
        """Count the seconds of models that an earlier run made, each once, and repeat what was remarked then."""
        for count in range(1, len(steps) + 1):
            there = self._workshop.finished(steps[:count]) if self._workshop else None
            if there is not None and there.path not in self._counted:
                self._limits.charge(there.record.seconds)
                self._counted.add(there.path)
            if there is not None and count == len(steps):
                self._remark(steps, there)

    def _remark(self, steps: tuple[Step, ...], made: Made) -> None:
        remark = f"{steps_name(steps)} was {made.record.remark}."
        if made.record.remark and remark not in self.remarks:
            self.remarks.append(remark)


def _loss(drop: float, counted: float) -> str:
    by = "" if math.isclose(counted, drop, abs_tol=1e-6) else f", which counts as {counted:.4f},"
    return f"loses {drop:.4f}{by}"


def _doing(recipe: Recipe) -> str:
    made = "train, " if TRAINING in needs(recipe.steps) else "change, " if recipe.steps else ""
    return f"{made}export, verify, evaluate"
