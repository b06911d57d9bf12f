"""One search in a work directory: try recipes, measure all files together, choose, and judge the chosen one."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kopt.core.files import staging
from kopt.core.progress import Progress
from kopt.core.records.candidates import Candidate, ExportConfig
from kopt.core.records.measurements import Evaluation
from kopt.core.records.profiles.cost import ModelProfile
from kopt.core.records.search.decisions import Decision
from kopt.core.records.search.judgement import Judgement
from kopt.core.records.search.recipes import Recipe
from kopt.profile import model as profile_model
from kopt.search.given import Given
from kopt.search.judging.costing import Costs, reference_sizes
from kopt.search.judging.evidence import baseline_evaluation, final_judgement
from kopt.search.judging.examining import BASELINE
from kopt.search.judging.examples import num_classes
from kopt.search.judging.files import Files, baseline_of
from kopt.search.judging.ranking import nearest_of, rank, target_reached
from kopt.search.judging.sensing import Sensed, sensed
from kopt.search.lessons import Lessons
from kopt.search.opening import open_workshop
from kopt.search.plan import Plan
from kopt.search.proposing import rounds
from kopt.search.settings import Settings
from kopt.search.streaming import stream
from kopt.search.techniques.catalog import WAYS_TO_SHIP
from kopt.search.trials.bench import Bench
from kopt.search.trials.leftovers import unused
from kopt.search.trials.processes import nursery
from kopt.search.trials.records import Trials
from kopt.search.trials.workshop import Workshop

Course = Callable[[Bench, Plan], tuple[str, tuple[str, ...]]]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        baseline: the model as given.
        candidates: ranked.
        best, nearest: names of the best one, and of the nearest where there is none.
        test: the chosen one on untouched examples; `None` without.
        target_reached: see `OptimizationResult`.
        profile: of the model as given; `None` of a SavedModel.
        identity: hashes of model and data, by which runs are told apart.
        reference: bytes of the model as given, plain and after gzip.
        decisions: on models of which no file was made.
        sensed: how sensitive the layers of the model as given are.
        ended: why it ended.
        notes: what was left out, and what else lies in the directory.
    """

    baseline: Candidate
    candidates: tuple[Candidate, ...]
    best: str | None
    nearest: str | None
    test: Judgement | None
    target_reached: bool | None
    profile: ModelProfile | None
    identity: dict[str, str]
    reference: tuple[int, int]
    decisions: tuple[Decision, ...]
    sensed: Sensed
    ended: str
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Search:
    """A search that is prepared; it has its work directory for itself.

    Attributes:
        given: what it works with.
        workdir: its directory.
        plan: what may be done, now that it is known whether models can be changed.
        workshop: where they are; `None` if they cannot.
        identity: hashes of model and data.
        files: makes and judges files.
        reporter: is told of every step.
        loss: of the labels, serialized; `None` where nothing is trained.
    """

    given: Given
    workdir: Path
    plan: Plan
    workshop: Workshop | None
    identity: dict[str, str]
    files: Files
    reporter: Progress
    loss: Any

    def run(self, course: Course = rounds.run, expected: int | None = None) -> Found:
        """Try recipes until the end, and choose.

        Args:
            course: says which ones; returns why it ended, and what was left out on the way.
            expected: trials that the reporter was told of; one for each way to ship by default.
        """
        self.reporter.step(f"{BASELINE}: evaluate {self.given.runner.name}")
        evaluation = baseline_evaluation(self.files.examiner, self.files.trials, self.given.budget)
        bench = self.bench(evaluation, expected)
        try:
            ended, left = course(bench, self.plan)
        finally:
            nursery.close()
        baseline, candidates = self._measured(bench, evaluation)
        budget, reference = self.given.budget, reference_sizes(self.given.model)
        ranked, best = rank(candidates, baseline, budget)
        nearest = None if best else nearest_of(ranked, budget)
        self.reporter.step(f"memory and energy of {BASELINE} and {best or nearest or 'no candidate'}")
        baseline, ranked = self.files.costs.complete(baseline, ranked, best or nearest)
        chosen = next((candidate for candidate in ranked if candidate.name == (best or nearest)), None)
        return Found(
            baseline=baseline,
            candidates=ranked,
            best=best,
            nearest=nearest,
            test=self._tested(chosen),
            target_reached=target_reached(chosen, baseline, budget, reference[0]) if chosen and best else None,
            profile=self.files.costs.profile,
            identity=self.identity,
            reference=reference,
            decisions=tuple(bench.decisions),
            sensed=self._sensed(),
            ended=ended,
            notes=(*self._notes(), *left, *bench.remarks, *self._unused(ranked)),
        )

    def bench(self, evaluation: Evaluation, expected: int | None = None) -> Bench:
        """Return where recipes are tried, with what the model as given is worth."""
        budget, trials = self.given.budget, self.files.trials
        worth = evaluation.metrics[budget.metric]
        expected = len(self.plan.ways) if expected is None else expected
        return Bench(self.files, trials, self.workshop, self.given.limits, self.reporter, budget, worth, expected)

    def _measured(self, bench: Bench, evaluation: Evaluation) -> tuple[Candidate, tuple[Candidate, ...]]:
        """Return the model as given and all candidates, measured together and judged."""
        self.reporter.step("latency of all candidates, interleaved")
        usable = [self.files.kept(candidate) for candidate in bench.candidates if candidate.artifact is not None]
        measured = self.files.costs.measure_all(usable)
        judged = {candidate.name: self.files.judged(candidate, measured[candidate.name]) for candidate in usable}
        return baseline_of(evaluation, measured), tuple(judged.get(one.name, one) for one in bench.candidates)

    def _tested(self, chosen: Candidate | None) -> Judgement | None:
        test = self.given.test
        if test is None or chosen is None:
            return None
        self.reporter.step(f"test: {chosen.name} on {test.count} examples that the search never saw")
        return final_judgement(test, chosen, self.files.threads, self.given.budget)

    def _sensed(self) -> Sensed:
        given = self.given
        self.reporter.step(f"sensitivity of the layers of {given.runner.name}")
        return sensed(given.model, given.examiner, self.files.costs.profile, self.files.trials, self.loss)

    def _notes(self) -> tuple[str, ...]:
        return (*self.given.notes, *self.plan.notes)

    def _unused(self, ranked: tuple[Candidate, ...]) -> tuple[str, ...]:
        made = tuple(candidate.artifact for candidate in ranked if candidate.artifact is not None)
        plain = [Recipe(export=way.config) for way in WAYS_TO_SHIP if isinstance(way.config, ExportConfig)]
        used = tuple(map(self.files.trials.directory, (*plain, *map(Recipe.of, ranked))))
        return unused(self.workdir, used, made)


def prepared(given: Given, settings: Settings, workdir: Path, source: Any, reporter: Progress) -> Search:
    """Return a search in a directory that is held.

    Args:
        given: what it works with.
        settings: arguments of the call.
        workdir: its directory.
        source: the model as given, traced.
        reporter: is told of every step.
    """
    identity, model, budget = given.identity, given.model, given.budget
    workshop, plan, lessons = _opened(given, identity, settings.seed, workdir)
    profile = None if isinstance(model, Path) else profile_model(model)
    trials = Trials(workdir, identity, workshop.lessons if workshop else None)
    costs = Costs(model, identity["model"], given.examiner, budget, settings.threads, profile, trials)
    plain, _ = reference_sizes(model)
    files = Files(source, given.calibration, given.examiner, budget, settings.threads, trials, costs, plain)
    return Search(given, workdir, plan, workshop, identity, files, reporter, lessons and lessons.loss)


def _opened(
    given: Given, identity: dict[str, str], seed: int, workdir: Path
) -> tuple[Workshop | None, Plan, Lessons | None]:
    """Return where models are made, after reading what they learn from into files where it is a data set."""
    model, plan, lessons = given.model, given.plan, given.lessons
    with contextlib.ExitStack() as stack:
        if given.stream is not None and plan.training is not None:
            place = stack.enter_context(staging(workdir))
            classes = num_classes(given.runner, given.budget)
            lessons = stream(model, given.stream, plan.training, place, num_classes=classes, seed=seed)
        plan = dataclasses.replace(plan, notes=(*plan.notes, *(lessons.notes if lessons else ())))
        return *open_workshop(workdir, model, identity, given.calibration, plan, lessons, seed), lessons
