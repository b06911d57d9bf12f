"""Whatever a request holds, the answer is JSON with a status that says whose fault it was, and the server goes on."""

import json
import random
import socket

import pytest

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
PATHS = [":predict", ":regress", ":classify", "/versions/123:predict", "", "/metadata", "/labels/x:predict", ":%zz"]
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
