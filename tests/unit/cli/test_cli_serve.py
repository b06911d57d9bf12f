"""`kopt serve` in a process of its own: signals, kills and restarts."""

import json
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import kopt
from kopt.cli import main
from kopt.core.errors import ServingError

pytestmark = pytest.mark.slow


@pytest.fixture
def directory(tmp_path):
    import tensorflow as tf

    class Double(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def double(self, x):
            return {"y": 2 * x}

    model = Double()
    tf.saved_model.save(model, tmp_path / "double" / "1", signatures={"serving_default": model.double})
    return tmp_path / "double"


def test_a_place_that_cannot_be_written_is_said_in_a_line(directory, tmp_path, capsys):
    (tmp_path / "logs").mkdir()
    assert main(["serve", str(directory), "--port", "0", "--log", str(tmp_path / "logs")]) == 1
    assert f"kopt: error: Cannot write {tmp_path / 'logs'}: Is a directory" in capsys.readouterr().err


@pytest.fixture
def start():
    """Start the command; return its process and what it printed once it was ready. Killed at the end."""
    started = []

    def begin(*words):
        process = subprocess.Popen(
            [sys.executable, "-m", "kopt", "serve", *map(str, words), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        line = process.stdout.readline()
        assert line, process.stderr.read()
        return process, json.loads(line)

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_sigterm_ends_it_with_every_request_answered(directory, start):
    process, ready = start(directory, "--port", 0, "--batch-wait-ms", 0)
    answered, refused, begun = [], [], threading.Event()

    def ask():
        with kopt.serve.Client(ready["url"], "double", retries=0) as client:
            while True:
                try:
                    answered.append(client.predict(np.array([1.5], np.float32)).tolist())
                except ServingError as error:
                    refused.append(error)
                    return
                begun.set()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    for thread in threads:
        thread.join()
    assert all(values == [3.0] for values in answered)
    # What comes after the end finds nobody; what was under way was answered.
    assert all("Connection refused" in str(error) for error in refused)
    assert process.stderr.read().splitlines()[-1] == "kopt: double version 1 is no longer served"


def test_after_a_kill_it_starts_again_and_clients_that_try_again_see_no_error(directory, start):
    process, ready = start(directory, "--port", 0)
    port = ready["url"].rpartition(":")[2]
    with kopt.serve.Client(ready["url"], "double", retries=50, backoff_s=0.05, timeout_s=120) as client:
        assert client.predict(np.array([1.0], np.float32)).tolist() == [2.0]
        process.kill()
        process.wait()
        restarting = threading.Thread(target=start, args=(directory, "--port", port))
        restarting.start()
        assert client.predict(np.array([4.0], np.float32)).tolist() == [8.0]
        restarting.join()


def test_what_cannot_be_served_ends_with_its_reason(tmp_path, capsys):
    assert main(["serve", str(tmp_path / "absent"), "--json"]) == 2
    assert "There is no" in json.loads(capsys.readouterr().out)["message"]
    (tmp_path / "m").mkdir()
    assert main(["serve", str(tmp_path / "m"), "--port", "0"]) == 2
    assert "holds no version" in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "m"), "--max-queue", "0"]) == 2
    assert "max_queue" in capsys.readouterr().err
