"""Whatever a request holds, the answer is JSON with a status that says whose fault it was, and the server goes on."""

import json
import random
import socket

import pytest

import kopt

MODEL = "/v1/models/half_plus_two"
SEEDS = [
    b'{"instances": [1.0, 2.0, 5.0]}',
    b'{"inputs": {"x": [1.0, NaN]}, "signature_name": "serving_default"}',
    b'{"instances": [{"x": 1.0}, {"x": {"b64": "AAAA"}}]}',
    b'{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}], "context": {"y": "text"}}',
]
PIECES = [
    *(b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"true", b"1e400", b"-", b"\x00", b"\xff", b"\\ud800"),
    *(b'{"b64": "*"}', b"[" * 2000, b"9" * 400, b'"x"', b"NaN", b"\n\n", b"[[]]", b"{}"),
]
PATHS = [
    *(":predict", ":regress", ":classify", ":label", "/versions/123:predict", "", "/metadata", "/labels/x:predict"),
    ":%zz",
]
FAULTS_OF_REQUESTS = {200, 400, 404, 413}


def mutated(generator, seed):
    body = bytearray(seed)
    for _ in range(generator.randint(1, 6)):
        place, kind = generator.randrange(len(body) + 1), generator.randrange(4)
        if kind == 0:
            body[place:place] = generator.choice(PIECES)
        elif kind == 1:
            del body[place : place + generator.randint(1, 8)]
        elif kind == 2 and place < len(body):
            body[place] = generator.randrange(256)
        else:
            piece = bytes(body[place : place + generator.randint(1, 30)])
            body[place:place] = piece * generator.randint(1, 4)
    return bytes(body)


def check(call, count, seed):
    generator = random.Random(seed)
    found = set()
    for _ in range(count):
        body = mutated(generator, generator.choice(SEEDS))
        path = MODEL + generator.choice(PATHS)
        method = generator.choice(["POST", "POST", "POST", "POST", "GET", "PUT"])
        status, answer = call(path, body, method=method)
        found.add(status)
        assert status in FAULTS_OF_REQUESTS, (path, body, status, answer)
        assert isinstance(answer, dict), (path, body, status, answer)
        if status != 200:
            assert list(answer) == ["error"]
            assert "Traceback" not in answer["error"]
    assert found >= {200, 400, 404}
    assert call(MODEL + ":predict", {"instances": [1.0]}) == (200, {"predictions": [2.5]})


def test_fuzzed_bodies_get_typed_answers(half_plus_two, serve, http_to):
    check(http_to(serve(half_plus_two)), 300, seed=0)


@pytest.mark.slow
def test_ten_thousand_fuzzed_bodies(half_plus_two, serve, http_to):
    check(http_to(serve(half_plus_two)), 10_000, seed=1)


@pytest.mark.slow
def test_fuzzed_bodies_do_not_confuse_the_monitor(half_plus_two, http_to, tmp_path):
    watched = kopt.core.records.shipping.monitoring.Monitoring(log=str(tmp_path / "log"))
    with kopt.serve.Server(half_plus_two, port=0, monitoring=watched, log=lambda line: None) as server:
        call = http_to(server)
        check(call, 300, seed=5)
        assert "kopt_monitor_lost_total{" not in call("/metrics")[1]
        assert "kopt_monitor_lost_total 1" not in call("/metrics")[1]
    report = kopt.serve.monitoring_report(tmp_path / "log")
    assert (report.damaged, report.runs) == (0, 1)
    assert report.statuses["200"] == sum(use.requests for use in report.versions) >= 3


def test_bytes_that_are_no_http_end_their_own_connection_alone(half_plus_two, serve, http_to):
    server = serve(half_plus_two)
    generator = random.Random(2)
    whole = f"POST {MODEL}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n".encode() + SEEDS[0]
    for _ in range(50):
        head = mutated(generator, whole)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(head)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(1 << 16)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 "), answer
        assert b"Traceback" not in answer
    assert http_to(server)(MODEL + ":predict", json.loads(SEEDS[0])) == (200, {"predictions": [2.5, 3.0, 4.5]})


def raw_answers(server, count, seed):
    """Send requests whose first line and headers have wrong bytes, each over a connection of its own; yield answers."""
    generator = random.Random(seed)
    lines = [
        b"POST %s:predict HTTP/1.1",
        b"GET %s/versions/123/metadata HTTP/1.1",
        b"POST %s/labels/stable:predict HTTP/1.0",
        b"GET /metrics?a=%s HTTP/1.1",
    ]
    headers = [
        b"Host: x",
        b"Content-Length: 30",
        b"Content-Type: application/json; charset=utf-8",
        b"X-Request-Id: a-b.c",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Connection: keep-alive",
    ]
    for _ in range(count):
        first = generator.choice(lines)
        first = first % MODEL.encode() if b"%s" in first else first
        head = [first, *generator.sample(headers, generator.randint(1, len(headers)))]
        place = generator.randrange(len(head))
        head[place] = mutated(generator, head[place])
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(b"\r\n".join(head) + b"\r\n\r\n" + SEEDS[0])
            connection.shutdown(socket.SHUT_WR)
            parts = []
            try:
                while part := connection.recv(1 << 16):
                    parts.append(part)
            except ConnectionResetError:  # it closed before it had read everything
                pass
        yield b"".join(parts)


def check_raw(server, call, count, seed):
    found = {}
    for answer in raw_answers(server, count, seed):
        assert b"Traceback" not in answer
        assert answer == b"" or answer.startswith(b"HTTP/1."), answer
        word = answer[9:12].decode() or "closed"
        found[word] = found.get(word, 0) + 1
    assert "500" not in found, found
    assert call(MODEL + ":predict", json.loads(SEEDS[0])) == (200, {"predictions": [2.5, 3.0, 4.5]})
    return found


def test_fuzzed_urls_and_headers_end_their_own_connection_alone(half_plus_two, serve, http_to):
    server = serve(half_plus_two)
    assert set(check_raw(server, http_to(server), 150, seed=3)) >= {"200", "400", "404"}


@pytest.mark.slow
def test_many_fuzzed_urls_and_headers(half_plus_two, serve, http_to):
    server = serve(half_plus_two)
    print("urls and headers", check_raw(server, http_to(server), 2000, seed=4))
