import re
import shutil
import socket
import threading

import numpy as np
import pytest

import kopt
from kopt.core.errors import ConfigError, KoptError, LoadError, MissingDependencyError
from kopt.core.records.artifacts import TensorInfo
from kopt.measure import Runner
from kopt.serve.deployment import METRICS_PATH
from kopt.serve.loaded import REGRESS

MODEL = "/v1/models/half_plus_two"


@pytest.fixture
def half(half_plus_two, serve, http_to):
    return http_to(serve(half_plus_two))


@pytest.fixture(scope="module")
def shared(half_plus_two):
    """A server of `half_plus_two` for those tests that leave it as it is."""
    with kopt.serve.Server(half_plus_two, port=0, log=lambda line: None) as server:
        yield server


@pytest.fixture
def asked(shared, http_to):
    return http_to(shared)


def test_the_documented_answers_of_tf_serving(asked):
    # y = x / 2 + 2. Source: "RESTful API" of TF Serving, section "Make REST API calls", there for x / 2 + 3.
    assert asked(MODEL + ":predict", {"instances": [1.0, 2.0, 5.0]}) == (200, {"predictions": [2.5, 3.0, 4.5]})
    assert asked(MODEL + ":predict", {"inputs": [1.0, 2.0, 5.0]}) == (200, {"outputs": [2.5, 3.0, 4.5]})
    assert asked(MODEL + ":predict", {"inputs": {"x": [1.0]}}) == (200, {"outputs": [2.5]})
    assert asked(MODEL + ":predict", {"instances": [{"x": 1.0}]}) == (200, {"predictions": [2.5]})
    request = {"signature_name": REGRESS, "examples": [{"x": 1.0}, {"x": 2.0}]}
    assert asked(MODEL + ":regress", request) == (200, {"results": [2.5, 3.0]})
    shared = {"signature_name": REGRESS, "context": {"x": 3.0}, "examples": [{}, {"x": [2.0]}]}
    assert asked(MODEL + ":regress", shared) == (200, {"results": [3.5, 3.0]})


def test_status_in_the_documented_form(asked):
    expected = {
        "model_version_status": [
            {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    for path in (MODEL, MODEL + "/versions/123", MODEL.upper().replace("HALF_PLUS_TWO", "half_plus_two")):
        assert asked(path) == (200, expected)


def test_metadata_names_signatures_shapes_and_methods(asked):
    status, answer = asked(MODEL + "/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "123"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert signatures[REGRESS]["method_name"] == REGRESS
    assert signatures["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signatures["serving_default"]["inputs"]["x"]["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}],
        "unknown_rank": False,
    }


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/models/half:predict", {"instances": [1.0]}, 404, "Servable not found for request: Latest(half)"),
        (MODEL + "/versions/1:predict", {"instances": [1.0]}, 404, "request: Specific(half_plus_two, 1)"),
        (MODEL + "/labels/stable:predict", {"instances": [1.0]}, 404, "Unrecognized servable version label: stable"),
        (MODEL + "/versions/9", None, 404, "Could not find version 9 of model half_plus_two"),
        ("/v1/models/half", None, 404, "Could not find any versions of model half"),
        ("/v1/models", None, 400, "Missing model name in request."),
        (MODEL + "/versions/99999999999999999999", None, 400, "Failed to convert version: 9999"),
        (MODEL + ":explain", {}, 400, f"Malformed request: POST {MODEL}:explain"),
        ("/elsewhere", None, 404, "Malformed request: GET /elsewhere"),
        (MODEL + ":predict", b"", 400, "JSON Parse error: The document is empty"),
        (MODEL + ":predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        (MODEL + ":predict", {"inputs": [1], "instances": [1]}, 400, "expecting only one of 'inputs' or 'instances'"),
        (MODEL + ":predict", {"signature_name": "no", "instances": [1]}, 400, 'name: "no" not found in signature def'),
        (MODEL + ":predict", {"signature_name": 1, "instances": [1]}, 400, "'signature_name' key must be a string"),
        (MODEL + ":predict", {"instances": [[1.0, 2.0]]}, 400, "needs float32 (None,)"),
        (MODEL + ":classify", {"examples": [{"x": 1.0}]}, 400, "Expected classification signature method_name to be"),
        (MODEL + ":regress", {"signature_name": REGRESS}, 400, "key 'examples' is expected and was not found"),
        (
            MODEL + ":regress",
            {"signature_name": REGRESS, "examples": [{"x": "a"}]},
            400,
            "Data type: string but expected type: float",
        ),
        (MODEL + ":regress", {"signature_name": REGRESS, "examples": [{"x": [1.0, "a"]}]}, 400, "Unexpected element"),
        (MODEL + ":regress", {"signature_name": REGRESS, "examples": [{"x": {"a": 1}}]}, 400, "JSON type: Object"),
        (MODEL + ":regress", {"signature_name": REGRESS, "examples": [3]}, 400, "must be JSON object but got JSON Num"),
    ],
)
def test_errors_have_tf_servings_words_and_status(asked, path, body, status, words):
    found, answer = asked(path, body)
    assert found == status
    assert list(answer) == ["error"]
    assert words in answer["error"]


def test_other_http_methods_are_answered_too(asked):
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert asked(MODEL, b"", method=method) == (400, {"error": f"Malformed request: {method} {MODEL}"})


def test_limits_of_size_are_kept_and_said(half_plus_two, serve, http_to):
    server = serve(half_plus_two, max_request_bytes=1000, max_examples=4)
    call = http_to(server)
    status, answer = call(MODEL + ":predict", b" " * 1001)
    assert (status, answer["error"][:27]) == (413, "The request has 1001 bytes;")
    assert call(MODEL + ":predict", {"instances": [1.0]}) == (200, {"predictions": [2.5]})
    status, answer = call(MODEL + ":predict", {"instances": [1.0] * 5})
    assert (status, answer["error"][:30]) == (400, "A request may hold 4 example(s")
    # A body that is far too large is refused by its header alone, before it is sent.
    head = f"POST {MODEL}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 8001\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_a_full_queue_answers_429_with_the_time_to_come_back(serve, http_to, function_runner, until):
    go_on = threading.Event()
    server = serve(function_runner(lambda x: x if (x < 1).all() or go_on.wait(30) else None), max_queue=1)
    calls = [http_to(server) for _ in range(3)]
    answers = {}

    def send(number):
        answers[number] = calls[number]("/v1/models/function:predict", {"instances": [[float(number + 1)]]})

    threads = [threading.Thread(target=send, args=(number,)) for number in range(2)]
    threads[0].start()
    watch = http_to(server)
    until(lambda: "kopt_requests_under_way 2\n" in watch("/metrics")[1])  # this one and the first
    until(lambda: "kopt_queue_examples 0\n" in watch("/metrics")[1])
    threads[1].start()
    until(lambda: "kopt_queue_examples 1\n" in watch("/metrics")[1])
    send(2)
    assert answers[2][0] == 429
    assert "queue is full" in answers[2][1]["error"]
    assert calls[2].headers["Retry-After"] == "1"
    go_on.set()
    for thread in threads:
        thread.join()
    assert [answers[number] for number in (0, 1)] == [(200, {"predictions": [[1.0]]}), (200, {"predictions": [[2.0]]})]


def test_metrics_count_what_was_answered(half):
    half(MODEL + ":predict", {"instances": [1.0, 2.0]})
    half(MODEL + ":predict", {})
    status, text = half("/metrics")
    assert status == 200
    assert half.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'kopt_requests_total{code="200",method="predict"} 1\n' in text
    assert 'kopt_requests_total{code="400",method="predict"} 1\n' in text
    # One call of 2 examples: in the bucket up to 2 and all above it, not in that up to 1.
    assert 'kopt_batch_examples_bucket{le="1"} 0\n' in text
    assert 'kopt_batch_examples_bucket{le="2"} 1\n' in text
    assert 'kopt_batch_examples_bucket{le="+Inf"} 1\nkopt_batch_examples_sum 2\n' in text
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"]*",?)+\})? [-+\w.]+', line), line
    assert half(METRICS_PATH)[0] == 200


@pytest.mark.parametrize("file", ["dense.tflite", "dense.onnx", "dense.keras", "dense_int8_io.tflite"])
def test_every_format_answers_the_same_questions(models, serve, http_to, file):
    server = serve(models / file)
    call = http_to(server)
    x = np.random.default_rng(0).random((3, 4), np.float32)
    expected = np.asarray(kopt.measure.load(models / file).predict(x))
    status, answer = call(f"/v1/models/{server.name}:predict", {"instances": x.tolist()})
    assert status == 200
    np.testing.assert_allclose(answer["predictions"], expected, atol=1e-6)
    status, answer = call(f"/v1/models/{server.name}/metadata")
    (signature,) = answer["metadata"]["signature_def"]["signature_def"].values()
    assert [one["dtype"] for one in signature["inputs"].values()] == ["DT_FLOAT"]


@pytest.mark.slow
def test_a_quantized_file_refuses_nan(models, serve, http_to):
    server = serve(models / "dense_int8_io.tflite")
    call = http_to(server)
    status, answer = call(f"/v1/models/{server.name}:predict", b'{"instances": [[NaN, 0, 0, 0]]}')
    assert (status, "no NaN and no infinity" in answer["error"]) == (400, True)


def test_a_keras_model_in_memory_is_served_by_its_name(serve, http_to):
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")], name="adder")
    call = http_to(serve(model))
    assert call("/v1/models/adder:predict", {"instances": [[1.0, 2.0]]}) == (200, {"predictions": [[3.0]]})


@pytest.mark.slow
def test_a_compressed_model_in_a_version_directory(models, serve, http_to, tmp_path):
    (tmp_path / "dense" / "4").mkdir(parents=True)
    shutil.copy(models / "dense.tflite", tmp_path / "dense" / "4")
    server = serve(tmp_path / "dense")
    runtime = kopt.measure.load(models / "dense.tflite").runtime
    assert server.lines == [f"dense version 4 is served by {runtime}, without a manifest, so not checked"]
    status, answer = http_to(server)("/v1/models/dense/versions/4:predict", {"instances": [[0.0, 0.0, 0.0, 0.0]]})
    assert status == 200
    assert len(answer["predictions"][0]) == 3


def test_it_listens_to_this_machine_alone(half_plus_two, serve):
    server = serve(half_plus_two)
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert server.host == "127.0.0.1"


def test_a_port_in_use_is_said_before_anything_is_loaded(half_plus_two):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        lines = []
        with pytest.raises(ConfigError, match=f"Cannot listen at 127.0.0.1 port {port}: .*in use"):
            (server := kopt.serve.Server(half_plus_two, port=port, log=lines.append)).start()
    assert lines == []
    with server:  # now that the port is free
        assert lines


def test_what_cannot_be_served_is_refused(tmp_path, half_plus_two):
    with pytest.raises(ConfigError, match="There is no"):
        kopt.serve.Server(tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"no '/', ':' or space\. Received: 'a/b'"):
        kopt.serve.Server(half_plus_two, name="a/b")
    with pytest.raises(ConfigError, match="65535"):
        kopt.serve.Server(half_plus_two, port=70000)
    with pytest.raises(LoadError, match=r"holds no version that can be served\. It is empty"):
        kopt.serve.Server(tmp_path, port=0).start()
    (tmp_path / "1").mkdir()
    with pytest.raises(LoadError, match=r"version 1: .*/1 holds no SavedModel and 0 files"):
        kopt.serve.Server(tmp_path, port=0, log=lambda line: None).start()


def test_without_the_extra_the_remedy_is_named(half_plus_two, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tornado.httpserver", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'keras-kopt\[serve\]'"):
        kopt.serve.Server(half_plus_two)


def test_a_failure_that_nobody_foresaw_leaves_no_traceback(half, monkeypatch, caplog):
    monkeypatch.setattr("kopt.serve.json_tensors.write_rows", lambda outputs: 1 / 0)
    assert half(MODEL + ":predict", {"instances": [1.0]}) == (
        500,
        {"error": "The server failed at this request (status 500)."},
    )
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense.tflite", "dense.onnx", "dense.keras", "dense_saved_model"])
def test_several_workers_give_the_answers_of_one(models, serve, http_to, name):
    server = serve(models / name, workers=3, batch_wait_ms=0.0, max_batch_size=1, name="m")
    runner = kopt.measure.load(models / name)
    x = kopt.measure.random_inputs(runner.inputs, 30, seed=0)
    expected = runner.predict(x)
    found = {}

    def ask(number):
        call = http_to(server)
        for row in range(number, 30, 3):
            body = {"instances": [{key: array[row].tolist() for key, array in x.items()}]}
            found[row] = call("/v1/models/m:predict", body)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in found.values()} == {200}
    answers = np.array([found[row][1]["predictions"][0] for row in range(30)])
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-6)


def test_a_runner_that_is_loaded_already_works_alone(serve, function_runner):
    with pytest.raises(LoadError, match=r"takes one call at a time\. Pass its path for workers=2"):
        serve(function_runner(lambda x: x), workers=2)


def test_a_keras_model_of_text_is_served(serve):
    import keras
    import tensorflow as tf

    layers = [
        keras.layers.StringLookup(vocabulary=["red", "blue"]),
        keras.layers.Embedding(4, 2),
        keras.layers.Flatten(),
    ]
    model = keras.Sequential([keras.Input((1,), dtype="string", name="color"), *layers], name="colors")
    server = serve(model)
    with kopt.serve.Client(server.url, "colors") as client:
        found = client.predict(np.array([["red"], ["green"]]))
    np.testing.assert_allclose(found, model(tf.constant([["red"], ["green"]])), rtol=1e-6)


class Broken(Runner):
    """A runner of the user's that raises what nobody foresaw."""

    format, runtime, device, threads, fixed_batch, name = "own", "own", "cpu", None, None, "broken"
    inputs = outputs = (TensorInfo("x", (None, 1), "float32"),)

    def run(self, feeds):
        raise ValueError("nobody foresaw this")


def test_an_error_that_nobody_foresaw_is_no_started_server():
    with pytest.raises(KoptError, match="nobody foresaw this"):
        kopt.serve.Server(Broken(), name="b", port=0, log=str).start()


def test_a_server_is_started_once(half_plus_two):
    server = kopt.serve.Server(half_plus_two, port=0, log=str)
    with server:
        with pytest.raises(ConfigError, match=r"runs at .* already"):
            server.start()
        url = server.url
        with kopt.serve.Client(url, server.name, timeout_s=10) as client:
            assert client.predict(np.ones(1, np.float32)).tolist() == [2.5]
    with kopt.serve.Client(url, server.name, retries=0, timeout_s=2) as client, pytest.raises(KoptError):
        client.status()
