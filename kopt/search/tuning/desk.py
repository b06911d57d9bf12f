"""One trial: a recipe becomes a file, the file is judged, and what came of it is written down."""

import contextlib
import dataclasses
import fcntl
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

from kopt.core.errors import ConfigError
from kopt.core.files import writing_to
from kopt.core.records.candidates import Candidate, ExportConfig
from kopt.core.records.search.budget import COSTS, QUANTITY_OF, Budget
from kopt.core.records.search.quantities import value_of
from kopt.core.records.search.recipes import Recipe
from kopt.search.judging.evidence import baseline_evaluation, judged
from kopt.search.judging.examining import BASELINE
from kopt.search.judging.files import baseline_of
from kopt.search.judging.ranking import rank
from kopt.search.searching import Search
from kopt.search.trials.bench import Bench
from kopt.search.trials.limits import TargetReached
from kopt.search.tuning import outcomes, scores

# Known of a file without running it.
_WITHOUT_RUNNING = ("size_bytes", "gzip_bytes")


class Desk:
    """Runs trials in this process; models are made in child processes of it.

    Args:
        search: prepared.
        place: of outcomes.
        worker: name of this process.
        bench: where recipes are tried; one of its own by default.

    Attributes:
        ended: why no more trials should begin; empty as long as they should.
    """

    def __init__(self, search: Search, place: Path, worker: str, bench: Bench | None = None):
        self._search, self._place, self._worker = search, place, worker
        self._files, self._budget = search.files, search.given.budget
        self._given = baseline_evaluation(self._files.examiner, self._files.trials, self._budget)
        self._bench = bench or search.bench(self._given)
        self.ended = ""

    def work(self, number: int, recipe: Recipe, why: str) -> dict[str, float]:
        """Make and judge the file of a recipe, note what came of it, and return the metrics of the trial.

        Raises:
            RunEnded: the time of the run was used up in the middle of it; the trial is not over.
        """
        started = time.monotonic()
        with alone(self._search.workdir / "locks", recipe):
            noted = len(self._bench.decisions)
            try:
                candidate = self._bench.attempt(recipe, why)
            except TargetReached as reached:
                candidate, self.ended = self._bench.candidates[-1], str(reached)
            outcome = self._outcome(number, recipe, candidate)
            if candidate is None and len(self._bench.decisions) > noted:
                outcome = dataclasses.replace(outcome, reason=self._bench.decisions[-1].reason)
        outcome = dataclasses.replace(outcome, seconds=time.monotonic() - started, ended=self.ended)
        outcomes.write(self._place, outcome)
        return outcome.metrics

    def check_measurable(self) -> None:
        """Refuse an objective that the model as given has no number for.

        Raises:
            ConfigError: one cannot be measured here.
        """
        if not needs_running(self._budget):
            return
        measured = self._files.costs.measure_all([])
        baseline = baseline_of(self._given, measured)
        for objective in self._budget.objectives:
            if objective != "size" and value_of(baseline, QUANTITY_OF[objective]) is None:
                raise ConfigError(
                    f"The {objective} of {self._search.given.runner.name} cannot be measured here, so that nothing can "
                    f"be called better: a fresh process cannot open it. Choose another objective, e.g. 'latency'."
                )

    def _outcome(self, number: int, recipe: Recipe, candidate: Candidate | None) -> outcomes.Outcome:
        if candidate is None or candidate.artifact is None:
            status = outcomes.UNCHANGED if candidate is None else outcomes.FAILED
            reason = "A step finds nothing to do." if candidate is None else candidate.reason
            return outcomes.Outcome(number, recipe, status, reason, {scores.SCORE: scores.NO_FILE}, self._worker)
        return outcomes.Outcome(number, recipe, outcomes.OK, "", self._metrics(candidate), self._worker)

    def _metrics(self, candidate: Candidate) -> dict[str, float]:
        candidate = self._files.kept(candidate)
        path, given = self._files.trials.outcomes_path(Recipe.of(candidate)), self._files.trials.outcomes_path()
        candidate = judged(candidate, path, given, self._files.examiner, self._budget)
        baseline = Candidate(BASELINE, ExportConfig("saved_model"), "ok", evaluation=self._given)
        if needs_running(self._budget):
            measured = self._files.costs.measure_all([candidate])
            candidate = dataclasses.replace(candidate, measurement=measured[candidate.name])
            baseline = baseline_of(self._given, measured)
        ranked, _ = rank((candidate,), baseline, self._budget)
        return scores.metrics(ranked[0], baseline, self._budget, self._files.reference_bytes)


def needs_running(budget: Budget) -> bool:
    """Return whether a trial is timed, or what it costs to run is measured: not where only sizes count."""
    return any(budget.needs(quantity) for quantity in COSTS if quantity not in _WITHOUT_RUNNING)


def failure(number: int, recipe: Recipe, reason: str, worker: str) -> outcomes.Outcome:
    """Return the outcome of a trial that nobody could end."""
    return outcomes.Outcome(number, recipe, outcomes.FAILED, reason, {scores.SCORE: scores.NO_FILE}, worker)


@contextlib.contextmanager
def alone(place: Path, recipe: Recipe) -> Iterator[None]:
    """Keep other processes from recipes that begin alike, whose models and files lie in the same directories.

    The system lets go of the lock when its holder dies.
    """
    first = recipe.steps[0].label if recipe.steps else recipe.name
    path = place / hashlib.sha256(first.encode()).hexdigest()[:12]
    with writing_to(path):
        place.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a")  # noqa: SIM115 - closed below, when the block ends
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
