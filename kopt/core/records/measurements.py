"""What files cost and score, with the machine that said so."""

import dataclasses

from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class Machine(Record):
    """Where something was measured."""

    system: str
    processor: str
    cores: int
    memory_bytes: int
    accelerators: tuple[str, ...]
    python: str
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Latency(Record):
    """Time of one call, from repeated calls; outliers are kept.

    Attributes:
        batch_size: examples in a call.
        runs: timed calls, after `warmup_runs` that were not counted.
        mean_ms, min_ms, p50_ms, p90_ms, p99_ms: milliseconds a call.
        throughput_per_s: examples a second, `batch_size / p50`.
    """

    batch_size: int
    runs: int
    warmup_runs: int
    mean_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    throughput_per_s: float


@dataclasses.dataclass(frozen=True)
class Energy(Record):
    """Energy of one example.

    Attributes:
        millijoules: per example.
        method: the meter, or the stated assumption when there is no meter.
        measured: false when `method` is an estimate.
    """

    millijoules: float
    method: str
    measured: bool


@dataclasses.dataclass(frozen=True)
class Measurement(Record):
    """What a file costs to run, in one runtime on one machine.

    Attributes:
        threads: threads the runtime was given; `None` means the runtime's own choice.
        latencies: one entry a batch size.
        peak_memory_bytes: highest resident memory of a fresh process that loads and runs the file, less that of the
            same process before loading; `None` if not asked for.
    """

    target: str
    runtime: str
    threads: int | None
    latencies: tuple[Latency, ...]
    machine: Machine
    peak_memory_bytes: int | None = None
    energy: Energy | None = None

    @property
    def latency_ms(self) -> float:
        """Median milliseconds a call at the smallest batch size measured."""
        return min(self.latencies, key=lambda latency: latency.batch_size).p50_ms


@dataclasses.dataclass(frozen=True)
class Evaluation(Record):
    """Metrics of a file in its own runtime on labelled data."""

    target: str
    runtime: str
    examples: int
    metrics: dict[str, float]
