"""Two runs held against each other, from their reports alone."""

import os
from collections.abc import Iterator

from kopt.core.errors import ConfigError
from kopt.core.records.artifacts import Artifact
from kopt.core.records.candidates import Candidate, OptimizationResult
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.quantities import smallest_batch
from kopt.core.records.search.run_comparison import CandidateChange, RunComparison, RunDifference
from kopt.report.run.rows import size_reference
from kopt.report.run.run_directory import read_result
from kopt.report.run.shortfalls import demands, objective_text

_OTHER_MODEL = "the baselines differ, so that a better file need not come from a better run"
_OTHER_DATA = "metrics are of other examples and are not paired"
_OTHER_MACHINE = "times are not comparable"
_HASH_LENGTH = 12


def compare_runs(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> RunComparison:
    """Compare two runs of `kopt.optimize`.

    Runs of different models, data or machines are compared, too, because that is what one wants to know of a new model;
    the differences stand first, with what they mean for the numbers.

    Args:
        a: work directory or `report.json` of the first run.
        b: of the second.

    Raises:
        LoadError: there is no report, or it cannot be read.
        ConfigError: they guard different metrics, of which no two numbers can be held against each other.

    Example:
        >>> found = kopt.report.compare_runs("run", "run")
        >>> found.differences  # in model, data, budget, machine and versions
        ()
    """
    first, second = read_result(a), read_result(b)
    if first.budget.metric != second.budget.metric:
        raise ConfigError(
            f"{os.fspath(a)} guards {first.budget.metric!r} and {os.fspath(b)} guards {second.budget.metric!r}: their "
            "numbers cannot be held against each other. Run one again with the metric of the other."
        )
    names = [candidate.name for candidate in second.candidates]
    names += [candidate.name for candidate in first.candidates if candidate.name not in names]
    return RunComparison(
        a=os.fspath(a),
        b=os.fspath(b),
        metric=second.budget.metric,
        differences=tuple(_differences(first, second)),
        baseline=_change(first, second, first.baseline, second.baseline),
        candidates=tuple(_change(first, second, _named(first, name), _named(second, name)) for name in names),
        best_a=first.best_name,
        best_b=second.best_name,
    )


def _differences(a: OptimizationResult, b: OptimizationResult) -> Iterator[RunDifference]:
    for what, matters in (("model", _OTHER_MODEL), ("data", _OTHER_DATA), ("test", _OTHER_DATA)):
        before, after = a.identity.get(what, ""), b.identity.get(what, "")
        if before != after:
            yield RunDifference(what, _shown(a, what), _shown(b, what), matters)
    if not (a.identity and b.identity):  # reports of older versions know names only
        for what, before, after in (("model", a.model, b.model), ("data", a.data, b.data)):
            if before != after:
                yield RunDifference(f"{what}, by name", before, after)
    asked = [f"{'; '.join(demands(budget))}; {objective_text(budget)}" for budget in (a.budget, b.budget)]
    if asked[0] != asked[1]:
        yield RunDifference("budget", asked[0], asked[1], _other_budget(a.budget, b.budget))
    places = [f"{one.processor}, {one.cores} core(s), {one.system}" for one in (a.machine, b.machine)]
    if places[0] != places[1]:
        yield RunDifference("machine", places[0], places[1], _OTHER_MACHINE)
    for package in sorted(set(a.machine.versions) | set(b.machine.versions)):
        versions = [one.machine.versions.get(package, "absent") for one in (a, b)]
        if versions[0] != versions[1]:
            yield RunDifference(package, versions[0], versions[1])


def _other_budget(a: Budget, b: Budget) -> str:
    return "the best was chosen for another objective" if a.objectives != b.objectives else ""


def _shown(result: OptimizationResult, what: str) -> str:
    found = result.identity.get(what, "none")[:_HASH_LENGTH]
    return f"{result.model if what == 'model' else result.data if what == 'data' else 'test'} ({found})"


def _named(result: OptimizationResult, name: str) -> Candidate | None:
    return next((candidate for candidate in result.candidates if candidate.name == name), None)


def _change(
    first: OptimizationResult, second: OptimizationResult, a: Candidate | None, b: Candidate | None
) -> CandidateChange:
    files = [one.artifact if one else None for one in (a, b)]
    known = [file for file in files if file is not None]
    name = next(one.name for one in (b, a) if one is not None)
    return CandidateChange(
        name=name,
        status_a=_status(first, a),
        status_b=_status(second, b),
        metric_a=_metric(first, a),
        metric_b=_metric(second, b),
        latency_ms_a=_latency(a),
        latency_ms_b=_latency(b),
        size_bytes_a=_size(first, a, files[0]),
        size_bytes_b=_size(second, b, files[1]),
        is_same_file=known[0].sha256 == known[1].sha256 if len(known) == 2 else None,
    )


def _status(result: OptimizationResult, candidate: Candidate | None) -> str:
    if candidate is None:
        return "absent"
    if candidate is result.baseline:
        return "given"
    if candidate.status != "ok":
        return "failed"
    if candidate.name == result.best_name:
        return "best"
    return "inside" if candidate.within_budget else "outside"


def _metric(result: OptimizationResult, candidate: Candidate | None) -> float | None:
    evaluation = candidate.evaluation if candidate else None
    return evaluation.metrics.get(result.budget.metric) if evaluation else None


def _latency(candidate: Candidate | None) -> float | None:
    latency = smallest_batch(candidate.measurement) if candidate else None
    return latency.p50_ms if latency else None


def _size(result: OptimizationResult, candidate: Candidate | None, artifact: Artifact | None) -> int | None:
    if artifact is not None:
        return artifact.size_bytes
    return size_reference(result)[0] if candidate is result.baseline else None
