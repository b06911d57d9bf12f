import gc
import http.client
import json
import time
from pathlib import Path

import numpy as np
import pytest
from serving_cases import save_half_plus

import kopt
from kopt.core.records.artifacts import TensorInfo
from kopt.measure import Runner


@pytest.fixture(scope="session", autouse=True)
def _frozen():
    """Keep servers, which collect garbage when they end, from walking all that other tests left."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def half_plus(tmp_path_factory):
    """Write a version of y = x / 2 + b; copies are quicker than saving anew."""
    return save_half_plus


@pytest.fixture(scope="session")
def half_plus_two(tmp_path_factory):
    """A directory of versions that holds 123, y = x / 2 + 2."""
    directory = tmp_path_factory.mktemp("models") / "half_plus_two"
    directory.mkdir()
    save_half_plus(directory / "123", 2)
    return directory


@pytest.fixture
def models():
    return Path(__file__).parents[2] / "data"


class Http:
    """Plain requests over one connection, so that tests do not depend on the client."""

    def __init__(self, url):
        self.address = url.removeprefix("http://")
        self._connection = http.client.HTTPConnection(self.address, timeout=30)

    def __call__(self, path, body=None, method=None, headers=None):
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self._connection.request(method or ("GET" if body is None else "POST"), path, content, headers or {})
        answer = self._connection.getresponse()
        self.headers = answer.headers
        text = answer.read().decode()
        is_json = answer.headers.get("Content-Type") == "application/json"
        return answer.status, json.loads(text) if is_json and text else text

    def close(self):
        self._connection.close()


@pytest.fixture
def http_to():
    """Open connections to servers; closed at the end."""
    opened = []

    def connect(server):
        opened.append(Http(server.url))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


@pytest.fixture
def serve():
    """Start servers on free ports; stopped at the end."""
    started = []

    def start(model, **settings):
        lines = []
        name = settings.pop("name", None)
        server = kopt.serve.Server(
            model, name=name, port=0, settings=kopt.serve.ServerSettings(**settings), log=lines.append
        )
        server.lines = lines
        started.append(server.start())
        return server

    yield start
    for server in started:
        server.stop()


class FunctionRunner(Runner):
    """Runs a NumPy function of one float32 input and notes the size of every call."""

    format = "numpy"
    runtime = "NumPy"
    threads = None
    device = "cpu"

    def __init__(self, function, shape=(None, 1), fixed_batch=None):
        self.name = "function"
        self.inputs = (TensorInfo("x", shape, "float32"),)
        self.outputs = (TensorInfo("y", (shape[0], None), "float32"),)
        self.fixed_batch = fixed_batch
        self.calls = []
        self._function = function

    def run(self, feeds):
        self.calls.append(len(feeds["x"]))
        return {"y": np.asarray(self._function(feeds["x"]), np.float32)}


@pytest.fixture
def function_runner():
    return FunctionRunner


@pytest.fixture
def until():
    """Wait until something holds, 30 seconds at most."""

    def wait(holds):
        end = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.01)

    return wait
