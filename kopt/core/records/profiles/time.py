"""Where a step of a model spends its time, with the unit in the name."""

import dataclasses

from kopt.core.errors import ConfigError
from kopt.core.serialization import Record

PHASES = ("forward", "backward", "update", "other")


@dataclasses.dataclass(frozen=True)
class OpTime(Record):
    """What one operation of a step costs; milliseconds are those of one step, the mean over the profiled ones.

    An operation in a loop runs several times in a step and has one row.

    Attributes:
        name: path of the layer and name of the operation in it, e.g. `"backbone/conv/convolution"`; of an operation
            outside of all layers its name in the graph. Of a fused one the names of its parts, joined with `" + "`.
        type: kernel that ran, as TensorFlow calls it, e.g. `"_MklNativeFusedConv2D"`.
        layer: path of the innermost layer it belongs to, as `kopt.graph.layer_paths` has it; `None` if to none.
        phase: `"forward"` (in a layer), `"backward"`, `"update"` (by the optimizer) or `"other"` (loss, metrics).
        device: `"cpu"`, or e.g. `"gpu:0"` for the kernels that the operation started there.
        count: calls in all profiled steps.
        total_ms: from the start to the end of its calls, with what they called in turn.
        self_ms: the same without what they called in turn.
        busy_ms: time of all threads that worked for it: `self_ms`, and that of the helper threads among which a kernel
            divides its work.
        wall_ms: its share of the duration of the step: while n threads work, each counts 1/n.
        share: `wall_ms` as a fraction of the step.
        output_bytes: of its results in one call; 0 if it has none, `None` if their sizes are not known.
        allocated_bytes: that the profiler saw it allocate in one call; `None` where allocations are not recorded, as
            on processors.
    """

    name: str
    type: str
    layer: str | None
    phase: str
    device: str
    count: int
    total_ms: float
    self_ms: float
    busy_ms: float
    wall_ms: float
    share: float
    output_bytes: int | None
    allocated_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ConfigError(f"`phase` must be one of {', '.join(PHASES)}. Received: {self.phase!r}.")

    @property
    def memory_bytes(self) -> int | None:
        """What it allocated if that was recorded, else the size of its results."""
        return self.output_bytes if self.allocated_bytes is None else self.allocated_bytes


@dataclasses.dataclass(frozen=True)
class ThreadTimeline(Record):
    """What ran in one thread, or one stream of a device, in the order of its start; times since the first step began.

    Attributes:
        thread: its name, e.g. `"tf_Compute 1"`.
        ops: position of the operation in `OpProfile.ops`, for every entry.
        helper: whether the thread only lent a hand to an operation that runs in another one.
        start_us: when it began.
        duration_us: how long it took.
    """

    thread: str
    ops: tuple[int, ...]
    helper: tuple[bool, ...]
    start_us: tuple[float, ...]
    duration_us: tuple[float, ...]

    def __post_init__(self) -> None:
        if len({len(self.ops), len(self.helper), len(self.start_us), len(self.duration_us)}) > 1:
            raise ConfigError(f"The columns of the timeline of {self.thread!r} must have one length.")


@dataclasses.dataclass(frozen=True)
class OpProfile(Record):
    """Which operations of a step take the time.

    Attributes:
        model: its name.
        step: `"training"` (forward, backward, update, metrics) or `"inference"`.
        batch_examples: examples in the batch.
        steps: that were profiled.
        step_ms: of one step under the profiler, the mean.
        plain_step_ms: of one step of the same function without the profiler, the median.
        step_start_us, step_duration_us: of every profiled step, from the start of the first one.
        ops: the operations, those of the largest `wall_ms` first.
        timelines: what ran when in every thread.
        notes: what a reader of the numbers must know.
        machine_cores: processor cores that the process may use.
    """

    model: str
    step: str
    batch_examples: int
    steps: int
    step_ms: float
    plain_step_ms: float
    step_start_us: tuple[float, ...]
    step_duration_us: tuple[float, ...]
    ops: tuple[OpTime, ...]
    timelines: tuple[ThreadTimeline, ...]
    notes: tuple[str, ...]
    machine_cores: int

    @property
    def ops_ms(self) -> float:
        """Part of a step in which at least one operation ran."""
        return sum(op.wall_ms for op in self.ops)

    @property
    def rest_ms(self) -> float:
        """Part of a step in which no operation ran: Python, dispatch, waking threads."""
        return max(0.0, self.step_ms - self.ops_ms)

    @property
    def busy_ms(self) -> float:
        """Time of all threads together; above `step_ms` where they ran in parallel."""
        return sum(op.busy_ms for op in self.ops)

    @property
    def overhead(self) -> float:
        """How much longer a step took under the profiler, as a fraction of the plain one."""
        return self.step_ms / self.plain_step_ms - 1.0


@dataclasses.dataclass(frozen=True)
class LayerTime(Record):
    """What one layer costs in a step: operations of its own, not those of layers inside it.

    Attributes:
        layer: path.
        type: class name.
        forward_ms: its share of the duration of the step in the forward pass.
        backward_ms: the same in the backward pass; `None` for inference.
        busy_ms: time of all threads that worked for it, in both passes.
        ops: different operations of it that ran.
    """

    layer: str
    type: str
    forward_ms: float
    backward_ms: float | None
    busy_ms: float
    ops: int

    @property
    def total_ms(self) -> float:
        """Both passes."""
        return self.forward_ms + (self.backward_ms or 0.0)


@dataclasses.dataclass(frozen=True)
class LayerTimes(Record):
    """Which layers take the time of a step. The parts add up: layers, update, other and rest make `step_ms`.

    Attributes:
        model: its name.
        step: `"training"` or `"inference"`.
        batch_examples: examples in the batch.
        steps: that were profiled.
        step_ms: of one step under the profiler, the mean.
        plain_step_ms: of one step of the same function without the profiler, the median.
        layers: in the order of the model.
        update_ms: of the optimizer; `None` for inference.
        other_ms: of operations that belong to no layer: the loss and its gradient, metrics, sums of gradients from
            several layers.
        notes: what a reader of the numbers must know.
    """

    model: str
    step: str
    batch_examples: int
    steps: int
    step_ms: float
    plain_step_ms: float
    layers: tuple[LayerTime, ...]
    update_ms: float | None
    other_ms: float
    notes: tuple[str, ...]

    @property
    def forward_ms(self) -> float:
        """Of all layers."""
        return sum(layer.forward_ms for layer in self.layers)

    @property
    def backward_ms(self) -> float | None:
        """Of all layers; `None` for inference."""
        return None if self.step == "inference" else sum(layer.backward_ms or 0.0 for layer in self.layers)

    @property
    def rest_ms(self) -> float:
        """Part of the step in which no operation ran: Python, dispatch, waking threads."""
        parts = self.forward_ms + (self.backward_ms or 0.0) + (self.update_ms or 0.0) + self.other_ms
        return max(0.0, self.step_ms - parts)
