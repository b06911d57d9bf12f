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
from kopt.core.environment import machine
from kopt.core.errors import ConfigError, OutputError, UnsupportedModelError
from kopt.core.files import atomic_write, check_output, sha256
from kopt.core.progress import Progress, Silent
from kopt.core.randomness import preserved_random_state
from kopt.core.records import (
    Artifact,
    Budget,
    Candidate,
    Evaluation,
    ExportConfig,
    Measurement,
    OptimizationResult,
    Parity,
)
from kopt.graph import fingerprint
from kopt.measure.runner import check_positive
from kopt.profile import model as profile_model
from kopt.report import html, make_progress, write_report
from kopt.search.catalog import Technique, select
from kopt.search.ranking import rank
from kopt.search.trials import Trials

BASELINE = "baseline"


@dataclasses.dataclass(frozen=True)
class SearchResult(OptimizationResult):
    """What `optimize` found, with the way to show it.

    Example:
        >>> result.best_name, [candidate.name for candidate in result.candidates]
        ('tflite-int8', ['tflite-float32', 'tflite-int8'])
        >>> result.best.artifact.size_bytes < result.candidates[0].artifact.size_bytes
        True
        >>> path = result.report("again")
    """

    @classmethod
    def schema(cls) -> str:
        """On disk it is the record it extends."""
        return OptimizationResult.schema()

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write the HTML report, one file that needs no network, replacing what is there."""
        return atomic_write(path, html(self), overwrite=True)


@dataclasses.dataclass(frozen=True)
class _Job:
    """What every candidate of one run shares."""

    source: Any
    calibration: Mapping[str, np.ndarray]
    validation: tuple[Mapping[str, np.ndarray], np.ndarray]
    budget: Budget
    threads: int | None
    trials: Trials
    expected: Mapping[str, np.ndarray]

    def evaluate(self, runner: measure.Runner) -> Evaluation:
        return measure.evaluate(runner, self.validation, metrics=(self.budget.metric,))


@preserved_random_state()
def optimize(
    model: Any,
    train: Any,
    validation: Any,
    *,
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
    """Find the best file to ship: smallest in the objective among those inside the accuracy budget.

    Every candidate is exported, opened in its own runtime and evaluated there on `validation`; latencies are taken
    together, interleaved. Finished candidates are kept in `workdir`: a run that was killed and is started again with
    the same arguments goes on where it stopped. A candidate that fails is reported with its reason.

    Args:
        model: a built Keras model, or the path of a `.keras`, `.h5` or SavedModel.
        train: where calibration samples come from: arrays, `(x, y)`, `kopt.data.Split` or a `tf.data.Dataset`.
        validation: labelled data that judges the files, `(x, y)`, `Split` or a batched `tf.data.Dataset`; it is held in
            memory.
        budget: what may be lost and what is to become small; by default at most 0.01 of accuracy, for latency.
        workdir: directory for everything the run makes, `report.html` and `report.json` among it.
        techniques: names of catalog rows to try; all if `None`.
        samples: calibration examples.
        threads: threads that LiteRT and ONNX Runtime get; their own choice if `None`.
        seed: of the choice of calibration examples.
        progress: `"auto"` shows a bar on a terminal and lines elsewhere, `None` nothing.
        description: what the report calls the data.
        command: what the report gives as the way to reproduce the run.

    Returns:
        The candidates with their evidence; `best` is `None` if none is inside the budget.

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
    budget = _checked_budget(budget)
    rows = select(techniques)
    reporter = _reporter(progress)
    if threads is not None:
        check_positive("threads", threads)
    model = export.open_model(model)
    runner = measure.load(model)
    _check_judgeable(runner, budget)
    calibration = kopt_data.calibration(train, samples=samples, seed=seed, inputs=runner.inputs)
    split = _labelled(validation)
    checked = kopt_data.check(split, runner.inputs, num_classes=_num_classes(runner, budget), name="validation")
    labels = np.asarray(split.y)
    workdir = Path(workdir)
    check_output(workdir / "report.html", overwrite=True)
    identity = {
        "model": sha256(model) if isinstance(model, Path) else fingerprint(model),
        "data": _hash({**calibration, **{f"validation {k}": v for k, v in checked.items()}, "labels": labels}),
        "metric": budget.metric,
    }
    reporter.start(len(rows) + 2)
    try:
        with export.traced(model) as source:
            trials, expected = Trials(workdir, identity), _outputs(runner, checked)
            job = _Job(source, calibration, (checked, labels), budget, threads, trials, expected)
            baseline, candidates = _run(job, runner, rows, reporter)
    finally:
        reporter.finish()
    ranked, best = rank(candidates, baseline, budget)
    result = SearchResult(
        model=runner.name,
        data=f"{description}, {len(labels)} validation examples",
        budget=budget,
        baseline=baseline,
        candidates=ranked,
        best_name=best,
        profile=None if isinstance(model, Path) else profile_model(model),
        machine=machine(),
        command=command or f"kopt.optimize(model, train, validation, budget={budget!r}, workdir={str(workdir)!r})",
        seconds=time.monotonic() - started,
    )
    write_report(result, workdir)
    return result


def _run(
    job: _Job, runner: measure.Runner, rows: tuple[Technique, ...], reporter: Progress
) -> tuple[Candidate, tuple[Candidate, ...]]:
    reporter.step(f"{BASELINE}: evaluate {runner.name}")
    evaluation = job.trials.baseline() or job.evaluate(runner)
    job.trials.finish_baseline(evaluation)
    tried = []
    for row in rows:
        known = job.trials.finished(row)
        reporter.step(f"{row.name}: {'kept from an earlier run' if known else 'export, verify, evaluate'}")
        tried.append(known or _try(job, row))
    usable = [candidate for candidate in tried if candidate.artifact is not None]
    reporter.step("latency of all candidates, interleaved")
    measured = _measure(job, runner, usable)
    config = ExportConfig("saved_model")
    baseline = Candidate(BASELINE, config, "ok", evaluation=evaluation, measurement=measured[BASELINE])
    return baseline, tuple(
        dataclasses.replace(candidate, measurement=measured.get(candidate.name)) for candidate in tried
    )


def _try(job: _Job, row: Technique) -> Candidate:
    directory = job.trials.start(row)
    try:
        artifact = _export(job, row, directory / f"model{row.suffix}")
        runner = measure.load(artifact.path, threads=job.threads)
        evaluation = job.evaluate(runner)
        # The exporter compared a few examples; what is shown is about all that the file is judged on.
        artifact = dataclasses.replace(artifact, parity=_parity(job, runner))
    except OutputError:  # the place itself is full or forbidden: no candidate can do better
        raise
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with one candidate is reported; the run goes on
        return Candidate(row.name, row.config, "failed", reason=f"{type(error).__name__}: {error}")
    candidate = Candidate(row.name, row.config, "ok", artifact=artifact, evaluation=evaluation)
    job.trials.finish(row, candidate)
    return candidate


def _parity(job: _Job, runner: measure.Runner) -> Parity:
    found = _outputs(runner, job.validation[0])
    outputs = tuple(measure.compare_outputs(name, found[name], job.expected[name]) for name in found)
    return Parity(runner.runtime, BASELINE, len(job.validation[1]), outputs)


def _outputs(runner: measure.Runner, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    predicted = runner.predict(inputs)
    return predicted if isinstance(predicted, dict) else {runner.outputs[0].name: predicted}


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


def _measure(job: _Job, runner: measure.Runner, candidates: list[Candidate]) -> dict[str, Measurement]:
    names = [BASELINE, *(candidate.name for candidate in candidates)]
    settings = f"threads={job.threads} objective={job.budget.objective}"
    known = job.trials.measurements(names, settings)
    if known is not None:
        return known
    runners = [runner, *(measure.load(c.artifact.path, threads=job.threads) for c in candidates if c.artifact)]
    inputs = job.validation[0]
    timed = measure.latency(runners, inputs)
    assert isinstance(timed, list)
    measured = dict(zip(names, timed, strict=True))
    if job.budget.objective == "energy":
        for name, one in zip(names, runners, strict=True):
            measured[name] = dataclasses.replace(measured[name], energy=measure.energy(one, inputs))
    job.trials.finish_measurements(names, settings, measured)
    return measured


def _checked_budget(budget: Budget | None) -> Budget:
    if budget is None:
        return Budget()
    if not isinstance(budget, Budget):
        raise ConfigError(f"`budget` must be a kopt.Budget, e.g. kopt.Budget(max_drop=0.01). Received: {budget!r}.")
    return budget


def _check_judgeable(runner: measure.Runner, budget: Budget) -> None:
    if len(runner.outputs) > 1:
        names = ", ".join(info.name for info in runner.outputs)
        raise UnsupportedModelError(
            f"A budget guards the metric of one output; {runner.name} has {len(runner.outputs)}: {names}. Optimize "
            f"`keras.Model(model.inputs, one_output)`, or export with `kopt.export` and judge with "
            f"`kopt.measure.evaluate`, which takes several."
        )
    if measure.is_loss(budget.metric):
        raise ConfigError(
            f"`Budget.metric` must be a metric of which more is better; of {budget.metric!r} less is better. Use e.g. "
            f"'accuracy', 'auc' or, for regression, 'r2_score'."
        )


def _labelled(data: Any) -> kopt_data.Split:
    """Return `data` as a `Split`; a data set is read whole."""
    if isinstance(data, kopt_data.Split):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        return kopt_data.Split(*data)
    return kopt_data.collect(data, name="validation")


def _num_classes(runner: measure.Runner, budget: Budget) -> int | None:
    if budget.metric != "accuracy" or len(runner.outputs) != 1 or len(runner.outputs[0].shape) != 2:
        return None
    width = runner.outputs[0].shape[1]
    return 2 if width == 1 else width


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
