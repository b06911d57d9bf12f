"""`fit` on two logical devices, in two processes, and with one of them killed; against `fit` on one device."""

import contextlib
import json
import signal
import socket
import time

import distribution_jobs
import numpy as np
import pytest
from processes import result_of, start_forked

TIMEOUT_S = 150

pytestmark = [pytest.mark.slow, pytest.mark.long]


def start(job, *arguments, cluster=None, kind="worker", index=0):
    place = {} if cluster is None else {"cluster": cluster, "task": {"type": kind, "index": index}}
    environment = {"TF_CONFIG": json.dumps(place)} if place else {}
    return start_forked(distribution_jobs.run, job, *arguments, **environment)


def finish(process):
    ended = process.end(TIMEOUT_S)
    assert ended.result is not None, ended.errors
    return ended.result


def addresses(count):
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{server.getsockname()[1]}" for server in servers]


@contextlib.contextmanager
def ended(*processes):
    """End what a failing test would leave behind."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(process) for process in processes]


def two_workers(*arguments_of_each, job="worker"):
    cluster = {"worker": addresses(2)}
    return [start(job, *arguments, cluster=cluster, index=i) for i, arguments in enumerate(arguments_of_each)]


def assert_same(found, expected):
    for a, b in zip(found["weights"], expected["weights"], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    np.testing.assert_allclose(found["loss"], expected["loss"], atol=1e-4)
    np.testing.assert_allclose(found["mae"], expected["mae"], atol=1e-4)


@pytest.fixture(scope="module")
def one():
    """Three epochs of six steps with a batch of eight, on one device, with plain Keras."""
    result = result_of(distribution_jobs.run, "one")
    assert result["loss"][2] < 0.7 * result["loss"][0]  # Something was learned, so that equality means something.
    return result


def test_one_device_and_two_logical_devices_give_the_same_as_no_strategy(one):
    with ended(start("one_device"), start("mirrored")) as (single, mirrored):
        assert_same(finish(single), one)
        result = finish(mirrored)
    assert result["replicas"] == 2
    assert_same(result, one)
    # The weights of a float32 model after its float16 twin was trained on both devices: float32's, to 11 bits a step.
    assert result["mixed scaled"]
    for a, b in zip(result["mixed weights"], one["weights"], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-2)


def test_two_processes_give_the_same_as_one(one):
    with ended(*two_workers((), ())) as workers:
        results = [finish(worker) for worker in workers]
    for result in results:
        assert result["replicas"] == 2
        assert_same(result, one)


def assert_ends_with_a_clear_error(workers, killed):
    assert workers[killed].end(TIMEOUT_S).exit_code == -signal.SIGKILL
    start_s = time.monotonic()
    result = finish(workers[1 - killed])
    waited_s = time.monotonic() - start_s
    assert result["error"] == "WorkerLostError"
    assert "died or cannot be reached" in result["message"]
    assert "start ALL workers again" in result["message"]
    assert waited_s < 30  # a heartbeat of 5 seconds, and the time to end a process on a busy machine


def test_a_killed_worker_ends_the_other_with_a_clear_error_and_a_restart_goes_on(one, tmp_path):
    backups = [tmp_path / str(index) for index in range(2)]
    with ended(*two_workers((backups[0], -1, 5), (backups[1], 1, 5))) as workers:
        assert_ends_with_a_clear_error(workers, killed=1)
    with ended(*two_workers(*((backup, -1, 5) for backup in backups))) as workers:
        results = [finish(worker) for worker in workers]
    for result in results:
        assert len(result["loss"]) == 2  # The first of three epochs was finished before.
        for a, b in zip(result["weights"], one["weights"], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_accelerated_training_in_two_processes_gives_the_same_as_one(one):
    with ended(*two_workers((), (), job="accelerated")) as workers:
        for worker in workers:
            assert_same(finish(worker), one)


def test_accelerated_training_goes_on_from_its_checkpoint_when_a_worker_was_killed(one, tmp_path):
    with ended(*two_workers((tmp_path, -1, 5), (tmp_path, 1, 5), job="accelerated")) as workers:
        assert_ends_with_a_clear_error(workers, killed=1)
    assert {path.name for path in tmp_path.iterdir()} == {"worker-0", "worker-1"}
    with ended(*two_workers((tmp_path, -1, 5), (tmp_path, -1, 5), job="accelerated")) as workers:
        for worker in workers:
            assert_same(finish(worker), one)


def test_the_worker_that_the_others_report_to_may_die_as_well():
    with ended(*two_workers(("", 1, 5), ("", -1, 5))) as workers:
        assert_ends_with_a_clear_error(workers, killed=0)


def test_a_worker_alone_gives_up_and_names_the_others_and_one_that_comes_too_late_says_so():
    cluster = {"worker": addresses(2)}
    with ended(start("alone", cluster=cluster), start("too_late", cluster={"worker": addresses(1)})) as (alone, late):
        results = [finish(alone), finish(late)]
    assert [result["error"] for result in results] == ["WorkerLostError", "ConfigError"]
    assert f"1 of 2 processes did not appear within 2 seconds: {cluster['worker'][1]}." in results[0]["message"]
    assert "a multi-worker strategy must come first" in results[1]["message"]


def test_parameter_servers_train_in_a_loop_of_their_own_and_refuse_fit():
    chief, worker, server = addresses(3)
    cluster = {"chief": [chief], "worker": [worker], "ps": [server]}
    tasks = [start("parameter_server_task", kind, cluster=cluster, kind=kind) for kind in ("worker", "ps")]
    with ended(start("parameter_server_chief", cluster=cluster, kind="chief"), *tasks) as processes:
        result = finish(processes[0])
    assert "cannot `fit`, `evaluate` or `predict` under parameter servers" in result["refused"]
    assert result["after"] < 0.5 * result["before"]
