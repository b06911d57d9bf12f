"""Whatever a server answers, the client returns arrays of the announced form or raises a typed error."""

import concurrent.futures
import json
import random
import types

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2
from test_serve_fuzz import PIECES

import kopt
from kopt.core.errors import ServingError
from kopt.serve.transports import RestTransport

X = np.array([1.0, 2.0], np.float32)


def mutated(generator, data):
    """Change, insert, repeat or take out bytes; pieces of JSON among them."""
    data = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 5))):
        place, kind = generator.randrange(len(data) + 1), generator.randrange(5)
        if kind == 0:
            data[place:place] = generator.choice(PIECES)
        elif kind == 1:
            del data[place : place + generator.randint(1, 20)]
        elif kind == 2 and place < len(data):
            data[place] = generator.randrange(256)
        elif kind == 3:
            data[place:place] = bytes(data[place : place + generator.randint(1, 30)]) * generator.randint(1, 3)
        elif place < len(data):
            data[place] ^= 1 << generator.randrange(8)
    return bytes(data)


def outcome(client, status):
    """Return `"answered"` or the class of the typed error; anything else comes through."""
    try:
        if status:
            found = client.status()
            assert all(isinstance(one.version, int) and isinstance(one.state, str) for one in found)
        else:
            found = client.predict(X)
            arrays = found.values() if isinstance(found, dict) else [found]
            assert all(isinstance(array, np.ndarray) and array.dtype != object for array in arrays)
    except ServingError as error:
        return type(error).__name__
    except kopt.core.errors.DataError:  # the announced inputs changed, and the array does not fit any more
        return "DataError"
    return "answered"


class Pool:
    """Answers each path with what `answers` holds for its end."""

    def __init__(self):
        self.answers = {}

    def request(self, method, url, **_):
        key = next(key for key in (":predict", "/metadata", "") if url.endswith(key))
        status, body = self.answers[key]
        return types.SimpleNamespace(status=status, data=body, headers={"Content-Type": "application/json"})

    def clear(self):
        pass


def rest_answers(count, monkeypatch):
    dims = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    one = {"dtype": "DT_FLOAT", "tensor_shape": dims, "name": "x"}
    signature = {"inputs": {"x": one}, "outputs": {"y": {**one, "name": "y"}}, "method_name": "m"}
    version = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    whole = {
        "/metadata": {"metadata": {"signature_def": {"signature_def": {"serving_default": signature}}}},
        ":predict": {"outputs": [2.5, 3.0]},
        "": {"model_version_status": [version]},
    }
    whole = {key: json.dumps(value).encode() for key, value in whole.items()}
    pool, generator = Pool(), random.Random(0)
    monkeypatch.setattr("kopt.serve.transports.urllib3.PoolManager", lambda **_: pool)
    for number in range(count):
        pool.answers = {key: (200, body) for key, body in whole.items()}
        key = generator.choice(list(whole))
        pool.answers[key] = (generator.choice((200, 200, 200, 400, 500)), mutated(generator, whole[key]))
        with kopt.serve.Client("http://127.0.0.1:1", "m", retries=0) as client:
            assert isinstance(client._transport, RestTransport), number
            yield outcome(client, status=key == "")


class Raw(grpc.GenericRpcHandler):
    """Answers every call with bytes as they are."""

    def __init__(self):
        self.answers = {}

    def service(self, details):
        name = details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.answers[name])


@pytest.fixture
def raw():
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        server, handler = grpc.server(threads), Raw()
        server.add_generic_rpc_handlers((handler,))
        handler.url = f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield handler
        server.stop(None).wait()


def grpc_answers(count, raw, half_plus_two):
    proto = saved_model_pb2.SavedModel.FromString((half_plus_two / "123" / "saved_model.pb").read_bytes())
    signatures = {"serving_default": proto.meta_graphs[0].signature_def["serving_default"]}
    metadata = get_model_metadata_pb2.GetModelMetadataResponse()
    metadata.metadata["signature_def"].Pack(get_model_metadata_pb2.SignatureDefMap(signature_def=signatures))
    predicted, status = predict_pb2.PredictResponse(), get_model_status_pb2.GetModelStatusResponse()
    predicted.outputs["y"].CopyFrom(tf.make_tensor_proto(X))
    status.model_version_status.add(version=1, state=30).status.error_message = "as it is"
    whole = {"GetModelMetadata": metadata, "Predict": predicted, "GetModelStatus": status}
    whole = {name: message.SerializeToString() for name, message in whole.items()}
    generator = random.Random(1)
    with kopt.serve.Client(raw.url, "m", retries=0) as client:
        for _ in range(count):
            name = generator.choice(list(whole))
            raw.answers = {**whole, name: mutated(generator, whole[name])}
            client._signatures = None
            yield outcome(client, status=name == "GetModelStatus")


def test_fuzzed_rest_answers_are_typed_errors(monkeypatch):
    assert set(rest_answers(400, monkeypatch)) >= {"answered", "ServerFailedError", "RequestError"}


def test_fuzzed_grpc_answers_are_typed_errors(raw, half_plus_two):
    assert set(grpc_answers(150, raw, half_plus_two)) >= {"answered", "ServerFailedError"}


@pytest.mark.slow
def test_many_fuzzed_answers(monkeypatch, raw, half_plus_two):
    counts = {}
    for found in (rest_answers(2000, monkeypatch), grpc_answers(2000, raw, half_plus_two)):
        for one in found:
            counts[one] = counts.get(one, 0) + 1
    print("answers", counts)
    assert sum(counts.values()) == 4000
