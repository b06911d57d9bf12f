"""Ways to ship a model, each with its evidence, and the one that was chosen."""

import dataclasses

from kopt.core.errors import ConfigError
from kopt.core.records.artifacts import Artifact
from kopt.core.records.measurements import Evaluation, Machine, Measurement
from kopt.core.records.profiles.cost import ModelProfile
from kopt.core.records.profiles.sensitivity import SensitivityProfile
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.decisions import Decision
from kopt.core.records.search.judgement import Judgement, Shortfall
from kopt.core.records.search.techniques import Step
from kopt.core.schemes import get_scheme
from kopt.core.serialization import Record


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
        verdict: why it won or lost, in a few words.
        doubt: what so many examples cannot tell about it, with numbers; empty if nothing is open.
        made: what the last of its steps did, in words.
        judgement: against the model as given, with intervals and classes; `None` in reports of older versions.
        shortfalls: what it does not meet.
        steps: what was done to the model before it was exported, in order.
        why: what spoke for trying it, in words; empty for the plain ways to ship.
        seconds: that making it took, without steps shared with others.
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
    steps: tuple[Step, ...] = ()
    why: str = ""
    seconds: float = 0.0
    doubt: str = ""
    made: str = ""


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
        decisions: on models that were looked at before any file was made of them, in order.
        ended: why the search ended.
        notes: what was found out and what was not tried, with the reason.
        sensitivity: of the layers of the model as given; `None` where it was not measured.
        no_sensitivity: why it was not.
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
    decisions: tuple[Decision, ...] = ()
    ended: str = ""
    notes: tuple[str, ...] = ()
    sensitivity: SensitivityProfile | None = None
    no_sensitivity: str = ""

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
