import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, LoadError
from kopt.data import Augmentation, distribute, from_arrays, local_service
from kopt.data.local_service import LocalService
from kopt.data.splitting import check_fixed_order, only

NOWHERE = "grpc://localhost:1"


def work(i):
    """A millisecond or two an element, so that a worker can die in the middle."""
    noise = tf.random.stateless_normal([200, 200], tf.stack([i, i]))
    return i, tf.reduce_sum(noise @ noise)


@pytest.fixture(scope="module")
def service():
    with local_service(workers=2) as running:
        yield running


def received(dataset) -> list[int]:
    return [int(v) for numbers, _ in dataset for v in tf.reshape(numbers, [-1])]


@pytest.mark.slow
def test_exactly_once_also_when_a_worker_is_killed(service):
    count = 600
    source = tf.data.Dataset.range(count).map(work, num_parallel_calls=2).batch(2)
    dataset = distribute(source, service=service, mode="exactly_once")
    assert int(dataset.cardinality()) == 300
    assert sorted(received(dataset)) == list(range(count))
    victim, seen = service.worker_pids[0], []
    for step, (numbers, _) in enumerate(dataset):
        seen.extend(int(v) for v in numbers)
        if step == 40:
            os.kill(victim, signal.SIGKILL)
    assert service.worker_pids[0] != victim, "it was started anew"
    assert sorted(seen) == list(range(count))
    assert sorted(received(dataset)) == list(range(count)), "the epoch after that"


@pytest.mark.slow
def test_modes(service):
    source = tf.data.Dataset.range(100).map(lambda i: (i, i))
    assert sorted(received(distribute(source, service=service, mode="split"))) == list(range(100))
    whole = sorted(received(distribute(source, service=service, mode="whole")))
    assert whole == sorted([*range(100)] * 2), "each of the two workers made all"


@pytest.mark.slow
def test_clients_of_one_job_share_one_pass(service):
    source = tf.data.Dataset.range(200).map(work)
    datasets = [distribute(source, service=service, job_name="shared") for _ in range(2)]
    parts: list[list[int]] = [[], []]
    readers = [threading.Thread(target=lambda n=n: parts[n].extend(received(datasets[n]))) for n in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert sorted(parts[0] + parts[1]) == list(range(200))


@pytest.mark.slow
def test_augmented_arrays_in_batches_arrive_once(service):
    images = np.zeros((50, 8, 8, 1), np.float32)
    augment = Augmentation(flip="both", crop=1)
    source = from_arrays(images, np.arange(50), batch_size=4, augment=augment, seed=0)
    dataset = distribute(source, service=service, mode="exactly_once", splits=3)
    for _ in range(2):
        assert sorted(int(v) for _, labels in dataset for v in labels) == list(range(50))


@pytest.mark.slow
def test_no_process_is_left():
    with local_service(workers=1) as running:
        pids = [*running.worker_pids, running._dispatcher.pid]
        logs = running.logs
        assert all(map(is_alive, pids))
    assert not any(map(is_alive, pids)), "neither running nor a zombie"
    assert not logs.exists()


STARTS_AND_DIES = """
import os, signal
from kopt.data import local_service
service = local_service(workers=1)
print(*service.worker_pids, service._dispatcher.pid, service.logs, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_the_processes_end_with_one_that_is_killed():
    child = subprocess.run([sys.executable, "-c", STARTS_AND_DIES], check=False, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL
    *pids, _ = child.stdout.split()
    deadline = time.monotonic() + 20
    while any(is_alive(int(pid)) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(is_alive(int(pid)) for pid in pids)


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        # An orphan may wait for a parent that collects it: it is a zombie then, but not of ours.
        return "State:\tZ" not in status.read_text() or f"PPid:\t{os.getpid()}" in status.read_text()
    except OSError:
        return False


def test_a_process_that_cannot_start_shows_its_log(monkeypatch):
    # The function of that name stands in front of the module.
    monkeypatch.setattr(sys.modules["kopt.data.local_service"], "_PROGRAM", "raise SystemExit('no room')")
    with pytest.raises(LoadError, match=r"ended with status 1 within(.|\n)*no room"):
        local_service(workers=1, timeout_s=20)


def test_an_address_where_nothing_answers():
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"No tf\.data service answers at grpc://localhost:1 within 2 s"):
        distribute(tf.data.Dataset.range(3), service=NOWHERE, timeout_s=2)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None])
def test_an_address_where_something_else_answers(answer):
    with socket.create_server(("localhost", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                if answer is None:
                    time.sleep(1.5)
                else:
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(DataError, match="within 1 s" if answer is None else "does not speak gRPC"):
            distribute(tf.data.Dataset.range(3), service=f"grpc://localhost:{server.getsockname()[1]}", timeout_s=1)


@pytest.mark.parametrize("address", ["localhost:5000", "http://localhost:5000", "grpc://localhost", "grpc://a:x", 7])
def test_malformed_addresses(address):
    with pytest.raises(ConfigError, match="'grpc://host:port'"):
        distribute(tf.data.Dataset.range(3), service=address)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "exactly_onc"}, "Did you mean 'exactly_once'"),
        ({"splits": 0}, "`splits` must be a whole number of at least 1"),
        ({"timeout_s": 0}, "`timeout_s` must be a positive number"),
        ({"timeout_s": float("nan")}, "`timeout_s` must be a positive number"),
        ({"mode": "exactly_once", "job_name": "a"}, "`job_name` shares one pass"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        distribute(tf.data.Dataset.range(3), service=NOWHERE, **settings)


def generated():
    return tf.data.Dataset.from_generator(lambda: iter(range(3)), output_signature=tf.TensorSpec((), tf.int64))


@pytest.mark.parametrize(
    ("dataset", "mode", "error", "message"),
    [
        ([1, 2], "split", DataError, r"Received: builtins\.list"),
        (tf.data.Dataset.range(0), "split", DataError, "empty"),
        (tf.data.Dataset.range(3).repeat(), "exactly_once", ConfigError, "infinite"),
        (tf.data.Dataset.range(3).filter(lambda i: i > 0), "exactly_once", ConfigError, "unknown"),
        (tf.data.Dataset.range(3).shuffle(3, seed=0), "exactly_once", ConfigError, "shuffled"),
        (from_arrays(np.zeros(3), batch_size=1, shuffle=True, seed=0), "exactly_once", ConfigError, "shuffled"),
        (generated(), "split", ConfigError, "runs Python code in flat_map"),
        (tf.data.Dataset.range(3).map(lambda i: tf.py_function(abs, [i], i.dtype)), "split", ConfigError, "in map"),
    ],
)
def test_data_sets_that_cannot_be_distributed(dataset, mode, error, message):
    with pytest.raises(error, match=message):
        distribute(dataset, service=NOWHERE, mode=mode)


@pytest.mark.parametrize("workers", [0, 1.5, True])
def test_impossible_numbers_of_workers(workers):
    with pytest.raises(ConfigError, match="`workers` must be a whole number of at least 1"):
        local_service(workers)
    with pytest.raises(ConfigError, match="`timeout_s`"):
        local_service(timeout_s=-1)
    assert issubclass(LocalService, object)


@pytest.mark.parametrize("drop_remainder", [False, True])
def test_part_of_a_pipeline_runs_its_last_stages_for_that_part_alone(drop_remainder):
    calls = tf.Variable(0)

    def expensive(i):
        calls.assign_add(1)
        return i * 10

    dataset = tf.data.Dataset.range(11).map(expensive).batch(2, drop_remainder=drop_remainder).map(lambda x: {"x": x})
    dataset = dataset.prefetch(1)
    whole = [batch["x"].tolist() for batch in dataset.as_numpy_iterator()]
    calls.assign(0)
    odd = [batch["x"].tolist() for batch in only(dataset, lambda place: place % 2 == 1).as_numpy_iterator()]
    assert odd == whole[1::2]
    assert calls.numpy() == 5, "two batches of 2 and the one that is left over"
    even = [batch["x"].tolist() for batch in only(dataset, lambda place: place % 2 == 0).as_numpy_iterator()]
    assert even == whole[0::2]


def test_a_fixed_order_may_be_augmented_but_not_nondeterministic():
    images = np.zeros((4, 2, 2, 1), np.float32)
    check_fixed_order(from_arrays(images, batch_size=2, augment=Augmentation(flip="both")), "")
    options = tf.data.Options()
    options.deterministic = False
    with pytest.raises(ConfigError, match="deterministic=False"):
        check_fixed_order(tf.data.Dataset.range(3).with_options(options), "")
