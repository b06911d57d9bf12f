"""The main job: measure the model, try every way to ship it, judge the exported files, name the best."""

import dataclasses
import hashlib
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kopt import data as kopt_data
from kopt import export, measure
from kopt.advice import Advice, from_run
from kopt.core.environment import machine
from kopt.core.errors import ConfigError, OutputError
from kopt.core.files import check_output, sha256
from kopt.core.progress import Progress, Silent
from kopt.core.randomness import preserved_random_state
from kopt.core.records.artifacts import Artifact
from kopt.core.records.candidates import Candidate, ExportConfig, OptimizationResult
from kopt.core.records.measurements import Measurement
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.decisions import Decision
from kopt.core.records.search.recipes import Recipe
from kopt.graph import fingerprint
from kopt.measure.runner import check_positive
from kopt.profile import model as profile_model
from kopt.report import make_progress, write_report, write_story
from kopt.search.calls import call_text
from kopt.search.judging.costing import Costs, reference_sizes
from kopt.search.judging.evidence import baseline_evaluation, examine_file, final_judgement, judged, kept
from kopt.search.judging.examining import BASELINE, Examiner
from kopt.search.judging.examples import (
    NO_LABELS,
    check_judgeable,
    checked_budget,
    examiner_of,
    num_classes,
    overlap,
    read_split,
)
from kopt.search.judging.ranking import nearest_of, rank, target_reached
from kopt.search.lessons import prepare
from kopt.search.opening import checked_training, open_workshop
from kopt.search.plan import Plan, plan_of
from kopt.search.proposing import rounds
from kopt.search.proposing.facts import facts_of
from kopt.search.techniques.catalog import WAYS_TO_SHIP, select
from kopt.search.techniques.recipes import way_of
from kopt.search.training import Training
from kopt.search.trials.bench import Bench
from kopt.search.trials.leftovers import unused
from kopt.search.trials.limits import Limits
from kopt.search.trials.lock import held
from kopt.search.trials.records import Trials
from kopt.search.trials.workshop import Workshop


@dataclasses.dataclass(frozen=True)
class SearchResult(OptimizationResult):
    """What `optimize` found, with the way to show it.

    Example:
        >>> result.best_name, [candidate.name for candidate in result.candidates]
        ('tflite-int8', ['tflite-float32', 'tflite-int8'])
        >>> result.best.artifact.size_bytes < result.candidates[0].artifact.size_bytes
        True
        >>> result.report("report.html").name
        'report.html'
    """

    @classmethod
    def schema(cls) -> str:
        """On disk it is the record it extends."""
        return OptimizationResult.schema()

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write the report, replacing what is there: HTML, one file that needs no network, or Markdown.

        Args:
            path: that ends in `.html` or `.md`; the plot of a Markdown report lies beside it, as SVG.

        Raises:
            ConfigError: another ending.
        """
        return write_story(self, path)

    @property
    def advice(self) -> Advice:
        """What the run says about the model: what to change next, and why."""
        return from_run(self)


@dataclasses.dataclass(frozen=True)
class _Job:
    """What every candidate of one run shares."""

    source: Any
    calibration: Mapping[str, np.ndarray]
    examiner: Examiner
    budget: Budget
    threads: int | None
    trials: Trials
    costs: Costs

    def metric(self, model: Path) -> float:
        """Return what a model is worth in Keras."""
        return self.examiner.examine(measure.load(model)).evaluation.metrics[self.budget.metric]

    def candidate(self, recipe: Recipe, why: str, model: Path | None) -> Candidate:
        """Export a model, `None` for the original, and judge the file."""
        started = time.monotonic()
        base = Candidate(recipe.name, recipe.export, "failed", steps=recipe.steps, why=why)
        try:
            if model is None:
                found = _try(self, recipe, self.source, base)
            else:
                with export.traced(model) as source:
                    found = _try(self, recipe, source, base)
        except OutputError:  # the place itself is full or forbidden: no candidate can do better
            raise
        except Exception as error:  # noqa: BLE001 - whatever goes wrong with one candidate is reported; the run goes on
            self.trials.log(recipe, traceback.format_exc())
            return dataclasses.replace(base, reason=f"{type(error).__name__}: {error}")
        found = dataclasses.replace(found, seconds=time.monotonic() - started)
        self.trials.finish(recipe, found)
        return found


@dataclasses.dataclass(frozen=True)
class _Run:
    """How the search goes about."""

    plan: Plan
    limits: Limits
    workshop: Workshop | None
    reporter: Progress


@dataclasses.dataclass(frozen=True)
class _Found:
    """What a search found, before it is ranked."""

    baseline: Candidate
    candidates: tuple[Candidate, ...]
    decisions: tuple[Decision, ...]
    ended: str
    left: tuple[str, ...]


@preserved_random_state()
def optimize(
    model: Any,
    train: Any,
    validation: Any,
    *,
    test: Any = None,
    budget: Budget | None = None,
    workdir: str | os.PathLike[str] = "kopt-run",
    techniques: Sequence[str] | None = None,
    samples: int = 100,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | str | None = "auto",
    description: str = "arrays",
    command: str = "",
    training: Training | None = None,
    seconds: float | None = None,
    trials: int | None = None,
) -> SearchResult:
    """Find the best file to ship: best in the objective among those that keep the budget.

    Every candidate is exported, opened in its own runtime and evaluated there on `validation`; latencies are taken
    together, interleaved. What a file lost is judged example by example, with an interval: it is inside the budget,
    outside, or so many examples cannot tell, for which `Budget.undecided` has the rule. A candidate that fails is
    reported with its reason.

    First all ways to ship the model as it is are tried, then what needs calibration examples alone, and with `training`
    smaller models: of each technique that reaches enough of the model several strengths are trained briefly, the
    promising half to the end, and then strengths between the strongest inside the budget and the next one. Models
    change and train in child processes, one a trial, so that a crash, or too little memory, costs one candidate.

    Finished candidates, and models on the way to them, are kept in `workdir`: a run that was killed and is started
    again with the same arguments goes on where it stopped, and finds what it would have found. One run at a time works
    in a directory.

    Args:
        model: a built Keras model, or the path of a `.keras`, `.h5` or SavedModel.
        train: what models learn from and where calibration samples come from: arrays, `(x, y)`, `kopt.data.Split` or a
            batched `tf.data.Dataset`, which is read into memory for training. Of it a tenth, at most 1,000 examples, is
            held out to choose the best epoch. Without labels models learn what the original says.
        validation: data that judges the files, `(x, y)`, `Split` or a batched `tf.data.Dataset`; it is held in memory.
            Without labels (`x` alone) the agreement with the model as given is guarded in place of the accuracy.
        test: such data, which the search never touches: only the model as given and the chosen file are evaluated on
            it, at the end. The best of many is flattered by the examples it was chosen on; on these it is not.
        budget: what may be lost, what is to improve and what must hold; by default at most 0.01 of accuracy, for
            latency.
        workdir: directory for everything the run makes, `report.html`, `report.md` and `report.json` among it.
        techniques: names of catalog rows to try, ways to ship and techniques; all if `None`. Of ways to ship all are
            tried where none is named. Models that lose accuracy are trained on, whether `recover` is named or not.
        samples: calibration examples.
        threads: threads that LiteRT and ONNX Runtime get; their own choice if `None`.
        seed: of the choice of examples and of training.
        progress: `"auto"` shows a bar on a terminal and lines elsewhere, `None` nothing.
        description: what the report calls the data.
        command: what the report gives as the way to reproduce the run.
        training: lets the search train, and says how; without it nothing is trained, and the result says what was not
            tried.
        seconds: after which the search ends and judges what it has; earlier runs in `workdir` count with what they
            took. Files of what is trained by then, and the latencies at the end, take their time beyond that.
        trials: most files and models to look at; files of what is trained by then are made beyond that.

    Returns:
        The candidates with their evidence; `best` is `None` if none is inside the budget, and `nearest` then is the
        one that misses it by least.

    Raises:
        InputError: the model, the data or a setting cannot be used; nothing was written.
        LoadError: the model's path cannot be opened.
        OutputError: `workdir` cannot be written, or another run works there; the message names it.

    Example:
        >>> found = kopt.optimize(
        ...     model,
        ...     (x_train, y_train),
        ...     (x_val, y_val),
        ...     budget=kopt.Budget(max_drop=0.05, objective="size"),
        ...     techniques=["tflite-int8"],
        ...     workdir="again",
        ...     progress=None,
        ... )
        >>> found.best_name, found.best.drop <= 0.05
        ('tflite-int8', True)
    """
    started = time.monotonic()
    select(techniques)
    reporter = _reporter(progress)
    limits = Limits(seconds, trials)
    if threads is not None:
        check_positive("threads", threads)
    model = export.open_model(model)
    runner = measure.load(model)
    check_judgeable(runner)
    validation, given = read_split(validation, "validation"), budget
    budget = checked_budget(given, validation.y is not None)
    calibration = kopt_data.calibration(train, samples=samples, seed=seed, inputs=runner.inputs)
    examiner = examiner_of(validation, runner, budget)
    final = None if test is None else examiner_of(test, runner, budget, "test")
    notes: tuple[str, ...] = () if validation.y is not None else (NO_LABELS,)
    if final is not None:
        notes += _overlap_note(overlap(final, examiner), final.count)
    plan = plan_of(facts_of(model), techniques, budget, checked_training(training))
    classes = num_classes(runner, budget)
    lessons = plan.training and prepare(model, train, plan.training, num_classes=classes, seed=seed)
    workdir = Path(workdir)
    check_output(workdir / "report.html", overwrite=True)
    identity = {
        "model": sha256(model) if isinstance(model, Path) else fingerprint(model),
        "data": _hash({**calibration, **_named(examiner, "validation")}),
        "metric": budget.metric,
    }
    # The trace comes first: it refuses weights that are not finite, before anything is written.
    with export.traced(model) as source, held(workdir):
        reporter.start(len(plan.ways) + 3 + (final is not None))
        try:
            workshop, plan = open_workshop(workdir, model, identity, calibration, plan, lessons or None, seed)
            profile = None if isinstance(model, Path) else profile_model(model)
            kept_trials = Trials(workdir, identity, workshop.lessons if workshop else None)
            costs = Costs(model, identity["model"], examiner, budget, threads, profile, kept_trials)
            job = _Job(source, calibration, examiner, budget, threads, kept_trials, costs)
            found = _search(job, runner, _Run(plan, limits, workshop, reporter))
            ranked, best = rank(found.candidates, found.baseline, budget)
            nearest = None if best else nearest_of(ranked, budget)
            reporter.step(f"memory and energy of {BASELINE} and {best or nearest or 'no candidate'}")
            baseline, ranked = costs.complete(found.baseline, ranked, best or nearest)
            chosen = next((candidate for candidate in ranked if candidate.name == (best or nearest)), None)
            judgement = None
            if final is not None and chosen is not None:
                reporter.step(f"test: {chosen.name} on {final.count} examples that the search never saw")
                judgement = final_judgement(final, chosen, threads, budget)
        finally:
            reporter.finish()
        plain, packed = reference_sizes(model)
        made = tuple(candidate.artifact for candidate in ranked if candidate.artifact is not None)
        configs = (way.config for way in WAYS_TO_SHIP)
        plain_ways = [Recipe(export=config) for config in configs if isinstance(config, ExportConfig)]
        used = tuple(map(kept_trials.directory, (*plain_ways, *map(Recipe.of, ranked))))
        settings = {
            "techniques": techniques, "samples": samples, "threads": threads, "seed": seed, "training": training,
            "seconds": seconds, "trials": trials,
        }  # fmt: skip
        result = SearchResult(
            model=runner.name,
            data=f"{description}, {examiner.count} validation examples",
            budget=budget,
            baseline=baseline,
            candidates=ranked,
            best_name=best,
            profile=profile,
            machine=machine(),
            command=command or call_text(given or budget, workdir, settings, has_test=final is not None),
            seconds=time.monotonic() - started,
            nearest_name=nearest,
            test=judgement,
            target_reached=target_reached(chosen, baseline, budget, plain) if chosen and best else None,
            identity=identity | ({"test": _hash(_named(final, "test"))} if final is not None else {}),
            reference_bytes=plain,
            reference_gzip_bytes=packed,
            decisions=found.decisions,
            ended=found.ended,
            notes=(
                *notes,
                *plan.notes,
                *(lessons.notes if lessons else ()),
                *found.left,
                *unused(workdir, used, made),
            ),
        )
        write_report(result, workdir)
    return result


def _search(job: _Job, runner: measure.Runner, run: _Run) -> _Found:
    """Evaluate the original, try recipes, and measure all files together."""
    run.reporter.step(f"{BASELINE}: evaluate {runner.name}")
    evaluation = baseline_evaluation(job.examiner, job.trials, job.budget)
    worth = evaluation.metrics[job.budget.metric]
    bench = Bench(job, job.trials, run.workshop, run.limits, run.reporter, job.budget, worth, len(run.plan.ways))
    ended, left = rounds.run(bench, run.plan)
    run.reporter.step("latency of all candidates, interleaved")
    usable = [_kept(job, candidate) for candidate in bench.candidates if candidate.artifact is not None]
    measured = job.costs.measure_all(usable)
    config = ExportConfig("saved_model")
    baseline = Candidate(BASELINE, config, "ok", evaluation=evaluation, measurement=measured[BASELINE])
    files = {candidate.name: _judged(job, candidate, measured[candidate.name]) for candidate in usable}
    candidates = tuple(files.get(candidate.name, candidate) for candidate in bench.candidates)
    return _Found(baseline, candidates, tuple(bench.decisions), ended, (*left, *bench.remarks))


def _kept(job: _Job, known: Candidate) -> Candidate:
    """Return a candidate with all that is asked now; its file answers again if an earlier run was asked less."""
    recipe = Recipe.of(known)
    candidate = kept(job.examiner, known, job.trials.outcomes_path(recipe), job.threads)
    if candidate is not known:
        job.trials.finish(recipe, candidate)
    return candidate


def _judged(job: _Job, candidate: Candidate, measured: Measurement) -> Candidate:
    candidate = dataclasses.replace(candidate, measurement=measured)
    path, given = job.trials.outcomes_path(Recipe.of(candidate)), job.trials.outcomes_path()
    return judged(candidate, path, given, job.examiner, job.budget)


def _try(job: _Job, recipe: Recipe, source: Any, base: Candidate) -> Candidate:
    path = job.trials.directory(recipe) / f"model{way_of(recipe).suffix}"
    artifact = _export(job, recipe.export, source, path)
    evaluation, artifact = examine_file(job.examiner, artifact, job.trials.outcomes_path(recipe), job.threads)
    return dataclasses.replace(base, status="ok", artifact=artifact, evaluation=evaluation)


def _export(job: _Job, config: ExportConfig, source: Any, path: Path) -> Artifact:
    if config.format == "saved_model":
        return export.saved_model(source, path, data=job.calibration, overwrite=True)
    if config.format == "onnx":
        return export.onnx(source, path, data=job.calibration, overwrite=True)
    return export.tflite(
        source,
        path,
        scheme=config.scheme,
        calibration=job.calibration,
        samples=len(next(iter(job.calibration.values()))),
        fallback=config.fallback,
        io_dtype=config.io_dtype,
        overwrite=True,
    )


def _named(examiner: Examiner, name: str) -> dict[str, np.ndarray]:
    return {**{f"{name} {key}": array for key, array in examiner.inputs.items()}, "labels": examiner.labels}


def _overlap_note(shared: int, count: int) -> tuple[str, ...]:
    if not shared:
        return ()
    return (f"{shared} of {count} test examples are also among those of validation, bit for bit.",)


def _hash(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _reporter(progress: Progress | str | None) -> Progress:
    if progress is None:
        return Silent()
    if progress == "auto":
        return make_progress()
    if isinstance(progress, str):
        raise ConfigError(f"`progress` is 'auto', None or has start, step and finish. Received: {progress!r}.")
    return progress
