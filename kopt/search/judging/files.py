"""Files made of models, what they answer, and whether one of them is all that was asked for."""

import dataclasses
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kopt import export, measure
from kopt.core.errors import OutputError
from kopt.core.records.artifacts import Artifact
from kopt.core.records.candidates import Candidate, ExportConfig
from kopt.core.records.measurements import Evaluation, Measurement
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.recipes import Recipe
from kopt.export.integers import warned_already
from kopt.graph import load_model
from kopt.profile import model as profile_of
from kopt.report.run.shortfalls import target_text
from kopt.search.judging import outcomes
from kopt.search.judging.costing import Costs
from kopt.search.judging.evidence import examine_file, judged, kept
from kopt.search.judging.examining import BASELINE, Examiner
from kopt.search.judging.judgement import counted_drop, judge
from kopt.search.judging.ranking import is_sure, rank, surely_reached
from kopt.search.techniques.recipes import way_of
from kopt.search.trials.bench import Worth
from kopt.search.trials.records import Trials
from kopt.search.trials.workshop import Made


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Makes files of models, lets them answer, and keeps what they scored: the judge of a `Bench`.

    Attributes:
        source: the model as given, traced.
        calibration: real inputs by name.
        examiner: the examples.
        budget: what files are judged by.
        threads: see `kopt.measure.load`.
        trials: where everything is kept.
        costs: what measures them.
        reference_bytes: size of the model as given.
    """

    source: Any
    calibration: Mapping[str, np.ndarray]
    examiner: Examiner
    budget: Budget
    threads: int | None
    trials: Trials
    costs: Costs
    reference_bytes: int

    def worth(self, model: Path) -> Worth:
        """Return what a model is worth in Keras."""
        found, before = self.examiner.examine(measure.load(model)), outcomes.load(self.trials.outcomes_path())
        assert before is not None  # it is written before any model is made
        judgement = judge(before, found.outcomes, self.budget, self.examiner.classes)
        return Worth(found.evaluation.metrics[self.budget.metric], counted_drop(judgement, self.budget))

    def counted(self, candidate: Candidate) -> float:
        """Return the drop of a file as the budget counts it."""
        path, given = self.trials.outcomes_path(Recipe.of(candidate)), self.trials.outcomes_path()
        judgement = judged(self.kept(candidate), path, given, self.examiner, self.budget).judgement
        assert judgement is not None
        return counted_drop(judgement, self.budget)

    def left(self, model: Path) -> float:
        """Return the share of what the model as given costs that a model has left.

        It is that of parameters where size counts, else of multiply-accumulates: neither depends on the machine.
        """
        made, given = profile_of(load_model(model)), self.costs.profile
        assert given is not None
        if self.budget.objectives[0] == "size":
            return made.parameters / max(given.parameters, 1)
        return made.macs / max(given.macs, 1)

    def candidate(self, recipe: Recipe, why: str, made: Made | None) -> Candidate:
        """Export a model, `None` for the original, and judge the file."""
        started = time.monotonic()
        did = made.record.summary if made else ""
        base = Candidate(recipe.name, recipe.export, "failed", steps=recipe.steps, why=why, made=did)
        try:
            if made is None:
                found = self._try(recipe, self.source, base)
            else:
                with export.traced(made.path) as source:
                    found = self._try(recipe, source, base, made.record.in_float)
        except OutputError:  # the place itself is full or forbidden: no candidate can do better
            raise
        except Exception as error:  # noqa: BLE001 - whatever goes wrong with one candidate is reported; the run goes on
            self.trials.log(recipe, traceback.format_exc())
            return dataclasses.replace(base, reason=f"{type(error).__name__}: {error}")
        found = dataclasses.replace(found, seconds=time.monotonic() - started)
        self.trials.finish(recipe, found)
        return found

    def kept(self, known: Candidate) -> Candidate:
        """Return a candidate with all that is asked now; its file answers again if an earlier run was asked less."""
        recipe = Recipe.of(known)
        candidate = kept(self.examiner, known, self.trials.outcomes_path(recipe), self.threads)
        if candidate is not known:
            self.trials.finish(recipe, candidate)
        return candidate

    def judged(self, candidate: Candidate, measured: Measurement) -> Candidate:
        """Return a candidate with its measurement and its judgement."""
        candidate = dataclasses.replace(candidate, measurement=measured)
        path, given = self.trials.outcomes_path(Recipe.of(candidate)), self.trials.outcomes_path()
        return judged(candidate, path, given, self.examiner, self.budget)

    def reached(self, candidate: Candidate) -> str:
        """Return that a file has the target of the budget, in a sentence; empty if it has not, or nobody can be sure.

        Only files that may have it are timed, beside the model as given; the numbers are kept, so that a run that is
        started again ends at the same file.
        """
        given = self.trials.baseline()
        if not self.budget.targets or given is None or candidate.artifact is None or not self._may_reach(candidate):
            return ""
        measured = self.costs.measure_all([candidate])
        baseline = baseline_of(given, measured)
        ranked, _ = rank((self.judged(candidate, measured[candidate.name]),), baseline, self.budget)
        if not surely_reached(ranked[0], baseline, self.budget, self.reference_bytes):
            return ""
        target = target_text(self.budget)
        return f"{candidate.name} reached the target, {target}, and is surely inside the budget: the search ended."

    def _may_reach(self, candidate: Candidate) -> bool:
        """Return whether a file has what is known without timing: the size, and a loss that is surely small enough."""
        assert candidate.artifact is not None
        wanted = self.budget.targets.get("size", 0.0)
        if self.reference_bytes < wanted * candidate.artifact.size_bytes:
            return False
        path, given = self.trials.outcomes_path(Recipe.of(candidate)), self.trials.outcomes_path()
        return is_sure(judged(self.kept(candidate), path, given, self.examiner, self.budget))

    def _try(self, recipe: Recipe, source: Any, base: Candidate, in_float: tuple[str, ...] = ()) -> Candidate:
        path = self.trials.directory(recipe) / f"model{way_of(recipe).suffix}"
        artifact = self._export(recipe.export, source, path, in_float)
        evaluation, artifact = examine_file(self.examiner, artifact, self.trials.outcomes_path(recipe), self.threads)
        return dataclasses.replace(base, status="ok", artifact=artifact, evaluation=evaluation)

    def _export(self, config: ExportConfig, source: Any, path: Path, in_float: tuple[str, ...]) -> Artifact:
        if config.format == "saved_model":
            return export.saved_model(source, path, data=self.calibration, overwrite=True)
        if config.format == "onnx":
            return export.onnx(source, path, data=self.calibration, overwrite=True)
        with warned_already():  # in the notes of every file
            return export.tflite(
                source,
                path,
                scheme=config.scheme,
                calibration=self.calibration,
                samples=len(next(iter(self.calibration.values()))),
                fallback=(*config.fallback, *in_float),
                io_dtype=config.io_dtype,
                overwrite=True,
            )


def baseline_of(evaluation: Evaluation, measured: Mapping[str, Measurement]) -> Candidate:
    """Return the model as given as a candidate, which the others are held against."""
    return Candidate(BASELINE, ExportConfig("saved_model"), "ok", evaluation=evaluation, measurement=measured[BASELINE])
