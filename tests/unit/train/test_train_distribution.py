"""Plans, TF_CONFIG and messages; what needs several devices or processes is in `integration/test_distribution.py`."""

import json
import math
import socket
import threading

import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, WorkerLostError
from kopt.core.records.training.distribution import Cluster, DistributionPlan
from kopt.train import internals
from kopt.train.distribution.cluster import parse_tf_config
from kopt.train.distribution.plan import plan_distribution
from kopt.train.distribution.rendezvous import wait_for_peers
from kopt.train.distribution.strategies import lost_message, strategy, watching

CPU, GPU, TWO_GPUS = ("CPU:0",), ("CPU:0", "GPU:0"), ("CPU:0", "GPU:0", "GPU:1")
TPUS = ("CPU:0", *(f"TPU:{i}" for i in range(8)))
WORKERS = {"worker": ["a:1", "b:1"]}
WITH_PS = {"chief": ["c:1"], "worker": ["a:1", "b:1"], "ps": ["p:1"]}


def tf_config(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def plan(name="auto", available=CPU, tf_config="", **kwargs):
    return plan_distribution(name, available=available, tf_config=tf_config, **kwargs)


# TF_CONFIG.


def test_a_cluster_is_read():
    cluster = parse_tf_config(tf_config(WITH_PS, "chief"))
    assert cluster == Cluster({"chief": ("c:1",), "worker": ("a:1", "b:1"), "ps": ("p:1",)}, "chief", 0)
    assert cluster.workers == 2
    assert parse_tf_config(tf_config({"chief": ["c:1"], "worker": ["a:1"]})).workers == 2
    assert parse_tf_config(tf_config(WORKERS, index="1")).task_index == 1
    assert parse_tf_config(tf_config(WORKERS, "evaluator")).task_type == "evaluator"


@pytest.mark.parametrize("text", ["", "  ", "{}", '{"environment": "cloud"}'])
def test_no_cluster(text):
    assert parse_tf_config(text) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{'cluster': 1}", "it is not JSON"),
        ("[]", "it is a JSON list"),
        ('{"task": {"type": "worker", "index": 0}}', "has a `task` but no `cluster`"),
        ('{"cluster": {"worker": ["a:1"]}}', "`task` with `type` and `index` is missing"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}', "`task` with `type` and `index`"),
        ('{"cluster": ["a:1"], "task": 1}', "`cluster` is not an object"),
        (tf_config({"workers": ["a:1"]}), "has the job 'workers'; jobs are chief, worker, ps"),
        (tf_config({"worker": "a:1"}), "`cluster.worker` is not a list"),
        (tf_config({"worker": []}), "`cluster.worker` is not a list"),
        (tf_config({"worker": ["a"]}), "`cluster.worker` has 'a', which is not `host:port`"),
        (tf_config({"worker": ["a:"]}), "has 'a:'"),
        (tf_config({"worker": ["a:99999"]}), "has 'a:99999'"),
        (tf_config({"worker": [":80"]}), "has ':80'"),
        (tf_config({"worker": ["a:1", "a:1"]}), "the address 'a:1' comes twice"),
        (tf_config(WORKERS, index=2), r"`task.index` is 2; `cluster.worker` has 2 address"),
        (tf_config(WORKERS, index=-1), "`task.index` is -1"),
        (tf_config(WORKERS, index=1.5), "`task.index` is 1.5, not a whole number"),
        (tf_config(WORKERS, index=True), "`task.index` is True"),
        (tf_config(WORKERS, "ps"), "`task.type` is 'ps'; the cluster has worker"),
    ],
)
def test_a_malformed_one_says_where(text, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_tf_config(text)
    assert "It must look like" in str(caught.value)
    assert text[:20] in str(caught.value)


# The choice.


@pytest.mark.parametrize(
    ("available", "config", "devices", "chosen", "used", "replicas", "reason"),
    [
        (CPU, "", None, "one_device", ("CPU:0",), 1, "no accelerator"),
        (("CPU:0", "CPU:1"), "", None, "one_device", ("CPU:0",), 1, "CPUs are not told apart"),
        (GPU, "", None, "one_device", ("GPU:0",), 1, "one GPU"),
        (TWO_GPUS, "", None, "mirrored", ("GPU:0", "GPU:1"), 2, "2 GPUs"),
        (TWO_GPUS, "", ["/gpu:1"], "one_device", ("GPU:1",), 1, "were named"),
        (TPUS, "", None, "tpu", TPUS[1:], 8, "8 TPU cores"),
        (TWO_GPUS, tf_config(WORKERS), None, "multi_worker", ("GPU:0", "GPU:1"), 4, "2 workers"),
        (CPU, tf_config(WORKERS), None, "multi_worker", ("CPU:0",), 2, "2 workers"),
        (CPU, tf_config({"worker": ["a:1"]}), None, "one_device", ("CPU:0",), 1, "no accelerator"),
        (CPU, tf_config(WITH_PS, "chief"), None, "parameter_server", ("CPU:0",), 1, "parameter servers"),
    ],
)
def test_auto(available, config, devices, chosen, used, replicas, reason):
    found = plan(available=available, tf_config=config, devices=devices)
    assert (found.strategy, found.devices, found.replicas) == (chosen, used, replicas)
    assert reason in found.reason
    assert DistributionPlan.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "miror"}, r"Unknown strategy 'miror'\. Did you mean 'mirrored'\?"),
        ({"name": "multi_worker"}, "needs the environment variable TF_CONFIG.*use 'mirrored'"),
        ({"name": "parameter_server"}, "needs the environment variable TF_CONFIG"),
        ({"name": "parameter_server", "tf_config": tf_config(WORKERS)}, "there is no 'ps'. It has: worker"),
        ({"name": "multi_worker", "tf_config": tf_config(WITH_PS)}, "has no parameter servers"),
        ({"name": "multi_worker", "tf_config": tf_config(WORKERS, "evaluator")}, "this process is 'evaluator'"),
        ({"name": "multi_worker", "tf_config": tf_config(WORKERS), "devices": ["CPU:0"]}, "visible_devices"),
        ({"name": "tpu"}, "needs TPU cores, and TensorFlow lists none.*libtpu"),
        ({"name": "mirrored", "devices": ["GPU:0", "GPU:1"]}, "'GPU:0' does not exist. Devices of this process: CPU:0"),
        ({"name": "one_device", "available": TWO_GPUS, "devices": ["GPU:0", "GPU:1"]}, "takes one device"),
        ({"tf_config": "{"}, "TF_CONFIG cannot be used"),
        ({"per_replica_batch_size": 0}, "`per_replica_batch_size` must be a whole number of at least 1. Received: 0"),
        ({"global_batch_size": 2.0}, "Received: 2.0"),
        ({"available": TWO_GPUS, "global_batch_size": 33}, r"multiple of the 2 replicas.*Use 32 or 34"),
        ({"available": TWO_GPUS, "global_batch_size": 1}, "Use 2 or 2"),
        ({"available": TWO_GPUS, "global_batch_size": 32, "per_replica_batch_size": 8}, "make 16 examples, not"),
        ({"learning_rate": 0.0}, "`learning_rate` must be a positive number. Received: 0.0"),
        ({"learning_rate": math.nan}, "Received: nan"),
        ({"learning_rate": 0.1, "scale_learning_rate": "liner"}, "Did you mean 'linear'"),
        ({"scale_learning_rate": "sqrt"}, "needs the `learning_rate`"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        plan(**kwargs)


@pytest.mark.parametrize(
    ("rule", "expected"), [("linear", 0.1 * 4), ("sqrt", 0.1 * 2), (None, 0.1)]
)  # 4 replicas: factor 4, sqrt(4), 1
def test_batch_sizes_and_learning_rate(rule, expected):
    kwargs = {"tf_config": tf_config(WORKERS), "available": TWO_GPUS, "learning_rate": 0.1, "scale_learning_rate": rule}
    found = plan(per_replica_batch_size=16, **kwargs)
    assert (found.per_replica_batch_size, found.global_batch_size) == (16, 64)
    assert found.scaled_learning_rate == pytest.approx(expected)
    assert plan(global_batch_size=64, **kwargs).per_replica_batch_size == 16


def test_a_plan_explains_itself():
    text = str(
        plan(
            available=GPU, tf_config=tf_config(WORKERS, index=1), per_replica_batch_size=32, learning_rate=0.1,
            scale_learning_rate="linear",
        )
    )  # fmt: skip
    assert text.splitlines() == [
        "Strategy: multi_worker, because TF_CONFIG names 2 workers",
        "Cluster: 2 worker; this process is worker 1.",
        "Devices of this process: GPU:0; replicas in all: 2.",
        "Batch: 32 examples a replica, 64 in all. Give the data set batches of 64.",
        "Learning rate: 0.1 becomes 0.2 (linear rule).",
        "Warning: the linear rule needs a warm-up of some epochs at the beginning",
    ]
    assert "Keras 3 cannot `fit` under parameter servers" in str(plan(tf_config=tf_config(WITH_PS, "chief")))
    assert "nothing is mirrored" in str(plan("mirrored"))


def test_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config(WORKERS))
    assert plan_distribution().strategy == "multi_worker"
    monkeypatch.setenv("TF_CONFIG", "nonsense")
    with pytest.raises(ConfigError, match="Received: nonsense"):
        strategy("mirrored")


# Building.


def test_one_device_is_built():
    built = strategy(plan("one_device"))
    assert isinstance(built, tf.distribute.OneDeviceStrategy)
    with pytest.raises(ConfigError, match="A plan names its devices already"):
        strategy(plan("one_device"), devices=["CPU:0"])
    with pytest.raises(ConfigError, match="`start_timeout_s` must be a positive number"):
        strategy(plan("one_device"), start_timeout_s=0)


def test_parameter_servers_are_built_in_the_chief_only():
    with pytest.raises(ConfigError, match=r"this process is ps 0\. Run `tf.distribute.Server"):
        strategy(plan(tf_config=tf_config(WITH_PS, "ps")))


def test_waiting_for_peers_ends_and_names_them():
    with socket.create_server(("127.0.0.1", 0)) as here, socket.create_server(("127.0.0.1", 0)) as free:
        there, own = (f"127.0.0.1:{one.getsockname()[1]}" for one in (here, free))
        free.close()
        wait_for_peers(own, (there,), 5.0)
        with pytest.raises(WorkerLostError, match=r"1 of 3 processes did not appear within 0.1 seconds: 127.0.0.1:1\."):
            wait_for_peers(own, (there, "127.0.0.1:1"), 0.1)
        with pytest.raises(ConfigError, match=f"the port {there.rpartition(':')[2]}, which is taken"):
            wait_for_peers(there, (), 0.1)


def test_two_that_start_at_different_times_find_each_other():
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in (one, other)]
    first = threading.Thread(target=wait_for_peers, args=(addresses[0], (addresses[1],), 10.0))
    first.start()
    first.join(0.3)
    assert first.is_alive()
    wait_for_peers(addresses[1], (addresses[0],), 10.0)
    with socket.create_server(("127.0.0.1", int(addresses[1].rpartition(":")[2]))):  # TensorFlow's server
        first.join(10.0)
    assert not first.is_alive()


# When a worker dies.

DEAD_PEER = """Graph execution error:

Detected at node CollectiveReduceV2 defined at (most recent call last):
Collective ops is aborted by: Error reported from /job:worker/task:1: The following tasks are unhealthy:
/job:worker/replica:0/task:1
The error could be from a previous operation. Restart your program to reset.
\t [[{{node CollectiveReduceV2}}]]"""


class MultiWorker:
    cluster = Cluster({"worker": ("a:1", "b:2")}, "worker", 0)


def test_a_dead_worker_is_named_with_its_address_and_what_to_do():
    error = tf.errors.UnavailableError(None, None, DEAD_PEER)
    with pytest.raises(WorkerLostError, match=r"^Worker 1 \(b:2\) died") as caught, watching(MultiWorker()):
        raise error
    assert "start ALL workers again with the same TF_CONFIG" in str(caught.value)
    assert "TensorFlow says: Collective ops is aborted by: Error reported" in str(caught.value)
    assert caught.value.__cause__ is error


def test_an_unknown_one_is_not_made_up():
    text = lost_message(
        "Collective ops is aborted by: connection reset by peer /job:worker/task:0", MultiWorker.cluster
    )
    assert text.startswith("Another worker died")


@pytest.mark.parametrize(
    ("scope", "error"),
    [
        (MultiWorker(), tf.errors.UnavailableError(None, None, "data service: connection refused")),
        (MultiWorker(), ValueError("collective")),
        (tf.distribute.get_strategy(), tf.errors.UnavailableError(None, None, DEAD_PEER)),
    ],
)
def test_other_errors_come_through(scope, error):
    with pytest.raises(type(error)) as caught, watching(scope):
        raise error
    assert caught.value is error


def test_the_private_context_takes_a_heartbeat(monkeypatch):
    given = {}

    class Context:
        def configure_coordination_service(self, **kwargs):
            given.update(kwargs)

    real = type(internals.eager_context.context())
    assert {"service_type", "service_leader", "heartbeat_timeout_in_ms", "coordinated_jobs"} <= set(
        real.configure_coordination_service.__code__.co_varnames
    )
    monkeypatch.setattr(internals.eager_context, "context", Context)
    internals.configure_coordination({"worker": 2}, "/job:worker/replica:0/task:0", heartbeat_timeout_s=2.5)
    assert given["heartbeat_timeout_in_ms"] == 2500
    assert [(job.name, job.num_tasks) for job in given["coordinated_jobs"]] == [("worker", 2)]
