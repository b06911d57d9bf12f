"""How training is spread over devices and machines."""

import dataclasses

from kopt.core.serialization import Record


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
