"""What a distributed training will look like, worked out from devices and TF_CONFIG before anything is built."""

import math
import os
from collections.abc import Sequence

from kopt.core.errors import ConfigError, nearest
from kopt.core.records.training.distribution import Cluster, DistributionPlan
from kopt.train.distribution.cluster import parse_tf_config
from kopt.train.distribution.devices import known_devices, logical_device_names

STRATEGIES = ("auto", "mirrored", "multi_worker", "parameter_server", "tpu", "one_device")
_RULES = {"linear": float, "sqrt": math.sqrt}


def plan_distribution(
    name: str = "auto",
    *,
    devices: Sequence[str] | None = None,
    per_replica_batch_size: int | None = None,
    global_batch_size: int | None = None,
    learning_rate: float | None = None,
    scale_learning_rate: str | None = None,
    tf_config: str | None = None,
    available: Sequence[str] | None = None,
) -> DistributionPlan:
    """Return which strategy fits, with how many replicas, batch sizes and learning rate; `print` it to read why.

    `"auto"` takes, in this order: parameter servers if TF_CONFIG names some, several workers if it names some, TPU
    cores, all GPUs if there are two or more, one device. Pass the plan to `kopt.train.strategy`.

    With R replicas: global batch = R * batch a replica. The learning rate for the global batch is R times
    (`"linear"`) or sqrt(R) times (`"sqrt"`) the one for a batch of `per_replica_batch_size`.

    A batch that R does not divide, such as the last of an epoch, is split unevenly and Keras averages the parts' means,
    so its examples do not count the same.

    Args:
        name: `"auto"`, `"mirrored"` (devices of this machine), `"multi_worker"` (processes of TF_CONFIG),
            `"parameter_server"`, `"tpu"` or `"one_device"`.
        devices: names such as `"GPU:1"`, for `"mirrored"` and `"one_device"`; by default all GPUs, else the CPU.
        per_replica_batch_size: examples that a replica takes in a step.
        global_batch_size: examples that all replicas take; one of the two gives the other.
        learning_rate: for a batch of `per_replica_batch_size`.
        scale_learning_rate: `"linear"`, `"sqrt"`, or `None` to leave it.
        tf_config: text in place of the environment variable TF_CONFIG; `""` for none.
        available: device names in place of those of this process.

    Raises:
        ConfigError: an unknown name, malformed TF_CONFIG, a device that does not exist, a strategy that devices or
            TF_CONFIG do not allow, or numbers that do not fit.

    Example:
        >>> machine = {"available": ["GPU:0", "GPU:1", "GPU:2", "GPU:3"], "tf_config": ""}  # by default, this one
        >>> plan = kopt.train.plan_distribution(
        ...     per_replica_batch_size=64, learning_rate=1e-3, scale_learning_rate="linear", **machine
        ... )
        >>> plan.strategy, plan.replicas, plan.global_batch_size, plan.scaled_learning_rate
        ('mirrored', 4, 256, 0.004)

    Source:
        Linear: Goyal et al., "Accurate, large minibatch SGD", 2017. Square root: Krizhevsky, "One weird trick for
        parallelizing convolutional neural networks", 2014.
    """
    if name not in STRATEGIES:
        raise ConfigError(f"Unknown strategy {name!r}.{nearest(name, STRATEGIES)} Accepted: {', '.join(STRATEGIES)}.")
    cluster = parse_tf_config(os.environ.get("TF_CONFIG", "") if tf_config is None else tf_config)
    known = logical_device_names() if available is None else tuple(available)
    chosen, reason = (name, "it was asked for") if name != "auto" else _choose(known, devices, cluster)
    used, replicas, warnings = _replicas(chosen, known, devices, cluster)
    batches = _batch_sizes(per_replica_batch_size, global_batch_size, replicas)
    rate = _learning_rate(learning_rate, scale_learning_rate, replicas)
    if scale_learning_rate == "linear" and replicas > 1:
        warnings.append("the linear rule needs a warm-up of some epochs at the beginning")
    in_cluster = cluster if chosen in ("multi_worker", "parameter_server") else None
    return DistributionPlan(
        name, chosen, reason, used, in_cluster, replicas, *batches, learning_rate, rate, scale_learning_rate,
        tuple(warnings),
    )  # fmt: skip


def _choose(known: tuple[str, ...], devices: Sequence[str] | None, cluster: Cluster | None) -> tuple[str, str]:
    if cluster is not None and "ps" in cluster.jobs:
        return "parameter_server", "TF_CONFIG names parameter servers"
    if cluster is not None and cluster.workers > 1:
        return "multi_worker", f"TF_CONFIG names {cluster.workers} workers"
    tpus, gpus = _of_kind(known, "TPU"), _of_kind(known, "GPU")
    if tpus and devices is None:
        return "tpu", f"there are {len(tpus)} TPU cores"
    if devices is not None:
        return ("mirrored" if len(devices) > 1 else "one_device"), f"{len(devices)} device(s) were named"
    if len(gpus) > 1:
        return "mirrored", f"there are {len(gpus)} GPUs"
    return "one_device", "there is one GPU" if gpus else "there is no accelerator, and CPUs are not told apart"


def _replicas(
    chosen: str, known: tuple[str, ...], devices: Sequence[str] | None, cluster: Cluster | None
) -> tuple[tuple[str, ...], int, list[str]]:
    """Return the devices of this process, the replicas of all processes, and warnings."""
    local = _of_kind(known, "GPU") or _of_kind(known, "CPU")[:1]
    if chosen in ("mirrored", "one_device"):
        return _on_this_machine(chosen, known, devices, local)
    if devices is not None:
        raise ConfigError(
            f"`devices` are chosen for 'mirrored' and 'one_device'; {chosen!r} uses all that each process sees. Limit "
            f"them with `kopt.train.visible_devices`. Received: {list(devices)}."
        )
    if chosen == "tpu":
        return _on_tpu(known)
    if cluster is None:
        raise ConfigError(
            f"The strategy {chosen!r} needs the environment variable TF_CONFIG, which names all processes. It is not "
            f"set. For several GPUs of one machine use 'mirrored'."
        )
    return _on_workers(cluster, local) if chosen == "multi_worker" else _on_parameter_servers(cluster, local)


def _on_this_machine(
    chosen: str, known: tuple[str, ...], devices: Sequence[str] | None, local: tuple[str, ...]
) -> tuple[tuple[str, ...], int, list[str]]:
    used = local if devices is None else known_devices(devices, known)
    if chosen == "one_device":
        if devices is not None and len(used) > 1:
            raise ConfigError(f"'one_device' takes one device. Received: {list(devices)}. Use 'mirrored'.")
        return used[:1], 1, []
    warnings = ["there is one device, so nothing is mirrored"] if len(used) == 1 else []
    return used, len(used), warnings


def _on_tpu(known: tuple[str, ...]) -> tuple[tuple[str, ...], int, list[str]]:
    tpus = _of_kind(known, "TPU")
    if not tpus:
        raise ConfigError(
            "The strategy 'tpu' needs TPU cores, and TensorFlow lists none. On a TPU VM, install the `tensorflow-tpu` "
            "build with its `libtpu`; a remote TPU is connected to first, with "
            "`tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu=name)`."
        )
    return tpus, len(tpus), []


def _on_workers(cluster: Cluster, local: tuple[str, ...]) -> tuple[tuple[str, ...], int, list[str]]:
    if "ps" in cluster.jobs:
        raise ConfigError("'multi_worker' has no parameter servers, but TF_CONFIG names `ps` tasks. Leave them out.")
    if cluster.task_type not in ("chief", "worker"):
        raise ConfigError(f"'multi_worker' trains in chief and worker tasks; this process is {cluster.task_type!r}.")
    warnings = ["TF_CONFIG names one worker, so nothing is shared"] if cluster.workers == 1 else []
    if len(local) > 1:
        warnings.append("the number of replicas assumes that every worker has as many GPUs as this one")
    return local, cluster.workers * len(local), warnings


def _on_parameter_servers(cluster: Cluster, local: tuple[str, ...]) -> tuple[tuple[str, ...], int, list[str]]:
    for job in ("ps", "worker", "chief"):
        if job not in cluster.jobs:
            raise ConfigError(
                f"'parameter_server' needs `ps`, `worker` and `chief` tasks in TF_CONFIG; there is no {job!r}. It has: "
                f"{', '.join(cluster.jobs)}."
            )
    warning = (
        "Keras 3 cannot `fit` under parameter servers: write the step by hand and schedule it with "
        "`tf.distribute.coordinator.ClusterCoordinator`, or use 'multi_worker'. Workers do not wait for each other, so "
        "a step is that of one worker"
    )
    return local, len(local), [warning]


def _batch_sizes(per_replica: int | None, whole: int | None, replicas: int) -> tuple[int | None, int | None]:
    for label, value in (("per_replica_batch_size", per_replica), ("global_batch_size", whole)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"`{label}` must be a whole number of at least 1. Received: {value!r}.")
    if whole is None:
        return per_replica, None if per_replica is None else per_replica * replicas
    if whole % replicas:
        below = whole - whole % replicas
        raise ConfigError(
            f"`global_batch_size` must be a multiple of the {replicas} replicas, or their parts would count "
            f"differently. Received: {whole}. Use {below or replicas} or {below + replicas}."
        )
    if per_replica is not None and per_replica * replicas != whole:
        raise ConfigError(
            f"{replicas} replicas of `per_replica_batch_size` {per_replica} make {per_replica * replicas} examples, "
            f"not `global_batch_size` {whole}. Give one of the two."
        )
    return whole // replicas, whole


def _learning_rate(rate: float | None, rule: str | None, replicas: int) -> float | None:
    if rule is not None and rule not in _RULES:
        raise ConfigError(
            f"Unknown `scale_learning_rate` {rule!r}.{nearest(rule, _RULES)} Accepted: linear, sqrt, None."
        )
    if rate is None:
        if rule is not None:
            raise ConfigError(f"`scale_learning_rate` {rule!r} needs the `learning_rate` that is to be scaled.")
        return None
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
        raise ConfigError(f"`learning_rate` must be a positive number. Received: {rate!r}.")
    return float(rate) * (_RULES[rule](replicas) if rule is not None else 1.0)


def _of_kind(known: tuple[str, ...], kind: str) -> tuple[str, ...]:
    return tuple(name for name in known if name.startswith(f"{kind}:"))
