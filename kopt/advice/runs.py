"""Advice on a run of `kopt.optimize`, from the records it has: nothing runs."""

import dataclasses
from typing import Any

from kopt.advice.facts import Facts
from kopt.advice.judging import judge
from kopt.advice.result import Advice
from kopt.core.records.candidates import Candidate, OptimizationResult
from kopt.core.records.profiles.circumstances import DeployedFile, Deployment
from kopt.core.records.search.advice import LookTaken

_NOT_IN_A_RUN = "A run does not look at it: `kopt.advise(model, train, validation)` does."


def from_run(result: OptimizationResult, more: Facts | None = None) -> Advice:
    """Return what a run of `kopt.optimize` shows that should be changed, from its records alone.

    Args:
        result: what `kopt.optimize` returned, or `kopt.report.read_result` loaded.
        more: records that are known beside, e.g. `kopt.advice.Facts(parameters=kopt.profile.parameters(model))`.

    Returns:
        Advice; its looks say what a run cannot tell.

    Example:
        >>> found = kopt.advice.from_run(kopt.report.read_result("run"))
        >>> found.model, "failed-export" in found.checked, "input-bound" in found.unchecked
        ('digits', True, True)
    """
    facts = more or Facts()
    facts = dataclasses.replace(
        facts,
        cost=result.profile or facts.cost,
        sensitivity=result.sensitivity or facts.sensitivity,
        deployment=deployment_of(result),
    )
    looks = tuple(_look(field.name, getattr(facts, field.name)) for field in dataclasses.fields(Facts))
    reasons = {one.name: one.reason for one in looks}
    judgement = judge(facts, reasons)
    return Advice(
        model=result.model,
        depth="full",
        items=judgement.items,
        looks=looks,
        checked=judgement.checked,
        unchecked=judgement.unchecked,
        notes=(),
        machine=result.machine,
        seconds=0.0,
    )


def _look(name: str, record: Any) -> LookTaken:
    subject = name.replace("_", " ")
    return LookTaken(name, subject, 0.0) if record is not None else LookTaken(name, subject, None, _NOT_IN_A_RUN)


def deployment_of(result: OptimizationResult) -> Deployment:
    """Return the model and the candidates of a run as ways to ship it."""
    files = tuple(_file(one.name, one) for one in result.candidates)
    return Deployment((_file("keras", result.baseline), *files), result.budget.max_drop)


def _file(name: str, candidate: Candidate) -> DeployedFile:
    measured, artifact = candidate.measurement, candidate.artifact
    return DeployedFile(
        name=name,
        scheme=candidate.config.scheme,
        threads=measured.threads if measured else None,
        latency_ms=measured.latency_ms if measured else None,
        size_bytes=artifact.size_bytes if artifact else None,
        drop=candidate.drop,
        reason=candidate.reason if candidate.status == "failed" else "",
    )
