"""Advice on a run of `kopt.optimize`, from the records it has: nothing runs."""

from kopt.advice.facts import Facts
from kopt.advice.judging import judge
from kopt.advice.result import Advice
from kopt.core.advice_records import LookTaken
from kopt.core.circumstance_records import DeployedFile, Deployment
from kopt.core.records import Candidate, OptimizationResult

_NOT_IN_A_RUN = "A run does not look at it: `kopt.advise(model, train, validation)` does."
_NO_PROFILE = "The run has no profile: the model was given as a SavedModel."


def from_run(result: OptimizationResult) -> Advice:
    """Return what a run of `kopt.optimize` shows that should be changed, from its records alone.

    Args:
        result: what `kopt.optimize` returned, or `kopt.report.read_result` loaded.

    Returns:
        Advice; its looks say what a run cannot tell.

    Example:
        ```python
        print(kopt.advice.from_run(kopt.report.read_result("run")).table())
        ```
    """
    facts = Facts(cost=result.profile, deployment=deployment_of(result))
    looks = (
        LookTaken("deployment", "the candidates of the run", result.seconds),
        LookTaken("cost", "parameters and operations by layer", None, _NO_PROFILE)
        if result.profile is None
        else LookTaken("cost", "parameters and operations by layer", 0.0),
    )
    reasons = dict.fromkeys(Facts.__dataclass_fields__, _NOT_IN_A_RUN) | {one.name: one.reason for one in looks}
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
