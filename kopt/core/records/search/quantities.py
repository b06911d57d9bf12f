"""The numbers of a candidate by the names that budgets use."""

import math

from kopt.core.records.candidates import Candidate
from kopt.core.records.measurements import Latency, Measurement
from kopt.core.records.search.budget import QUANTITY_OF, Budget

# Costs of which more is better.
_LARGER = ("throughput_per_s",)


def smallest_batch(measurement: Measurement | None) -> Latency | None:
    """Return the latency at the smallest batch size measured."""
    if measurement is None or not measurement.latencies:
        return None
    return min(measurement.latencies, key=lambda latency: latency.batch_size)


def value_of(candidate: Candidate, quantity: str) -> float | None:
    """Return a cost or metric of a candidate; `None` if it is not known.

    Args:
        candidate: measured or not.
        quantity: a cost of `kopt.core.records.search.budget`, or a metric of its evaluation. Latencies are those of the
            smallest batch measured, throughput that of the best.
    """
    artifact, measurement = candidate.artifact, candidate.measurement
    latency = smallest_batch(measurement)
    if quantity == "size_bytes":
        return None if artifact is None else float(artifact.size_bytes)
    if quantity == "gzip_bytes":
        return None if artifact is None else float(artifact.gzip_bytes)
    if quantity == "latency_ms":
        return latency.p50_ms if latency else None
    if quantity == "p99_ms":
        return latency.p99_ms if latency else None
    if quantity == "throughput_per_s":
        return max((one.throughput_per_s for one in measurement.latencies), default=None) if measurement else None
    if quantity == "peak_memory_bytes":
        peak = measurement.peak_memory_bytes if measurement else None
        return None if peak is None else float(peak)
    if quantity == "millijoules":
        return measurement.energy.millijoules if measurement and measurement.energy else None
    return candidate.evaluation.metrics.get(quantity) if candidate.evaluation else None


def to_minimize(candidate: Candidate, objective: str) -> float | None:
    """Return the objective as a number of which less is better: of throughput the seconds an example."""
    quantity = QUANTITY_OF[objective]
    value = value_of(candidate, quantity)
    if value is None or quantity not in _LARGER:
        return value
    return 1.0 / value if value > 0 else math.inf


def joint(candidate: Candidate, budget: Budget) -> float:
    """Return what the budget minimizes: its objective, of several the geometric mean; infinite if one is not known."""
    values = [to_minimize(candidate, objective) for objective in budget.objectives]
    if any(value is None for value in values):
        return math.inf
    known = [value for value in values if value is not None]
    if len(known) == 1:
        return known[0]
    return math.exp(sum(math.log(value) if value > 0 else -math.inf for value in known) / len(known))


def improvement(candidate: Candidate, baseline: Candidate, objective: str, reference_bytes: int | None) -> float | None:
    """Return by which factor an objective is better than that of the model as given; `None` if it is not known.

    Args:
        candidate: measured.
        baseline: the model as given.
        objective: e.g. `"latency"`.
        reference_bytes: size of the model as given, which need not have been a file.
    """
    own, given = to_minimize(candidate, objective), to_minimize(baseline, objective)
    if objective == "size" and given is None and reference_bytes is not None:
        given = float(reference_bytes)
    return given / own if own and given else None
