"""The client's gRPC against a server made of TF Serving's own stubs, which runs a SavedModel."""

import concurrent.futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import error_codes_pb2, saved_model_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

import kopt
from kopt.core.errors import (
    DeadlineError,
    NotServedError,
    OverloadedError,
    RequestError,
    ServerFailedError,
    UnavailableError,
)
from kopt.core.records.shipping.serving import VersionStatus


class Service(prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    """Answers as TF Serving does for y = x / 2 + 2, and notes which version it was asked for."""

    def __init__(self, path):
        self.loaded = tf.saved_model.load(path)
        proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        self.definitions = proto.meta_graphs[0].signature_def
        self.specs = []
        self.failure = None

    def _take(self, request, context):
        self.specs.append(request.model_spec)
        if self.failure is not None:
            context.abort(self.failure, "as the server says it")

    def Predict(self, request, context):  # noqa: N802
        self._take(request, context)
        feeds = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        result = self.loaded.signatures[request.model_spec.signature_name](**feeds)
        answer = predict_pb2.PredictResponse(model_spec=request.model_spec)
        for name, tensor in result.items():
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(tensor.numpy()))
        return answer

    def Classify(self, request, context):  # noqa: N802
        self._take(request, context)
        answer = classification_pb2.ClassificationResponse(model_spec=request.model_spec)
        for example in request.input.example_list.examples:
            feature = example.features.feature
            row = answer.result.classifications.add()
            row.classes.add(label=feature["word"].bytes_list.value[0].decode(), score=feature["x"].float_list.value[0])
            row.classes.add(label="count", score=feature["n"].int64_list.value[1])
        return answer

    def GetModelMetadata(self, request, context):  # noqa: N802
        self._take(request, context)
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=self.definitions)
        answer = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=request.model_spec)
        answer.metadata["signature_def"].Pack(signatures)
        return answer

    def GetModelStatus(self, request, context):  # noqa: N802
        self._take(request, context)
        answer = get_model_status_pb2.GetModelStatusResponse()
        answer.model_version_status.add(version=123, state=get_model_status_pb2.ModelVersionStatus.AVAILABLE)
        failed = answer.model_version_status.add(version=122, state=get_model_status_pb2.ModelVersionStatus.END)
        failed.status.error_code = error_codes_pb2.DATA_LOSS
        failed.status.error_message = "damaged"
        return answer


@pytest.fixture(scope="module")
def running(half_plus_two):
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        service = Service(half_plus_two / "123")
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield service, f"grpc://127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.fixture
def service(running):
    service, url = running
    service.failure = None
    service.specs.clear()
    service.url = url
    return service


def test_it_predicts_over_grpc_what_rest_gives(service):
    with kopt.serve.Client(service.url, "half_plus_two", label="stable", batch_size=2) as client:
        found = client.predict(np.array([1.0, 2.0, 5.0], np.float32))
        assert (found.dtype, found.tolist()) == (np.float32, [2.5, 3.0, 4.5])
    assert [spec.version_label for spec in service.specs] == ["stable"] * 3  # metadata, and two parts
    assert {spec.name for spec in service.specs} == {"half_plus_two"}


def test_examples_are_features_of_their_kind(service):
    with kopt.serve.Client(service.url, "half_plus_two", version=123) as client:
        found = client.classify([{"x": 0.5, "word": "dog", "n": [1, 2]}, {"x": [0.25], "word": b"cat", "n": (3, 4)}])
    assert found == [[("dog", 0.5), ("count", 2.0)], [("cat", 0.25), ("count", 4.0)]]
    assert service.specs[0].version.value == 123


def test_status_and_metadata(service):
    with kopt.serve.Client(service.url, "half_plus_two") as client:
        assert client.status() == (VersionStatus(123, "AVAILABLE"), VersionStatus(122, "END", "DATA_LOSS", "damaged"))
        inputs, outputs = client.metadata()["serving_default"]
    assert [(info.name, info.shape, info.dtype) for info in (*inputs, *outputs)] == [
        ("x", (None,), "float32"),
        ("y", (None,), "float32"),
    ]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("INVALID_ARGUMENT", RequestError),
        ("NOT_FOUND", NotServedError),
        ("RESOURCE_EXHAUSTED", OverloadedError),
        ("UNAVAILABLE", UnavailableError),
        ("DEADLINE_EXCEEDED", DeadlineError),
        ("INTERNAL", ServerFailedError),
    ],
)
def test_a_code_is_an_error_of_its_own(service, code, error):
    service.failure = grpc.StatusCode[code]
    with (
        kopt.serve.Client(service.url, "half_plus_two", retries=0) as client,
        pytest.raises(error, match="as the server says it"),
    ):
        client.status()


def test_nobody_there(service):
    with (
        kopt.serve.Client("grpc://127.0.0.1:1", "m", retries=1, backoff_s=0.001) as client,
        pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1"),
    ):
        client.status()
