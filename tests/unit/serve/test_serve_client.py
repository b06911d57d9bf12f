import http.server
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import kopt
from kopt.core.errors import (
    ConfigError,
    DataError,
    DeadlineError,
    MissingDependencyError,
    NotServedError,
    OverloadedError,
    RequestError,
    RequestTooLargeError,
    ServerFailedError,
    ServingError,
    UnavailableError,
)
from kopt.core.records.shipping.serving import VersionStatus

METADATA = {
    "model_spec": {"name": "m", "signature_name": "", "version": "1"},
    "metadata": {
        "signature_def": {
            "signature_def": {
                "serving_default": {
                    "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}]}, "name": "x"}},
                    "outputs": {"y": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}]}, "name": "y"}},
                    "method_name": "tensorflow/serving/predict",
                },
                "__saved_model_init_op": {"inputs": {}, "outputs": {"op": {"dtype": "DT_INVALID"}}},
            }
        }
    },
}


@pytest.fixture
def scripted():
    """A server that gives answers in order: (status, body, headers), or seconds to wait before the next."""
    servers = []

    def start(*answers):
        script = list(answers)

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.connections.add(self.client_address)
                server.asked += 1
                if isinstance(script[0], float):
                    time.sleep(script.pop(0))
                status, body, headers = script.pop(0)
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, *_):
                pass  # the client may be gone

        server = Quiet(("127.0.0.1", 0), Handler)
        server.asked, server.connections = 0, set()
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(*values):
    return (200, {"outputs": list(values)}, {})


def refusal(status, word="no", **headers):
    return (status, {"error": word}, headers)


def test_it_predicts_as_the_documented_example_does(half_plus_two, serve):
    server = serve(half_plus_two)
    with kopt.serve.Client(server.url, server.name) as client:
        found = client.predict(np.array([1.0, 2.0, 5.0], np.float32))
        assert found.dtype == np.float32
        assert found.tolist() == [2.5, 3.0, 4.5]
        assert client.predict({"x": np.array([1.0], np.float32)}).tolist() == [2.5]
        assert client.status() == (VersionStatus(123, "AVAILABLE"),)
        inputs, outputs = client.metadata()["serving_default"]
        assert [(info.name, info.shape, info.dtype) for info in (*inputs, *outputs)] == [
            ("x", (None,), "float32"),
            ("y", (None,), "float32"),
        ]


def test_large_arrays_go_in_parts_over_one_connection(serve, function_runner):
    runner = function_runner(lambda x: x * 2)
    server = serve(runner, max_batch_size=64)
    x = np.random.default_rng(0).normal(size=(10, 1)).astype(np.float32)
    with kopt.serve.Client(server.url, server.name, batch_size=4) as client:
        np.testing.assert_array_equal(client.predict(x), x * 2)  # bit for bit, though as text on the way
        pools = client._transport._pool.pools
        assert [pools[key].num_connections for key in pools.keys()] == [1]  # noqa: SIM118 - no dict
    assert runner.calls[-3:] == [4, 4, 2]


@pytest.mark.slow
def test_several_outputs_come_by_name(models, serve):
    server = serve(models / "pair.tflite")
    with kopt.serve.Client(server.url, server.name) as client:
        left, right = np.array([[1, 2], [3, 4]], np.float32), np.array([[1, 2, 3], [4, 5, 6]], np.float32)
        found = client.predict({"left": left, "right": right})
    assert found["sum"].tolist() == [[3], [7]]
    assert found["scaled"].tolist() == [[10, 20, 30], [40, 50, 60]]


def test_text_goes_and_comes(models, serve):
    server = serve(models / "doubler_saved_model")
    with kopt.serve.Client(server.url, server.name) as client:
        lengths = client.predict(np.array(["a", "bcd"], object), signature="length")
        assert lengths.tolist() == [1, 3]
        with pytest.raises(RequestError, match="no signature 'serving_default'; it has double, length"):
            client.predict(np.zeros((1, 2), np.float32))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RequestError),
        (404, NotServedError),
        (413, RequestTooLargeError),
        (429, OverloadedError),
        (500, ServerFailedError),
        (503, UnavailableError),
        (504, DeadlineError),
        (418, ServerFailedError),
    ],
)
def test_a_status_is_an_error_of_its_own(scripted, status, error):
    server = scripted(refusal(status, "as the server says it"))
    with (
        kopt.serve.Client(server.url, "m", retries=0) as client,
        pytest.raises(error, match="as the server says it") as raised,
    ):
        client.status()
    assert type(raised.value) is error
    assert isinstance(raised.value, ServingError)


def test_what_passes_is_tried_again_and_what_does_not_is_not(scripted):
    server = scripted((200, METADATA, {}), refusal(503), refusal(429), answer(2.5), refusal(400), (200, METADATA, {}))
    with kopt.serve.Client(server.url, "m", backoff_s=0.001) as client:
        assert client.predict(np.array([1.0], np.float32)).tolist() == [2.5]
        with pytest.raises(RequestError):
            client.predict(np.array([1.0], np.float32))
    assert server.asked == 6  # the last time whether a new version takes other inputs
    assert len(server.connections) == 1


def test_after_the_last_try_the_error_is_the_servers(scripted):
    server = scripted(*[refusal(429, "full")] * 3)
    with kopt.serve.Client(server.url, "m", retries=2, backoff_s=0.001) as client, pytest.raises(OverloadedError):
        client.status()
    assert server.asked == 3


def test_pauses_double_and_the_servers_wish_counts(scripted, monkeypatch):
    pauses = []
    monkeypatch.setattr("kopt.serve.client.time.sleep", pauses.append)
    ok = (200, {"model_version_status": []}, {})
    server = scripted(refusal(503), refusal(503), refusal(429, **{"Retry-After": "7"}), ok)
    with kopt.serve.Client(server.url, "m", backoff_s=0.4, timeout_s=60) as client:
        client.status()
    assert 0.2 <= pauses[0] <= 0.4
    assert 0.4 <= pauses[1] <= 0.8
    assert pauses[2] == 7


def test_time_is_for_all_tries_together(scripted):
    server = scripted(refusal(503, **{"Retry-After": "5"}))
    with (
        kopt.serve.Client(server.url, "m", timeout_s=1.0) as client,
        pytest.raises(DeadlineError, match=r"No answer in 1 s\. The last try: no"),
    ):
        client.status()
    slow = scripted(0.5, answer())
    with kopt.serve.Client(slow.url, "m", timeout_s=0.1) as client, pytest.raises(DeadlineError, match="in time"):
        client.status()


@pytest.mark.slow
def test_a_dead_server_is_said_to_be_unreachable(half_plus_two, serve):
    server = serve(half_plus_two)
    with kopt.serve.Client(server.url, server.name, retries=1, backoff_s=0.001) as client:
        client.status()
        server.stop()
        with pytest.raises(UnavailableError, match="Is the server running"):
            client.status()


@pytest.mark.parametrize(
    "body", [b"<html>hello</html>", b"", [1], {"other": 1}, {"model_version_status": [{"version": "x"}]}]
)
def test_another_program_at_the_address_is_told_apart(scripted, body):
    server = scripted((200, body, {"Content-Type": "text/html"}))
    with kopt.serve.Client(server.url, "m") as client, pytest.raises(ServerFailedError, match=server.url):
        client.status()


@pytest.mark.parametrize("outputs", [[[1.0]], [1.0, "a"], {"z": [1.0]}, None])
def test_outputs_other_than_announced_are_no_answer(scripted, outputs):
    server = scripted((200, METADATA, {}), (200, {"outputs": outputs}, {}))
    with kopt.serve.Client(server.url, "m") as client, pytest.raises(ServerFailedError):
        client.predict(np.array([1.0], np.float32))


def test_arrays_that_do_not_fit_are_not_sent(scripted):
    server = scripted((200, METADATA, {}))
    with kopt.serve.Client(server.url, "m") as client, pytest.raises(DataError, match=r"needs float32 \(None,\)"):
        client.predict(np.zeros((2, 2), np.float32))
    assert server.asked == 1
    with kopt.serve.Client(server.url, "m") as client, pytest.raises(DataError, match="list of dicts"):
        client.classify([])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "127.0.0.1:8501"}, "An address is like"),
        ({"url": "ftp://a"}, "An address is like"),
        ({"version": 1, "label": "a"}, "a version or a label"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"retries": -1}, "retries"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        kopt.serve.Client(settings.pop("url", "http://a"), "m", **settings)


def test_grpc_without_its_packages_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(MissingDependencyError, match=r"gRPC needs the package 'grpc'.*'keras-kopt\[serve\]'"):
        kopt.serve.Client("grpc://127.0.0.1:8500", "m")


@pytest.mark.slow
def test_a_client_needs_no_tensorflow():
    code = "import sys, kopt; kopt.serve.Client('http://a', 'm'); print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_new_version_of_other_inputs_is_asked_for_them(scripted):
    other = json.loads(json.dumps(METADATA).replace('"x"', '"z"'))
    assert other != METADATA
    server = scripted((200, METADATA, {}), answer(2.5), refusal(400), (200, other, {}), answer(3.5))
    with kopt.serve.Client(server.url, "m", backoff_s=0.001) as client:
        assert client.predict(np.array([1.0], np.float32)).tolist() == [2.5]
        assert client.predict(np.array([1.0], np.float32)).tolist() == [3.5]
    assert server.asked == 5
