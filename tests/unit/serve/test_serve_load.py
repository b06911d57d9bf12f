"""More clients than the server has room for: what is taken is right and soon, what is not is refused at once."""

import threading
import time

import numpy as np
import pytest

from kopt.core.memory import resident_bytes

CALL_S, BATCH, QUEUE = 0.01, 4, 8
# Room for one call under way and a full queue; twice as many clients, each with one example always on its way.
CLIENTS = 2 * (BATCH + QUEUE)


def loop(connect, server, clients, seconds):
    """Let clients ask again as soon as they are answered; return (status, seconds, right) of every request."""
    end = time.monotonic() + seconds
    found = [[] for _ in range(clients)]
    calls = [connect(server) for _ in range(clients)]

    def ask(number):
        generator = np.random.default_rng(number)
        while time.monotonic() < end:
            value = float(generator.integers(1000))
            start = time.monotonic()
            status, answer = calls[number]("/v1/models/function:predict", {"instances": [[value]]})
            right = answer == {"predictions": [[value / 2 + 2]]} if status == 200 else list(answer) == ["error"]
            found[number].append((status, time.monotonic() - start, right))
            if status == 429:
                time.sleep(CALL_S)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [request for requests in found for request in requests]


@pytest.mark.slow
def test_twice_the_capacity(serve, http_to, function_runner):
    def half_plus_two(x):
        time.sleep(CALL_S)
        return x / 2 + 2

    runner = function_runner(half_plus_two)
    server = serve(runner, max_batch_size=BATCH, max_queue=QUEUE, batch_wait_ms=0.0)
    loop(http_to, server, CLIENTS, 1.0)
    before, calls = resident_bytes(), len(runner.calls)
    requests = loop(http_to, server, CLIENTS, 5.0)
    accepted = sorted(seconds for status, seconds, _ in requests if status == 200)
    refused = [seconds for status, seconds, _ in requests if status == 429]
    assert all(right for _, _, right in requests)
    assert len(accepted) + len(refused) == len(requests)
    # One example in two finds no room at any time, so refusals cannot be rare.
    assert len(refused) > 0.1 * len(requests)
    # Calls are full: the server does as much as it can. And what is accepted waits for a queue of 2 calls, and its own.
    assert np.mean(runner.calls[calls:]) > 0.8 * BATCH
    assert accepted[int(0.99 * len(accepted))] < 10 * (QUEUE / BATCH + 2) * CALL_S
    assert resident_bytes() - before < 20 << 20
