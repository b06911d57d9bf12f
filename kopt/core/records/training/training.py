"""What training hands to other stages: frozen, serialisable, with the unit in the name."""

import dataclasses

from kopt.core.errors import ConfigError
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class LayerMultiplier(Record):
    """What the learning rate of one variable is multiplied with.

    Attributes:
        variable: its path in the model.
        layer_type: class of the innermost layer around it.
        gradient_variance: variance of the layer's gradient between batches, mean over its parameters; `None` if it was
            not measured.
    """

    variable: str
    layer_type: str
    multiplier: float
    gradient_variance: float | None = None


@dataclasses.dataclass(frozen=True)
class LayerMultipliers(Record):
    """Multipliers of the learning rate for all variables to train, in the order of the model."""

    rows: tuple[LayerMultiplier, ...]

    def __post_init__(self) -> None:
        known: dict[str, float] = {}
        for row in self.rows:
            if known.setdefault(row.variable, row.multiplier) != row.multiplier:
                raise ConfigError(
                    f"Two variables have the path {row.variable!r} and different multipliers, {known[row.variable]:g} "
                    f"and {row.multiplier:g}. Give their layers different names."
                )

    @property
    def by_variable(self) -> dict[str, float]:
        """Multipliers by path of the variable."""
        return {row.variable: row.multiplier for row in self.rows}


@dataclasses.dataclass(frozen=True)
class BatchNormChange(Record):
    """How the statistics of one batch normalization changed.

    Attributes:
        layer: its path in the model.
        values: numbers that each channel's new statistics were computed from.
        mean_shift: root mean square over the channels of the change of the mean, in old standard deviations.
        variance_ratio: geometric mean over the channels of new variance over old.
    """

    layer: str
    values: int
    mean_shift: float
    variance_ratio: float


@dataclasses.dataclass(frozen=True)
class BatchNormReport(Record):
    """What a re-estimation of batch normalization statistics did.

    Attributes:
        mode: `"joint"` or `"sequential"`.
        batches, examples: what was read.
        layers: changed layers in the order in which the model calls them.
        skipped: layers that were left as they were, as (path, reason).
    """

    mode: str
    batches: int
    examples: int
    layers: tuple[BatchNormChange, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class MomentumChange(Record):
    """One adaptation of the momentum of a batch normalization.

    Attributes:
        step: training steps since the start of `fit`.
        layer: name of the layer.
        drift: distance of the recent batch statistics from the moving ones, in standard deviations.
        momentum: what the layer uses from then on.
    """

    step: int
    layer: str
    drift: float
    momentum: float


@dataclasses.dataclass(frozen=True)
class RematBlock(Record):
    """A part of a model that is computed again in the backward pass.

    Attributes:
        name: path of the layer, or `"first..last"`.
        calls: layers and operations in it.
        kept_bytes: of the tensors it takes, which stay in memory, for one example, by shape; `None` if no graph tells.
            A dimension that is not fixed counts as 1.
        recomputed_bytes: of what the calls inside give, which does not stay, for one example; `None` if no graph tells.
    """

    name: str
    calls: int
    kept_bytes: int | None
    recomputed_bytes: int | None


@dataclasses.dataclass(frozen=True)
class RematPlan(Record):
    """The parts of a model that are computed again; what is in none of them is trained plainly."""

    blocks: tuple[RematBlock, ...]

    def __str__(self) -> str:
        if not self.blocks:
            return "Nothing is rematerialized: the model is too small for parts to need less memory than the whole."
        lines = [f"{len(self.blocks)} block(s) are computed again in the backward pass:"]
        for block in self.blocks:
            known = block.kept_bytes is not None and block.recomputed_bytes is not None
            size = f"{block.kept_bytes:,} bytes an example kept, {block.recomputed_bytes:,} not" if known else ""
            lines.append(f"  {block.name} ({block.calls} calls{', ' + size if size else ''})")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class RematReport(Record):
    """Memory and time of training steps, plain and rematerialized.

    Attributes:
        batch_size: examples a step.
        device: `"CPU"` or the GPU's name.
        method: how the memory was measured, in a sentence.
        jit_compile: whether the steps were compiled with XLA.
        plain_peak_bytes, remat_peak_bytes: how far memory rose above what it was before the first step; `None` for the
            plain step if it does not fit into memory.
        plain_step_ms, remat_step_ms: medians of steps in turn, after one that is not counted.
        plan: the blocks.
    """

    batch_size: int
    device: str
    method: str
    jit_compile: bool
    plain_peak_bytes: int | None
    remat_peak_bytes: int
    plain_step_ms: float | None
    remat_step_ms: float
    plan: RematPlan

    @property
    def memory_ratio(self) -> float | None:
        """Rematerialized over plain peak; `None` if the plain step does not fit."""
        return self.remat_peak_bytes / self.plain_peak_bytes if self.plain_peak_bytes else None

    @property
    def time_ratio(self) -> float | None:
        """Rematerialized over plain step time; `None` if the plain step does not fit."""
        return self.remat_step_ms / self.plain_step_ms if self.plain_step_ms else None

    def __str__(self) -> str:
        ours = f"{self.remat_peak_bytes / 2**20:.0f} MiB and {self.remat_step_ms:.1f} ms a step rematerialized"
        start = f"Batch of {self.batch_size} on {self.device}: {ours}"
        if not self.plain_peak_bytes or not self.plain_step_ms:
            return f"{start}; the plain step does not fit into memory. {self.method}"
        return (
            f"{start}, {self.plain_peak_bytes / 2**20:.0f} MiB and {self.plain_step_ms:.1f} ms plain "
            f"({self.memory_ratio:.2f} and {self.time_ratio:.2f} times). {self.method}"
        )


@dataclasses.dataclass(frozen=True)
class NonFiniteReport(Record):
    """The first place of a training step at which a number was NaN or infinite.

    Attributes:
        kind: `"input"`, `"weight"`, `"activation"`, `"loss"` or `"gradient"`.
        name: of the input, the path of the weight or layer, or `"loss"`.
        what: the class of the layer; empty for an input and the loss.
        nans, infinities: bad entries of the tensor.
        size: all of its entries.
        index: of the first bad entry.
        dtype: of the tensor.
        detail: what the tensor is, in words.
        hint: what to try.
    """

    kind: str
    name: str
    what: str
    nans: int
    infinities: int
    size: int
    index: tuple[int, ...]
    dtype: str
    detail: str
    hint: str

    def __str__(self) -> str:
        return (
            f"{self.detail} has {self.nans} NaN and {self.infinities} infinite of {self.size} {self.dtype} numbers, "
            f"the first at index {self.index}. {self.hint}"
        )


@dataclasses.dataclass(frozen=True)
class InputScale(Record):
    """An input that is far from a mean of 0 and a deviation of 1, and that the model does not scale.

    Attributes:
        name: of the input.
        mean, deviation: over the first batch.
        remedy: the layer that scales it, as code.
    """

    name: str
    mean: float
    deviation: float
    remedy: str

    def __str__(self) -> str:
        return (
            f"The input {self.name!r} has mean {self.mean:.3g} and standard deviation {self.deviation:.3g} in the "
            f"first batch; networks train best near 0 and 1. Put {self.remedy} first in the model, or scale the data."
        )


@dataclasses.dataclass(frozen=True)
class InputCheck(Record):
    """What was looked at before the first training step, and what is worth knowing about it.

    Attributes:
        examples: in the batch that was looked at.
        inputs: names of the model's inputs.
        notes: warnings and remarks; empty if nothing is unusual. What cannot be trained on is an error instead.
        unscaled: the inputs that a note calls far from 0 and 1.
    """

    examples: int
    inputs: tuple[str, ...]
    notes: tuple[str, ...]
    unscaled: tuple[InputScale, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self.notes) or f"The first batch ({self.examples} examples) fits the model."


@dataclasses.dataclass(frozen=True)
class GpuInfo(Record):
    """A GPU as TensorFlow describes it.

    Attributes:
        compute_capability: of an NVIDIA GPU, e.g. `(8, 0)`; `None` where there is none.
    """

    name: str
    compute_capability: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Hardware(Record):
    """What a training runs on, as far as the choice of a precision depends on it.

    Attributes:
        cpu: name of the processor.
        cpu_flags: instruction sets as Linux spells them, e.g. `"avx512_bf16"`; empty where they are not known.
        gpus: that TensorFlow may use.
        tpus: number of TPU cores.
    """

    cpu: str
    cpu_flags: tuple[str, ...] = ()
    gpus: tuple[GpuInfo, ...] = ()
    tpus: int = 0


@dataclasses.dataclass(frozen=True)
class PrecisionChoice(Record):
    """A dtype policy and why it was chosen.

    Attributes:
        policy: `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.
        reason: in words.
        device: the device that decided.
    """

    policy: str
    reason: str
    device: str

    def __str__(self) -> str:
        return f"{self.policy} on {self.device}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class DeviceChange(Record):
    """A setting of TensorFlow's devices that was changed for this process.

    Attributes:
        setting: what was set.
        devices: that it holds for; empty if there is none, so that nothing was changed.
        effect: what it does and costs, in words.
    """

    setting: str
    devices: tuple[str, ...]
    effect: str

    def __str__(self) -> str:
        return f"{self.setting} ({', '.join(self.devices) or 'no such device'}): {self.effect}"


@dataclasses.dataclass(frozen=True)
class Cluster(Record):
    """The processes of a distributed training, as TF_CONFIG names them.

    Attributes:
        jobs: addresses by job, e.g. `{"worker": ("10.0.0.1:2222", "10.0.0.2:2222")}`.
        task_type, task_index: which of them this process is.
    """

    jobs: dict[str, tuple[str, ...]]
    task_type: str
    task_index: int

    @property
    def workers(self) -> int:
        """Processes that compute gradients: workers, and the chief unless parameter servers hold the variables."""
        chiefs = 0 if "ps" in self.jobs else len(self.jobs.get("chief", ()))
        return chiefs + len(self.jobs.get("worker", ()))


@dataclasses.dataclass(frozen=True)
class DistributionPlan(Record):
    """How a training is spread over devices and processes, and why.

    Attributes:
        requested: the name that was asked for.
        strategy: `"one_device"`, `"mirrored"`, `"multi_worker"`, `"parameter_server"` or `"tpu"`.
        reason: why this one, in words.
        devices: of this process that compute.
        cluster: all processes; `None` if there is one.
        replicas: copies of the model that each take a part of every batch.
        per_replica_batch_size, global_batch_size: examples a replica and all replicas take in a step; `None` if neither
            was given.
        learning_rate, scaled_learning_rate: for a batch of `per_replica_batch_size`, and for the global one.
        scale_learning_rate: `"linear"`, `"sqrt"` or `None`.
        warnings: what the reader should know.
    """

    requested: str
    strategy: str
    reason: str
    devices: tuple[str, ...]
    cluster: Cluster | None
    replicas: int
    per_replica_batch_size: int | None = None
    global_batch_size: int | None = None
    learning_rate: float | None = None
    scaled_learning_rate: float | None = None
    scale_learning_rate: str | None = None
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"Strategy: {self.strategy}, because {self.reason}"]
        if self.cluster is not None:
            jobs = ", ".join(f"{len(addresses)} {job}" for job, addresses in self.cluster.jobs.items())
            lines.append(f"Cluster: {jobs}; this process is {self.cluster.task_type} {self.cluster.task_index}.")
        lines.append(f"Devices of this process: {', '.join(self.devices)}; replicas in all: {self.replicas}.")
        if self.global_batch_size is not None:
            lines.append(
                f"Batch: {self.per_replica_batch_size} examples a replica, {self.global_batch_size} in all. Give the "
                f"data set batches of {self.global_batch_size}."
            )
        if self.scaled_learning_rate is not None:
            rule = f"{self.scale_learning_rate} rule" if self.scale_learning_rate else "not scaled"
            lines.append(f"Learning rate: {self.learning_rate:g} becomes {self.scaled_learning_rate:g} ({rule}).")
        return "\n".join([*lines, *(f"Warning: {warning}" for warning in self.warnings)])


@dataclasses.dataclass(frozen=True)
class Stage(Record):
    """Consecutive layers that run on one device.

    Attributes:
        layers: their names.
        parameter_bytes: of their variables.
    """

    device: str
    layers: tuple[str, ...]
    parameter_bytes: int


@dataclasses.dataclass(frozen=True)
class PlacementReport(Record):
    """Which layers of a model run on which device.

    Attributes:
        stages: in the order in which data flows; a device may come more than once if the mapping says so.
        crossings: tensors that are copied from one device to another in a forward pass.
        skipped: operations that stay where TensorFlow puts them, as (name, reason).
    """

    stages: tuple[Stage, ...]
    crossings: int
    skipped: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{stage.device}: {len(stage.layers)} layers, {stage.parameter_bytes:,} bytes of variables "
            f"({stage.layers[0]} .. {stage.layers[-1]})"
            for stage in self.stages
        ]
        lines += [f"not placed: {name} ({reason})" for name, reason in self.skipped]
        return "\n".join([*lines, f"{self.crossings} tensor(s) cross devices in a forward pass."])
