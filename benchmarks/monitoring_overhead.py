"""Claim: a server that logs every request and watches drift answers little later than one that does not."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from claims import Claim, publish

ROUNDS, REQUESTS = 40, 50
FEATURES = 64
LATENCY_BOUND_MS = 0.2
CPU_BOUND_MS = 0.8


def write_model(path: Path) -> None:
    """Write a small classifier as a `.tflite` file with the profile of its data."""
    import keras

    import kopt

    layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10, activation="softmax")]
    kopt.export.tflite(keras.Sequential([keras.Input((FEATURES,)), *layers]), path)
    kopt.serve.write_profile(path, np.random.default_rng(0).normal(size=(2000, FEATURES)).astype(np.float32))


@contextlib.contextmanager
def serving(path: Path, *words: str) -> Iterator[tuple[int, http.client.HTTPConnection]]:
    """Yield process id of and connection to `kopt serve`; it is ended at the end."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "kopt", "serve", str(path), "--name", "m", "--port", "0", "--json"),
            *("--batch-wait-ms", "0", *words),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        yield process.pid, connection
        connection.close()
    finally:
        process.terminate()
        process.wait()


def ask(connection: http.client.HTTPConnection, body: bytes) -> float:
    """Return the milliseconds of one request."""
    start = time.perf_counter()
    connection.request("POST", "/v1/models/m:predict", body)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(content.decode())
    return (time.perf_counter() - start) * 1e3


def cpu_ms(process: int) -> float:
    """Return the milliseconds of processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e3 / os.sysconf("SC_CLK_TCK")


def measured(servers: dict[str, tuple[int, Any]], bodies: list[bytes]) -> dict[str, dict[str, float]]:
    """Ask the servers in turn; return milliseconds a request by server."""
    times: dict[str, list[float]] = {name: [] for name in servers}
    for _, connection in servers.values():
        for body in bodies:
            ask(connection, body)
    before = {name: cpu_ms(process) for name, (process, _) in servers.items()}
    for number in range(ROUNDS):
        order = list(servers) if number % 2 else list(servers)[::-1]
        for name in order:
            times[name].append(float(np.median([ask(servers[name][1], body) for body in bodies])))
    time.sleep(0.5)  # what the monitor still has to work off counts as well
    return {
        name: {
            "latency, ms": round(float(np.median(times[name])), 3),
            "processor, ms": round((cpu_ms(process) - before[name]) / (ROUNDS * len(bodies)), 3),
        }
        for name, (process, _) in servers.items()
    }


def main() -> int:
    """Serve one file plain, with metrics, and with a log of all or of a tenth of the inputs."""
    generator = np.random.default_rng(1)
    bodies = [
        json.dumps({"instances": generator.normal(size=(1, FEATURES)).tolist()}).encode() for _ in range(REQUESTS)
    ]
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        path = Path(scratch) / "m.tflite"
        write_model(path)
        ways = {
            "plain": (),
            "monitored": ("--monitor",),
            "logged": ("--log", f"{scratch}/all.jsonl"),
            "a tenth logged": ("--log", f"{scratch}/tenth.jsonl", "--sample", "0.1"),
        }
        servers = {name: stack.enter_context(serving(path, *words)) for name, words in ways.items()}
        found = measured(servers, bodies)
        size = Path(f"{scratch}/all.jsonl").stat().st_size / ((ROUNDS + 1) * REQUESTS)
    plain, logged = found["plain"], found["logged"]
    return publish(
        "monitoring_overhead",
        f"One request of {FEATURES} numbers at a time to a small LiteRT file behind `kopt serve`: plain, with metrics "
        f"and drift, and with a line a request besides; {ROUNDS} rounds of {REQUESTS} requests in changing order, "
        "medians; processor time of the whole server.",
        {**found, "bytes of log a request": round(size)},
        [
            Claim(
                "logged less plain, latency", logged["latency, ms"] - plain["latency, ms"], LATENCY_BOUND_MS, unit="ms"
            ),
            Claim(
                "logged less plain, processor",
                logged["processor, ms"] - plain["processor, ms"],
                CPU_BOUND_MS,
                unit="ms",
            ),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
