"""Claim: a server with twice the clients that it has room for stays right, quick and small; a kill and damage pass.

`python benchmarks/serving_load.py --seconds 300` is the long form.
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from claims import Claim, publish
from monitoring_overhead import cpu_ms

BATCH, QUEUE = 4, 8
ROWS = 8
CLIENTS = 2 * (BATCH + QUEUE)
WIDTH = 64
P99_BOUND_CALLS = 10
WORKER_ROUNDS, WORKER_SECONDS = 8, 2.0
WORKERS_BOUND = 0.85
GROWTH_BOUND_MB = 32.0


def write_version(directory: Path, factor: float) -> None:
    """Write y = factor * (x + x @ 0): known answers at the price of many matrix products."""
    import tensorflow as tf

    class Costly(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zeros = tf.Variable(tf.zeros((WIDTH, 2048)))
            self.square = tf.Variable(tf.zeros((2048, 2048)))
            self.back = tf.Variable(tf.zeros((2048, WIDTH)))

        @tf.function(input_signature=[tf.TensorSpec([None, WIDTH], tf.float32, name="x")])
        def answer(self, x: Any) -> dict[str, Any]:
            hidden = x @ self.zeros
            for _ in range(16):
                hidden = hidden @ self.square
            return {"y": factor * (x + hidden @ self.back)}

    staged = directory.parent / f".{directory.name}"
    model = Costly()
    tf.saved_model.save(model, staged, signatures={"serving_default": model.answer})
    staged.rename(directory)


def write_file(path: Path) -> None:
    """Write y = x through convolutions as a `.tflite` file, for which every worker has an interpreter.

    Its weights stay in the processor's cache. Of large matrices each interpreter would read its own copy from memory,
    which two of them share.
    """
    import keras

    import kopt

    inputs = keras.Input((WIDTH,), name="x")
    hidden = keras.layers.Reshape((8, WIDTH // 8, 1))(inputs)
    for _ in range(8):
        hidden = keras.layers.Conv2D(64, 3, padding="same", kernel_initializer="zeros")(hidden)
    back = keras.layers.Dense(WIDTH, kernel_initializer="zeros")(keras.layers.GlobalAveragePooling2D()(hidden))
    kopt.export.tflite(keras.Model(inputs, keras.layers.Add(name="y")([inputs, back])), path)


@contextlib.contextmanager
def serving(directory: Path, port: int = 0, *words: str) -> Iterator[tuple[Any, int]]:
    """Yield the process of `kopt serve` and its port; it is ended at the end."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "kopt", "serve", str(directory), "--port", str(port), "--json", "--poll", "0.2"),
            *("--max-batch", str(BATCH * ROWS), "--max-queue", str(QUEUE * ROWS), "--batch-wait-ms", "0"),
            *("--name", "costly", *words),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
    finally:
        process.kill()
        process.wait()


def ask(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, Any, float]:
    """Return status, answer and seconds of one request."""
    start = time.monotonic()
    connection.request("POST", "/v1/models/costly:predict", body)
    answer = connection.getresponse()
    content = answer.read()
    return answer.status, json.loads(content), time.monotonic() - start


def closed_loop(port: int, clients: int, seconds: float, factors: tuple[float, ...]) -> dict[str, Any]:
    """Let clients ask again as soon as they are answered, those that are refused after 10 ms."""
    end = time.monotonic() + seconds
    found: list[list[tuple[int, float, bool]]] = [[] for _ in range(clients)]

    def run(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        x = np.random.default_rng(number).integers(0, 100, (ROWS, WIDTH)).astype(np.float64)
        body = json.dumps({"instances": x.tolist()}).encode()
        right = [{"predictions": (factor * x).tolist()} for factor in factors]
        while time.monotonic() < end:
            status, answer, taken = ask(connection, body)
            found[number].append((status, taken, answer in right if status == 200 else "error" in answer))
            if status == 429:
                time.sleep(0.01)
        connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    requests = [one for part in found for one in part]
    accepted = [taken for status, taken, _ in requests if status == 200]
    refused = [taken for status, taken, _ in requests if status == 429]
    return {
        "requests": len(requests),
        "accepted a second": round(len(accepted) / seconds, 1),
        "refused with 429": len(refused),
        "other statuses": len(requests) - len(accepted) - len(refused),
        "wrong": sum(not right for _, _, right in requests),
        "accepted p50, ms": round(float(np.median(accepted)) * 1e3, 1),
        "accepted p99, ms": round(float(np.percentile(accepted, 99)) * 1e3, 1),
        "refused p99, ms": round(float(np.percentile(refused, 99)) * 1e3, 1) if refused else None,
    }


def of_workers(path: Path) -> dict[str, dict[str, Any]]:
    """Return what one and two workers do for the same clients, in turns, each with one thread a call.

    The clients are two full batches, so that the second worker has something to do. Where other programs keep the
    processors busy, two workers get no more of them than one; what a server does in a second of processor time tells
    that from workers that hinder each other.
    """
    found: dict[str, list[dict[str, Any]]] = {"1 worker": [], "2 workers": []}
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(serving(path, 0, "--threads", "1", "--workers", name[0])) for name in found
        }
        for number in range(2 * WORKER_ROUNDS):
            name = list(found)[(number + number // 2) % 2]
            process, port = servers[name]
            before = cpu_ms(process.pid)
            done = closed_loop(port, 2 * BATCH, WORKER_SECONDS, (1.0,))
            found[name].append({**done, "processors": (cpu_ms(process.pid) - before) / 1e3 / WORKER_SECONDS})
    return {name: _summary(rounds) for name, rounds in found.items()}


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    rates = np.array([one["accepted a second"] for one in rounds])
    processors = np.array([one["processors"] for one in rounds])
    return {
        "accepted a second, each round": rates.tolist(),
        "processors used, each round": processors.round(2).tolist(),
        "accepted a second of processor time": round(float(np.median(rates / processors)), 1),
        "accepted p50, ms": float(np.median([one["accepted p50, ms"] for one in rounds])),
        "wrong": sum(one["wrong"] + one["other statuses"] for one in rounds),
    }


def _ratio(workers: dict[str, dict[str, Any]]) -> float:
    one, two = (workers[name]["accepted a second of processor time"] for name in ("1 worker", "2 workers"))
    return float(two / one)


def resident_mb(process: Any) -> float:
    """Return the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def damaged_version(directory: Path, port: int) -> bool:
    """Return whether a damaged new version is refused while the old one goes on."""
    shutil.copytree(directory / "2", directory / ".3")
    index = next((directory / ".3" / "variables").glob("*.index"))
    index.write_bytes(index.read_bytes()[:20])
    (directory / ".3").rename(directory / "3")
    time.sleep(2)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/v1/models/costly")
    states = {
        one["version"]: one["state"] for one in json.loads(connection.getresponse().read())["model_version_status"]
    }
    connection.close()
    return states.get("3") == "END" and states.get("2") == "AVAILABLE"


def main() -> int:
    """Load, overload, change the version, damage one, kill and restart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of overload")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "costly"
        directory.mkdir()
        write_version(directory / "1", 1.0)
        write_version(Path(scratch) / "2", 2.0)
        with serving(directory) as (process, port):
            full = closed_loop(port, BATCH, 5.0, (1.0,))
            closed_loop(port, CLIENTS, 5.0, (1.0,))
            before = resident_mb(process)
            change = threading.Timer(seconds / 2, lambda: (Path(scratch) / "2").rename(directory / "2"))
            change.start()
            over = closed_loop(port, CLIENTS, seconds, (1.0, 2.0))
            change.join()
            after = resident_mb(process)
            alive = process.poll() is None
            refused_damage = damaged_version(directory, port)
        # `serving` has killed it; the damaged version is still the newest on the disk.
        with serving(directory, port) as (_, port):
            again = closed_loop(port, 2, 1.0, (2.0,))
        write_file(Path(scratch) / "costly.tflite")
        workers = of_workers(Path(scratch) / "costly.tflite")
    broken = over["wrong"] + over["other statuses"] + (not alive)
    return publish(
        "serving_load",
        f"`kopt serve` on a network of matrix products, {ROWS} rows a request, batches of {BATCH} requests, a queue of "
        f"{QUEUE}; {CLIENTS} clients in closed loops for {seconds:g} s, a new version in the middle; then a damaged "
        f"version, a kill -9 and a restart. Last convolutions in LiteRT with one and with two workers of one thread, "
        f"{2 * BATCH} clients, {WORKER_ROUNDS} rounds of {WORKER_SECONDS:g} s in turns.",
        {
            f"{BATCH} clients": full,
            f"{CLIENTS} clients": over,
            "after kill and restart": again,
            **workers,
            "resident before, MB": round(before, 1),
            "resident after, MB": round(after, 1),
        },
        [
            Claim("wrong, lost or crashed", broken, 0.0, unit="requests"),
            Claim("refused of all", over["refused with 429"] / over["requests"], 0.0, above=True),
            Claim(
                f"p99 of accepted over p50 of {BATCH} clients",
                over["accepted p99, ms"] / full["accepted p50, ms"],
                P99_BOUND_CALLS,
            ),
            Claim(
                "throughput at overload over that at capacity",
                over["accepted a second"] / full["accepted a second"],
                0.7,
                above=True,
            ),
            Claim("memory grown", after - before, GROWTH_BOUND_MB, unit="MB"),
            Claim(
                "work of 2 workers over that of 1, a second of processor time",
                _ratio(workers),
                WORKERS_BOUND,
                above=True,
            ),
            Claim("wrong with workers", float(sum(one["wrong"] for one in workers.values())), 0.0),
            Claim("damaged version served, or wrong after a restart", (not refused_damage) + again["wrong"], 0.0),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
