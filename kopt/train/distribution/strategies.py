"""`tf.distribute` strategies that Keras can train under, and a clear end when another process dies."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from kopt.core.errors import ConfigError, WorkerLostError
from kopt.core.records.training.distribution import Cluster, DistributionPlan
from kopt.train.distribution.plan import plan_distribution
from kopt.train.distribution.rendezvous import wait_for_peers
from kopt.train.internals import configure_coordination

# What TensorFlow raises in a collective operation once a peer is gone, has come back as another process, or is late.
_LOSSES = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)
_COLLECTIVE = re.compile(r"collective|heartbeat|coordination service|barrier", re.IGNORECASE)
_TASK = re.compile(r"/job:(\w+)(?:/replica:\d+)?/task:(\d+)")


def strategy(
    name: str | DistributionPlan = "auto",
    *,
    devices: Sequence[str] | None = None,
    start_timeout_s: float = 300.0,
    heartbeat_timeout_s: float = 10.0,
) -> tf.distribute.Strategy:
    """Return the `tf.distribute` strategy for this machine or cluster; build and compile the model in its `scope()`.

    Ask `kopt.train.plan_distribution` first for the replicas, batch sizes and learning rate that belong to it. A
    multi-worker strategy must be made before anything else in the program: it opens a server at this process' address
    and waits for the other workers. Train inside `kopt.train.watching(strategy)` to get a clear error if one dies.

    Args:
        name: a plan, or what `plan_distribution` takes.
        devices: for `"mirrored"` and `"one_device"`.
        start_timeout_s: seconds to wait for all workers to appear.
        heartbeat_timeout_s: seconds without a sign of life after which a worker counts as dead.

    Raises:
        ConfigError: what `plan_distribution` raises; or TensorFlow was used before a multi-worker strategy was made.
        WorkerLostError: not all workers appeared in time; names their addresses.

    Example:
        >>> strategy = kopt.train.strategy("one_device", devices=["CPU:0"])
        >>> with strategy.scope():
        ...     replica = keras.models.clone_model(model)
        ...     replica.compile("adam", "sparse_categorical_crossentropy")
        >>> strategy.num_replicas_in_sync, replica.weights[0].value.device[-5:]
        (1, 'CPU:0')
    """
    plan = name if isinstance(name, DistributionPlan) else plan_distribution(name, devices=devices)
    if isinstance(name, DistributionPlan) and devices is not None:
        raise ConfigError("A plan names its devices already; give `devices` to `plan_distribution`.")
    for label, value in (("start_timeout_s", start_timeout_s), ("heartbeat_timeout_s", heartbeat_timeout_s)):
        if not value > 0:
            raise ConfigError(f"`{label}` must be a positive number of seconds. Received: {value!r}.")
    names = [f"/{device}" for device in plan.devices]
    if plan.strategy == "one_device":
        return tf.distribute.OneDeviceStrategy(names[0])
    if plan.strategy == "mirrored":
        return tf.distribute.MirroredStrategy(names)
    if plan.strategy == "tpu":
        return tf.distribute.TPUStrategy(tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu="local"))
    if plan.strategy == "parameter_server":
        return _parameter_server(plan)
    return _multi_worker(plan, start_timeout_s, heartbeat_timeout_s)


@contextlib.contextmanager
def watching(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turn the error that TensorFlow raises here when another worker dies into a `WorkerLostError`.

    Wrap it around `fit` or a training loop. A worker that ends or stops answering is noticed within the
    `heartbeat_timeout_s` of `kopt.train.strategy` (its connection breaking: at once). From then on no collective
    operation works in this process: the model's weights can still be read and saved, but training goes on only in new
    processes. Without a multi-worker strategy it does nothing.

    Raises:
        WorkerLostError: names the worker if TensorFlow knows it, and says how to go on.

    Example:
        >>> strategy = kopt.train.strategy("one_device", devices=["CPU:0"])
        >>> with kopt.train.watching(strategy):  # a worker that dies becomes a WorkerLostError
        ...     y = strategy.run(lambda: model(x_val[:4]))
        >>> y.shape
        TensorShape([4, 10])
    """
    try:
        yield
    except _LOSSES as error:
        cluster = getattr(strategy, "cluster", None)
        if cluster is None and not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise
        if not _COLLECTIVE.search(str(error)):
            raise
        raise WorkerLostError(lost_message(str(error), cluster)) from error


def lost_message(text: str, cluster: Cluster | None) -> str:
    """Return what to tell the user when TensorFlow failed with `text` because another process is gone."""
    own = (cluster.task_type, cluster.task_index) if cluster is not None else None
    tasks = dict.fromkeys((job, int(index)) for job, index in _TASK.findall(text))
    others = [task for task in tasks if task != own]
    if len(others) == 1 and cluster is not None and others[0][1] < len(cluster.jobs.get(others[0][0], ())):
        (job, index) = others[0]
        who = f"{job} {index} ({cluster.jobs[job][index]})"
    else:
        who = f"{others[0][0]} {others[0][1]}" if len(others) == 1 else "Another worker"
    cause = next((line.strip() for line in text.splitlines() if _COLLECTIVE.search(line) and "node" not in line), "")
    return (
        f"{who[0].upper()}{who[1:]} died or cannot be reached, so this process cannot train on. Look into its log "
        f"(out of memory? preempted?), then start ALL workers again with the same TF_CONFIG: with a checkpoint "
        f"callback, e.g. `keras.callbacks.BackupAndRestore`, they go on where the last checkpoint was written. "
        f"TensorFlow says: {cause[:500]}"
    )


class KerasMultiWorkerStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """`MultiWorkerMirroredStrategy` under which `fit` of Keras 3 works.

    Keras 3.15 calls `reduce` in two ways that TensorFlow refuses between processes: on a whole batch, from which it
    reads shapes, and on scalars along an axis, to average metrics over the workers.

    Attributes:
        cluster: the processes.
    """

    def __init__(self, cluster: Cluster, **options: Any):
        super().__init__(**options)
        self.cluster = cluster

    def reduce(self, reduce_op: Any, value: Any, axis: int | None = None) -> Any:
        """Reduce over all replicas; a structure of tensors (a batch) is given back as this worker's part of it."""
        if isinstance(value, (tuple, list, dict)):
            return tf.nest.map_structure(lambda item: self.experimental_local_results(item)[0], value)
        scalar = axis == 0 and self.experimental_local_results(value)[0].shape.rank == 0
        return super().reduce(reduce_op, value, axis=None if scalar else axis)


class KerasParameterServerStrategy(tf.distribute.ParameterServerStrategy):
    """`ParameterServerStrategy` that says at once that `fit` does not work."""

    def experimental_distribute_dataset(self, dataset: Any, options: Any = None) -> Any:
        """Distribute a data set inside `ClusterCoordinator.create_per_worker_dataset`; refuse what `fit` asks for."""
        if tf.executing_eagerly():
            raise ConfigError(
                "Keras 3 cannot `fit`, `evaluate` or `predict` under parameter servers. Write the step as a "
                "`tf.function` and schedule it with `tf.distribute.coordinator.ClusterCoordinator`, or train with "
                "`kopt.train.strategy('multi_worker')`, where `fit` works."
            )
        return super().experimental_distribute_dataset(dataset, options)


def _multi_worker(plan: DistributionPlan, start_timeout_s: float, heartbeat_timeout_s: float) -> tf.distribute.Strategy:
    cluster = _require_cluster(plan)
    leader = "chief" if "chief" in cluster.jobs else "worker"
    tasks: dict[str, int] = {job: len(cluster.jobs[job]) for job in ("chief", "worker") if job in cluster.jobs}
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({job: list(cluster.jobs[job]) for job in tasks}),
        task_type=cluster.task_type,
        task_id=cluster.task_index,
        rpc_layer="grpc",
    )
    own = cluster.jobs[cluster.task_type][cluster.task_index]
    peers = tuple(address for job in tasks for address in cluster.jobs[job] if address != own)
    wait_for_peers(own, peers, start_timeout_s)
    configure_coordination(tasks, f"/job:{leader}/replica:0/task:0", heartbeat_timeout_s=heartbeat_timeout_s)
    try:
        return KerasMultiWorkerStrategy(cluster, cluster_resolver=resolver)
    except RuntimeError as error:
        raise ConfigError(
            f"TensorFlow has been used in this process, and a multi-worker strategy must come first ({error}). Call "
            f"`kopt.train.strategy` at the beginning of the program: before the first tensor, layer or data set."
        ) from error


def _parameter_server(plan: DistributionPlan) -> tf.distribute.Strategy:
    cluster = _require_cluster(plan)
    if cluster.task_type != "chief":
        raise ConfigError(
            f"The strategy 'parameter_server' is made in the chief; this process is {cluster.task_type} "
            f"{cluster.task_index}. Run `tf.distribute.Server(resolver.cluster_spec(), job_name={cluster.task_type!r}, "
            f"task_index={cluster.task_index}).join()` here, with `resolver = "
            f"tf.distribute.cluster_resolver.TFConfigClusterResolver()`."
        )
    spec = tf.train.ClusterSpec({job: list(addresses) for job, addresses in cluster.jobs.items()})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        spec, task_type="chief", task_id=0, rpc_layer="grpc"
    )
    return KerasParameterServerStrategy(resolver)


def _require_cluster(plan: DistributionPlan) -> Cluster:
    if plan.cluster is None:
        raise ConfigError(f"The plan for {plan.strategy!r} has no cluster. Make it with `plan_distribution`.")
    return plan.cluster
