"""TF Serving's own server, where it is on the PATH: it loads what `bundle` wrote and answers as ours does."""

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "serve"))
from serving_cases import save_half_plus

import kopt
from kopt.core.errors import NotServedError, RequestError, UnavailableError

PROGRAM = "tensorflow_model_server"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which(PROGRAM) is None,
        reason=f"{PROGRAM} is not on the PATH; TensorFlow's apt repository and its container have it",
    ),
]
REGRESS = "tensorflow/serving/regress"
# Path behind the model, body: what the documentation shows, and what goes wrong.
REQUESTS = [
    (":predict", {"instances": [1.0, 2.0, 5.0]}),
    (":predict", {"inputs": [1.0, 2.0, 5.0]}),
    (":predict", {"inputs": {"x": [1.0]}}),
    (":predict", {"instances": [{"x": 1.0}, {"x": 2.0}]}),
    (":regress", {"signature_name": REGRESS, "examples": [{"x": 1.0}, {"x": 2.0}]}),
    (":regress", {"signature_name": REGRESS, "context": {"x": 3.0}, "examples": [{}, {"x": [2.0]}]}),
    ("", None),
    ("/versions/123", None),
]
FAULTS = [
    (":predict", {}),
    (":predict", {"instances": []}),
    (":predict", {"instances": [1.0], "inputs": [1.0]}),
    (":predict", {"instances": ["a"]}),
    (":predict", {"signature_name": "no", "instances": [1.0]}),
    ("/versions/9:predict", {"instances": [1.0]}),
    (":classify", {"examples": [{"x": 1.0}]}),
]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextlib.contextmanager
def model_server(directory):
    """Yield the ports of REST and gRPC once the model is available."""
    rest, rpc = free_port(), free_port()
    process = subprocess.Popen(
        [
            *(PROGRAM, f"--rest_api_port={rest}", f"--port={rpc}"),
            *(f"--model_name={directory.name}", f"--model_base_path={directory}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with kopt.serve.Client(f"http://127.0.0.1:{rest}", directory.name, retries=0) as client:
            end = time.monotonic() + 120
            while not _is_available(client):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < end, "the model was not loaded in two minutes"
                time.sleep(0.2)
        yield rest, rpc
    finally:
        process.kill()
        process.communicate()


def _is_available(client):
    try:
        return any(one.state == "AVAILABLE" for one in client.status())
    except (UnavailableError, NotServedError):
        return False


def ask(port, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Ports of TF Serving and of the local server, both with half_plus_two."""
    directory = tmp_path_factory.mktemp("models") / "half_plus_two"
    directory.mkdir()
    save_half_plus(directory / "123", 2)
    with (
        model_server(directory) as (rest, rpc),
        kopt.serve.Server(directory, port=0, log=lambda line: None) as local,
    ):
        yield rest, rpc, local.port


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_the_local_server_answers_as_tf_serving_does(both, path, body):
    theirs, ours = (ask(port, f"/v1/models/half_plus_two{path}", body) for port in (both[0], both[2]))
    assert ours == theirs
    assert theirs[0] == 200


@pytest.mark.parametrize(("path", "body"), FAULTS)
def test_faults_have_the_same_status_and_form(both, path, body):
    theirs, ours = (ask(port, f"/v1/models/half_plus_two{path}", body) for port in (both[0], both[2]))
    assert (ours[0], list(ours[1])) == (theirs[0], list(theirs[1]))
    assert theirs[0] >= 400


def test_the_client_speaks_rest_and_grpc_with_it(both):
    x = np.array([1.0, 2.0, 5.0], np.float32)
    for url in (f"http://127.0.0.1:{both[0]}", f"grpc://127.0.0.1:{both[1]}"):
        with kopt.serve.Client(url, "half_plus_two", version=123, batch_size=2) as client:
            assert client.predict(x).tolist() == [2.5, 3.0, 4.5]
            assert [(one.version, one.state) for one in client.status()] == [(123, "AVAILABLE")]
            assert "serving_default" in client.metadata()
            with pytest.raises(RequestError):
                client.predict(x, signature="no")
        with kopt.serve.Client(url, "another", retries=0) as client, pytest.raises(NotServedError):
            client.predict(x)


@pytest.mark.parametrize(
    "settings", [{}, {"variant": "optimized"}, {"batch_size": 4}], ids=["plain", "optimized", "batch"]
)
def test_it_loads_every_variant_of_a_bundle_with_its_warm_up(tmp_path, settings):
    keras.utils.set_random_seed(0)
    image = keras.Input((4,), name="x")
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax", name="scores")(image))
    kopt.serve.bundle(model, tmp_path / "m", class_names=list("abc"), top_k=2, batching=False, **settings)
    x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    expected = model.predict(x, verbose=0)
    with model_server(tmp_path / "m") as (rest, rpc):
        for url in (f"http://127.0.0.1:{rest}", f"grpc://127.0.0.1:{rpc}"):
            with kopt.serve.Client(url, "m") as client:
                np.testing.assert_allclose(client.predict(x), expected, atol=1e-6)
                best = client.predict(x, signature="top_k")
                assert [one.decode() for one in best["classes"][:, 0]] == ["abc"[k] for k in expected.argmax(1)]
                (result, *_) = client.classify([{"x": row} for row in x])
                assert result[0][0] == "abc"[expected[0].argmax()]
