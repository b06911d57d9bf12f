"""What stages hand to each other: frozen, serialisable, with the unit in the name."""

import dataclasses
from pathlib import Path

from kopt.core.budget_records import Budget as Budget
from kopt.core.cost_records import ModelProfile
from kopt.core.errors import ConfigError
from kopt.core.judgement_records import Judgement, Shortfall
from kopt.core.schemes import get_scheme
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class TensorInfo(Record):
    """An input or output of a model or file.

    Attributes:
        name: as the file knows it.
        shape: dimensions, `None` where any size is accepted.
        dtype: NumPy name, e.g. `"float32"`.
        scale: real value of one quantization step; `None` if not quantized.
        zero_point: the integer that stands for 0.0; `None` if not quantized.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclasses.dataclass(frozen=True)
class OperatorCount(Record):
    """How often an operator stands in a file, computing on which type."""

    name: str
    dtype: str
    count: int


@dataclasses.dataclass(frozen=True)
class OutputParity(Record):
    """Differences of one output between two runners, over all examples.

    NaN is counted, never averaged away: the distances are over the elements that are finite on both sides.

    Attributes:
        max_abs, mean_abs, rmse: of `a - b`; NaN if no element is finite on both sides.
        reference_rms: root mean square of `b`.
        cosine: cosine similarity of the flattened outputs.
        argmax_agreement: fraction of examples whose largest entry along the last axis is the same; `None` for
            outputs with a single entry.
        nonfinite_a, nonfinite_b: number of NaN or infinite elements.
    """

    name: str
    max_abs: float
    mean_abs: float
    rmse: float
    reference_rms: float
    cosine: float
    argmax_agreement: float | None
    nonfinite_a: int
    nonfinite_b: int


@dataclasses.dataclass(frozen=True)
class Parity(Record):
    """How far two runners are apart on the same inputs; `b` is the reference."""

    a: str
    b: str
    examples: int
    outputs: tuple[OutputParity, ...]

    @property
    def max_abs(self) -> float:
        """Largest absolute difference over all outputs."""
        return max(output.max_abs for output in self.outputs)

    @property
    def argmax_agreement(self) -> float | None:
        """Lowest argmax agreement over the outputs that have one."""
        known = [output.argmax_agreement for output in self.outputs if output.argmax_agreement is not None]
        return min(known) if known else None


@dataclasses.dataclass(frozen=True)
class TensorQuantization(Record):
    """The grid of a tensor inside a file.

    Attributes:
        name: as the file has it.
        dtype: NumPy name of its integers, or `"int4"`.
        grids: how many it has: one, or one for each channel.
        smallest_step, largest_step: real value of a step, over its grids.
        zero_point: the integer that stands for 0.0; that of the first grid.
    """

    name: str
    dtype: str
    grids: int
    smallest_step: float
    largest_step: float
    zero_point: int


@dataclasses.dataclass(frozen=True)
class FileHash(Record):
    """A file as it should be: its name relative to what it belongs to, its size in bytes and its SHA-256."""

    name: str
    size_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Artifact(Record):
    """An exported file or directory and what is known of it; also the manifest beside it.

    Attributes:
        path: where it lies; in the manifest only its name, so that the two can be moved together.
        format: `"tflite"`, `"onnx"`, `"tensorrt"`, `"saved_model"` or `"keras"`.
        scheme: numeric scheme, a name of `kopt.core.schemes`.
        size_bytes, gzip_bytes: on disk, and after gzip.
        sha256: of the content.
        source_sha256: of the model it was made from (architecture and weights).
        inputs, outputs: signature.
        operators: operators with counts and compute types; empty where the format has no such list.
        options: settings of the export that differ from their defaults, as text.
        versions: packages that made it.
        parity: the file in its own runtime against the model it came from; `None` if there was nothing to compare.
        notes: what the reader of the file should know.
        quantization: grids of the tensors in it, in the order of the file.
        parameters_sha256: of the constants that its reader finds in it; empty in manifests of older versions.
        examples_sha256: of the inputs on which it was compared with the model; empty likewise.
        calibration_sha256: of the inputs whose ranges it has; empty if there were none.
        git_commit: of the working directory at the export, with `-dirty` where files differ from it; empty if none.
        reference: the file beside it with a few inputs and its own outputs; `None` where they would be too large.
    """

    path: str
    format: str
    scheme: str
    size_bytes: int
    gzip_bytes: int
    sha256: str
    source_sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: tuple[OperatorCount, ...]
    options: dict[str, str]
    versions: dict[str, str]
    parity: Parity | None = None
    notes: tuple[str, ...] = ()
    quantization: tuple[TensorQuantization, ...] = ()
    parameters_sha256: str = ""
    examples_sha256: str = ""
    calibration_sha256: str = ""
    git_commit: str = ""
    reference: FileHash | None = None

    @property
    def manifest_path(self) -> Path:
        """Path of the manifest that belongs to the file."""
        return Path(f"{self.path}.json")

    @property
    def reference_path(self) -> Path:
        """Path of the reference inputs and outputs that belong to the file."""
        return Path(f"{self.path}.reference.npz")


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


@dataclasses.dataclass(frozen=True)
class LayerAction(Record):
    """What a transform did to one layer, or why it did nothing."""

    layer: str
    type: str
    detail: str


@dataclasses.dataclass(frozen=True)
class TransformReport(Record):
    """What a transform did and what it left as it was, with the reason."""

    transform: str
    applied: tuple[LayerAction, ...]
    skipped: tuple[LayerAction, ...]


@dataclasses.dataclass(frozen=True)
class ExportConfig(Record):
    """How to export a model; the request of a candidate.

    Attributes:
        format: `"tflite"`, `"onnx"` or `"saved_model"`.
        scheme: numeric scheme.
        io_dtype: type of the file's inputs and outputs; `None` for the scheme's default.
        fallback: layers that stay in float.
    """

    format: str = "tflite"
    scheme: str = "float32"
    io_dtype: str | None = None
    fallback: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        scheme = get_scheme(self.scheme)
        if self.format not in ("tflite", "onnx", "saved_model"):
            raise ConfigError(f"Unknown format {self.format!r}. Accepted: tflite, onnx, saved_model.")
        if self.io_dtype is not None and self.io_dtype not in scheme.io_dtypes:
            raise ConfigError(
                f"Scheme {scheme.name!r} has `io_dtype` {' or '.join(scheme.io_dtypes)}. Received: {self.io_dtype!r}."
            )


@dataclasses.dataclass(frozen=True)
class Candidate(Record):
    """One way to ship the model, tried and measured.

    Attributes:
        name: row of the catalog that made it.
        config: the request.
        status: `"ok"`, or `"failed"` with the reason in `reason`.
        drop: metric of the baseline minus that of the file; negative when the file is better.
        within_budget: it keeps the budget: drop, floor of the classes and constraints. Where so many examples cannot
            tell, `Budget.undecided` says how it counts.
        pareto: no other candidate is at least as good in the metric and in every cost that counts (the objectives; of
            a single one also latency and size) and better in one of them.
        verdict: why it won or lost, in words.
        judgement: against the model as given, with intervals and classes; `None` in reports of older versions.
        shortfalls: what it does not meet.
    """

    name: str
    config: ExportConfig
    status: str
    reason: str = ""
    artifact: Artifact | None = None
    evaluation: Evaluation | None = None
    measurement: Measurement | None = None
    drop: float | None = None
    within_budget: bool = False
    pareto: bool = False
    verdict: str = ""
    judgement: Judgement | None = None
    shortfalls: tuple[Shortfall, ...] = ()


@dataclasses.dataclass(frozen=True)
class OptimizationResult(Record):
    """Everything a run of `kopt.optimize` found.

    Attributes:
        baseline: the model as it was given, measured in its own runtime.
        best_name: name of the best candidate; `None` if none is inside the budget.
        command: the command line or call that reproduces the run.
        nearest_name: where none is inside the budget, the candidate that misses it by least: the sum of the shares by
            which it misses each demand is smallest.
        test: the best candidate on examples that the search never saw; `None` if there were none, or no best.
        target_reached: whether the best has the factors of `Budget.target`; `None` without a target.
        identity: hashes of the model, of the data and of the test data, by which runs are told apart.
        reference_bytes, reference_gzip_bytes: of the model as given: its float32 weights, or its file.
        notes: what a reader must know, e.g. that there were no labels, or what else lay in the work directory.
    """

    model: str
    data: str
    budget: Budget
    baseline: Candidate
    candidates: tuple[Candidate, ...]
    best_name: str | None
    profile: ModelProfile | None
    machine: Machine
    command: str
    seconds: float
    nearest_name: str | None = None
    test: Judgement | None = None
    target_reached: bool | None = None
    identity: dict[str, str] = dataclasses.field(default_factory=dict)
    reference_bytes: int | None = None
    reference_gzip_bytes: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate | None:
        """The candidate with the best objective inside the budget."""
        return next((candidate for candidate in self.candidates if candidate.name == self.best_name), None)

    @property
    def nearest(self) -> Candidate | None:
        """The candidate that misses an impossible budget by least."""
        return next((candidate for candidate in self.candidates if candidate.name == self.nearest_name), None)

    @property
    def pareto(self) -> tuple[Candidate, ...]:
        """The candidates that no other beats in the metric and all costs that count at once."""
        return tuple(candidate for candidate in self.candidates if candidate.pareto)


@dataclasses.dataclass(frozen=True)
class Check(Record):
    """One line of what an installation has and lacks.

    Attributes:
        status: `"ok"`, `"missing"` (a feature is off) or `"warning"` (it works, but not well).
        found: version or fact, in words.
        remedy: what to do about it, e.g. a pip command; empty if nothing is to be done.
    """

    name: str
    status: str
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.status not in ("ok", "missing", "warning"):
            raise ConfigError(f"`status` must be ok, missing or warning. Received: {self.status!r}.")
