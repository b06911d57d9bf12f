"""The main job: measure the model, try every way to ship it, judge the exported files, name the best."""

import dataclasses
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kopt import data as kopt_data
from kopt import export, measure
from kopt.core.budget_records import Budget
from kopt.core.environment import machine
from kopt.core.errors import ConfigError, OutputError
from kopt.core.files import check_output, sha256
from kopt.core.progress import Progress, Silent
from kopt.core.randomness import preserved_random_state
from kopt.core.records import Artifact, Candidate, Evaluation, ExportConfig, OptimizationResult
from kopt.graph import fingerprint
from kopt.measure.runner import check_positive
from kopt.profile import model as profile_model
from kopt.report import make_progress, write_report, write_story
from kopt.search.calls import call_text
from kopt.search.catalog import CATALOG, Technique, select
from kopt.search.costing import Costs, reference_sizes
from kopt.search.evidence import baseline_evaluation, examine_file, final_judgement, judged, kept
from kopt.search.examining import BASELINE, Examiner
from kopt.search.judging_data import (
    NO_LABELS,
    check_judgeable,
    checked_budget,
    examiner_of,
    overlap,
    read_split,
)
from kopt.search.leftovers import unused
from kopt.search.ranking import nearest_of, rank, target_reached
from kopt.search.trials import Trials


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
) -> SearchResult:
    """Find the best file to ship: best in the objective among those that keep the budget.

    Every candidate is exported, opened in its own runtime and evaluated there on `validation`; latencies are taken
    together, interleaved. What a file lost is judged example by example, with an interval: it is inside the budget,
    outside, or so many examples cannot tell, for which `Budget.undecided` has the rule. Finished candidates are kept in
    `workdir`: a run that was killed and is started again with the same arguments goes on where it stopped. A candidate
    that fails is reported with its reason.

    Args:
        model: a built Keras model, or the path of a `.keras`, `.h5` or SavedModel.
        train: where calibration samples come from: arrays, `(x, y)`, `kopt.data.Split` or a `tf.data.Dataset`.
        validation: data that judges the files, `(x, y)`, `Split` or a batched `tf.data.Dataset`; it is held in memory.
            Without labels (`x` alone) the agreement with the model as given is guarded in place of the accuracy.
        test: such data, which the search never touches: only the model as given and the chosen file are evaluated on
            it, at the end. The best of many is flattered by the examples it was chosen on; on these it is not.
        budget: what may be lost, what is to improve and what must hold; by default at most 0.01 of accuracy, for
            latency.
        workdir: directory for everything the run makes, `report.html`, `report.md` and `report.json` among it.
        techniques: names of catalog rows to try; all if `None`.
        samples: calibration examples.
        threads: threads that LiteRT and ONNX Runtime get; their own choice if `None`.
        seed: of the choice of calibration examples.
        progress: `"auto"` shows a bar on a terminal and lines elsewhere, `None` nothing.
        description: what the report calls the data.
        command: what the report gives as the way to reproduce the run.

    Returns:
        The candidates with their evidence; `best` is `None` if none is inside the budget, and `nearest` then is the
        one that misses it by least.

    Raises:
        InputError: the model, the data or a setting cannot be used; nothing was written.
        LoadError: the model's path cannot be opened.
        OutputError: `workdir` cannot be written.

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
    rows = select(techniques)
    reporter = _reporter(progress)
    if threads is not None:
        check_positive("threads", threads)
    model = export.open_model(model)
    runner = measure.load(model)
    check_judgeable(runner)
    validation = read_split(validation, "validation")
    given = budget
    budget = checked_budget(given, validation.y is not None)
    calibration = kopt_data.calibration(train, samples=samples, seed=seed, inputs=runner.inputs)
    examiner = examiner_of(validation, runner, budget)
    final = None if test is None else examiner_of(test, runner, budget, "test")
    notes: tuple[str, ...] = () if validation.y is not None else (NO_LABELS,)
    if final is not None:
        notes += _overlap_note(overlap(final, examiner), final.count)
    workdir = Path(workdir)
    check_output(workdir / "report.html", overwrite=True)
    identity = {
        "model": sha256(model) if isinstance(model, Path) else fingerprint(model),
        "data": _hash({**calibration, **_named(examiner, "validation")}),
        "metric": budget.metric,
    }
    reporter.start(len(rows) + 3 + (final is not None))
    trials = Trials(workdir, identity)
    try:
        with export.traced(model) as source:
            reporter.step(f"{BASELINE}: evaluate {runner.name}")
            evaluation = baseline_evaluation(examiner, trials, budget)
            profile = None if isinstance(model, Path) else profile_model(model)
            costs = Costs(model, identity["model"], examiner, budget, threads, profile, trials)
            job = _Job(source, calibration, examiner, budget, threads, trials, costs)
            baseline, candidates = _run(job, rows, evaluation, reporter)
            ranked, best = rank(candidates, baseline, budget)
            nearest = None if best else nearest_of(ranked, budget)
            reporter.step(f"memory and energy of {BASELINE} and {best or nearest or 'no candidate'}")
            baseline, ranked = costs.complete(baseline, ranked, best or nearest)
        chosen = next((candidate for candidate in ranked if candidate.name == (best or nearest)), None)
        judgement = None
        if final is not None and chosen is not None:
            reporter.step(f"test: {chosen.name} on {final.count} examples that the search never saw")
            judgement = final_judgement(final, chosen, threads, budget)
    finally:
        reporter.finish()
    plain, packed = reference_sizes(model)
    made = tuple(candidate.artifact for candidate in ranked if candidate.artifact is not None)
    used = tuple(trials.directory(row) for row in CATALOG.values())
    settings = {"techniques": techniques, "samples": samples, "threads": threads, "seed": seed}
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
        notes=(*notes, *unused(workdir, used, made)),
    )
    write_report(result, workdir)
    return result


def _run(
    job: _Job, rows: tuple[Technique, ...], evaluation: Evaluation, reporter: Progress
) -> tuple[Candidate, tuple[Candidate, ...]]:
    examiner, trials, budget = job.examiner, job.trials, job.budget
    tried = []
    for row in rows:
        known = trials.finished(row)
        reporter.step(f"{row.name}: {'kept from an earlier run' if known else 'export, verify, evaluate'}")
        tried.append(_kept(job, row, known) if known else _try(job, row))
    usable = [candidate for candidate in tried if candidate.artifact is not None]
    reporter.step("latency of all candidates, interleaved")
    measured = job.costs.measure_all(usable)
    config = ExportConfig("saved_model")
    baseline = Candidate(BASELINE, config, "ok", evaluation=evaluation, measurement=measured[BASELINE])
    judgeable = zip(rows, tried, strict=True)
    return baseline, tuple(
        candidate
        if candidate.artifact is None
        else judged(
            dataclasses.replace(candidate, measurement=measured[candidate.name]),
            trials.outcomes_path(row),
            trials.outcomes_path(),
            examiner,
            budget,
        )
        for row, candidate in judgeable
    )


def _kept(job: _Job, row: Technique, known: Candidate) -> Candidate:
    candidate = kept(job.examiner, known, job.trials.outcomes_path(row), job.threads)
    if candidate is not known:
        job.trials.finish(row, candidate)
    return candidate


def _try(job: _Job, row: Technique) -> Candidate:
    directory = job.trials.start(row)
    try:
        artifact = _export(job, row, directory / f"model{row.suffix}")
        path = job.trials.outcomes_path(row)
        evaluation, artifact = examine_file(job.examiner, artifact, path, job.threads)
    except OutputError:  # the place itself is full or forbidden: no candidate can do better
        raise
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with one candidate is reported; the run goes on
        return Candidate(row.name, row.config, "failed", reason=f"{type(error).__name__}: {error}")
    candidate = Candidate(row.name, row.config, "ok", artifact=artifact, evaluation=evaluation)
    job.trials.finish(row, candidate)
    return candidate


def _export(job: _Job, row: Technique, path: Path) -> Artifact:
    config = row.config
    if config.format == "saved_model":
        return export.saved_model(job.source, path, data=job.calibration, overwrite=True)
    if config.format == "onnx":
        return export.onnx(job.source, path, data=job.calibration, overwrite=True)
    return export.tflite(
        job.source,
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
