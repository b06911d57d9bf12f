"""What somebody who gets the file has to know: what it is, from what, how good, and where its numbers end."""

from collections.abc import Iterator

from kopt.core.records.candidates import OptimizationResult
from kopt.report.parts import formats
from kopt.report.run import outcome
from kopt.report.run.before_after import drop_text, with_ends
from kopt.report.run.rows import Row

_FEW_EXAMPLES = 1000


def model_card(result: OptimizationResult, chosen: Row) -> tuple[tuple[str, str], ...]:
    """Return pairs of a heading and a text."""
    return tuple(_facts(result, chosen))


def _facts(result: OptimizationResult, chosen: Row) -> Iterator[tuple[str, str]]:
    artifact = chosen.candidate.artifact
    if artifact is not None:
        inputs = ", ".join(f"{one.name} {formats.shape(one.shape)} {one.dtype}" for one in artifact.inputs)
        outputs = ", ".join(f"{one.name} {formats.shape(one.shape)} {one.dtype}" for one in artifact.outputs)
        yield (
            "What it is",
            (
                f"{artifact.format}, {artifact.scheme}, {formats.size(artifact.size_bytes)}, made from {result.model} "
                f"by {chosen.name}. It takes {inputs} and gives {outputs}. SHA-256 {artifact.sha256}."
            ),
        )
        yield "Made from", f"{result.model}, SHA-256 of architecture and weights {artifact.source_sha256}."
    yield "Data", f"Judged on {result.data}.{_data_hash(result)}"
    yield "Metrics", " ".join(_metrics(result, chosen))
    yield "Runs in", f"{chosen.runtime}, measured on {result.machine.processor}, {result.machine.cores} core(s)."
    yield "Limits", " ".join(_limits(result, chosen))


def _data_hash(result: OptimizationResult) -> str:
    found = result.identity.get("data")
    return f" SHA-256 of calibration and validation {found}." if found else ""


def _metrics(result: OptimizationResult, chosen: Row) -> Iterator[str]:
    metric, judgement = result.budget.metric, chosen.candidate.judgement
    yield f"{metric.capitalize()} {with_ends(chosen.metric, chosen.interval, metric)} on validation."
    if judgement is not None:
        yield f"Against the model as given it {drop_text(judgement)}. {judgement.method.rstrip('.')}."
    if result.test is not None:
        after = with_ends(result.test.after, result.test.after_interval, metric)
        yield f"On {result.test.examples:,} untouched test examples: {after}; it {drop_text(result.test)}."


def _limits(result: OptimizationResult, chosen: Row) -> Iterator[str]:
    yield from result.notes
    yield from outcome.doubts(result, chosen)
    if result.test is None:
        yield (
            "The file was chosen on the examples that its numbers come from, which flatters them; no test examples "
            "were set aside."
        )
    if chosen.examples is not None and chosen.examples < _FEW_EXAMPLES:
        yield f"{chosen.examples:,} examples show only large differences."
    judgement = chosen.candidate.judgement
    worst = judgement.most_changed if judgement else None
    if worst is not None and worst.drop > 0:
        yield (
            f"Class {worst.label} lost most: {formats.metric_change(worst.drop, 'accuracy')} points of "
            f"{worst.examples:,} examples."
        )
    if chosen.energy is not None and not chosen.energy.measured:
        yield f"Its energy is an {chosen.energy.method.removesuffix('; not measured')}."
    yield "Latency, memory and energy are of this machine and these versions; other devices differ."
