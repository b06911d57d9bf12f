"""The model as given and the chosen file, number by number."""

import dataclasses
from collections.abc import Iterator

from kopt.core.records.candidates import OptimizationResult
from kopt.core.records.measurements import Energy
from kopt.core.records.search.judgement import Ends, Judgement
from kopt.core.records.search.quantities import smallest_batch
from kopt.report.parts import formats
from kopt.report.run.rows import Row, baseline_row


@dataclasses.dataclass(frozen=True)
class Change:
    """A number before and after, as text.

    Attributes:
        what: the number, with its unit.
        before, after: of the model as given and of the file.
        change: of the two; empty where it says nothing.
    """

    what: str
    before: str
    after: str
    change: str = ""


def changes(result: OptimizationResult, chosen: Row) -> tuple[Change, ...]:
    """Return every number that is known of both, metrics first."""
    baseline = baseline_row(result)
    return (
        *_metrics(result, chosen, baseline),
        *_times(baseline, chosen),
        *_sizes(result, baseline, chosen),
        *_memory(baseline, chosen),
        *_energy(baseline.energy, chosen.energy),
    )


def with_ends(value: float | None, ends: Ends | None, metric: str) -> str:
    """Return a metric with its interval: `97.90% (97.17% to 98.44%)`."""
    text = formats.metric_value(value, metric)
    return text if ends is None else f"{text} ({' to '.join(formats.metric_value(end, metric) for end in ends)})"


def drop_text(judgement: Judgement) -> str:
    """Return what was lost with its interval, e.g. `loses 0.37 points (-0.65 to 1.39, 95%)`."""
    amount = formats.metric_change(judgement.drop, judgement.metric)
    unit = formats.change_unit(judgement.metric)
    verb = "gains" if amount.startswith("-") else "loses"
    text = f"{verb} {amount.removeprefix('-')} {unit}"
    if judgement.interval is None:
        return text
    low, high = (formats.metric_change(end, judgement.metric) for end in judgement.interval)
    return f"{text} (drop {low} to {high}, {judgement.level:.0%})"


def _metrics(result: OptimizationResult, chosen: Row, baseline: Row) -> Iterator[Change]:
    metric, found = result.budget.metric, chosen.candidate.judgement
    if found is not None:
        yield _judged(f"{metric.capitalize()}, {found.examples:,} validation examples", found)
    else:
        yield Change(
            metric.capitalize(),
            with_ends(baseline.metric, baseline.interval, metric),
            with_ends(chosen.metric, chosen.interval, metric),
            formats.metric_change(chosen.drop, metric),
        )
    if result.test is not None:
        yield _judged(f"{metric.capitalize()}, {result.test.examples:,} untouched test examples", result.test)
    if chosen.candidate.evaluation is not None and result.baseline.evaluation is not None:
        for name, value in chosen.candidate.evaluation.metrics.items():
            if name != metric:
                before = result.baseline.evaluation.metrics.get(name)
                yield Change(name, formats.metric_value(before, name), formats.metric_value(value, name))
    if chosen.agreement is not None:
        yield Change("Same answer as the model as given", "100%", formats.agreement(chosen.agreement))


def _judged(what: str, judgement: Judgement) -> Change:
    return Change(
        what,
        with_ends(judgement.before, judgement.before_interval, judgement.metric),
        with_ends(judgement.after, judgement.after_interval, judgement.metric),
        drop_text(judgement),
    )


def _times(baseline: Row, chosen: Row) -> Iterator[Change]:
    before, after = baseline.latency, smallest_batch(chosen.candidate.measurement)
    if before is None or after is None:
        return
    for name, old, new in (("p50", before.p50_ms, after.p50_ms), ("p99", before.p99_ms, after.p99_ms)):
        faster = f"{formats.times(old / new)} as fast" if new > 0 and before.batch_size == after.batch_size else ""
        yield Change(f"Latency {name}, ms", formats.number(old), formats.number(new), faster)


def _sizes(result: OptimizationResult, baseline: Row, chosen: Row) -> Iterator[Change]:
    artifact, given = chosen.candidate.artifact, baseline.candidate.artifact
    if artifact is None:
        return
    packed = given.gzip_bytes if given else result.reference_gzip_bytes
    for what, old, new in (
        ("Size", baseline.size_bytes, artifact.size_bytes),
        ("Size after gzip", packed, artifact.gzip_bytes),
    ):
        yield Change(what, formats.size(old), formats.size(new), f"{formats.share(new / old)} of it" if old else "")


def _memory(baseline: Row, chosen: Row) -> Iterator[Change]:
    peaks = [
        row.candidate.measurement.peak_memory_bytes if row.candidate.measurement else None for row in (baseline, chosen)
    ]
    if any(peak is not None for peak in peaks):
        old, new = peaks
        change = f"{formats.share(new / old)} of it" if old and new is not None else ""
        yield Change("Peak memory of loading and running", formats.size(old), formats.size(new), change)


def _energy(before: Energy | None, after: Energy | None) -> Iterator[Change]:
    if before is None and after is None:
        return
    alike = before is not None and after is not None and before.measured == after.measured and before.millijoules > 0
    change = f"{formats.share(after.millijoules / before.millijoules)} of it" if alike and before and after else ""
    yield Change("Energy, mJ an example", energy_text(before), energy_text(after), change)


def energy_text(energy: Energy | None) -> str:
    """Return millijoules, with the sign of an estimate where it is one."""
    if energy is None:
        return formats.NOTHING
    return f"{'' if energy.measured else '≈ '}{formats.number(energy.millijoules)}"
