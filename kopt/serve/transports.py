"""How a client reaches a server: TF Serving's REST API, or its gRPC API where the packages are there."""

import abc
import base64
import contextlib
import functools
import importlib
import json
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import urllib3

from kopt.core.errors import (
    DeadlineError,
    NotServedError,
    OverloadedError,
    RequestError,
    RequestTooLargeError,
    ServerFailedError,
    ServingError,
    UnavailableError,
)
from kopt.core.optional import require
from kopt.core.records.artifacts import TensorInfo
from kopt.core.records.shipping.serving import VersionStatus

_BY_STATUS: dict[int, type[ServingError]] = {
    one.status: one
    for one in (
        *(RequestError, NotServedError, RequestTooLargeError, OverloadedError),
        *(ServerFailedError, UnavailableError, DeadlineError),
    )
}
_TYPES = {"FLOAT": "float32", "DOUBLE": "float64", "HALF": "float16", "STRING": "object"}
_POOL = 16
Arrays = Mapping[str, np.ndarray]
Result = list[tuple[str, float]]
Signatures = dict[str, tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]]


class Transport(abc.ABC):
    """One call of each API, without retries.

    Every method takes `timeout_s`, seconds for the call, and raises a subclass of `ServingError`.
    """

    @abc.abstractmethod
    def predict(
        self,
        signature: str,
        arrays: Arrays,
        outputs: Sequence[TensorInfo],
        request_id: str | None = None,
        *,
        timeout_s: float,
    ) -> dict[str, np.ndarray]:
        """Return the outputs by name."""

    @abc.abstractmethod
    def classify(self, signature: str, examples: Sequence[Mapping[str, Any]], *, timeout_s: float) -> list[Result]:
        """Return labels and scores of each example."""

    @abc.abstractmethod
    def label(self, labels: Mapping[str, Any], *, timeout_s: float) -> list[str]:
        """Send labels by request id; return the ids that the server does not know."""

    @abc.abstractmethod
    def metadata(self, *, timeout_s: float) -> Signatures:
        """Return inputs and outputs of every signature."""

    @abc.abstractmethod
    def status(self, *, timeout_s: float) -> tuple[VersionStatus, ...]:
        """Return the state of the versions."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the connections."""


class RestTransport(Transport):
    """TF Serving's REST API over connections that are kept.

    Args:
        url: of the server.
        model: name.
        version: number, or `None`.
        label: of a version, or `None`.
    """

    def __init__(self, url: str, model: str, version: int | None, label: str | None):
        quote = functools.partial(urllib.parse.quote, safe="")
        part = f"/labels/{quote(label)}" if label is not None else f"/versions/{version}" if version is not None else ""
        self._model = f"{url.rstrip('/')}/v1/models/{quote(model)}{part}"
        self._url = url
        self._pool = urllib3.PoolManager(maxsize=_POOL, retries=False, cert_reqs="CERT_REQUIRED")

    def predict(
        self,
        signature: str,
        arrays: Arrays,
        outputs: Sequence[TensorInfo],
        request_id: str | None = None,
        *,
        timeout_s: float,
    ) -> dict[str, np.ndarray]:
        """Send the arrays in columns."""
        inputs = {name: _to_json(array) for name, array in arrays.items()}
        body = {"signature_name": signature, "inputs": inputs}
        answer = self._ask("POST", ":predict", body, request_id, timeout_s=timeout_s)
        with _expected_form(self._url):
            found = answer["outputs"]
            named = found if len(outputs) > 1 else {outputs[0].name: found}
            return {info.name: _from_json(named[info.name], info) for info in outputs}

    def classify(self, signature: str, examples: Sequence[Mapping[str, Any]], *, timeout_s: float) -> list[Result]:
        """Send the examples as features by name."""
        rows = [{name: _feature_json(value) for name, value in example.items()} for example in examples]
        answer = self._ask("POST", ":classify", {"signature_name": signature, "examples": rows}, timeout_s=timeout_s)
        with _expected_form(self._url):
            return [[(str(label), float(score)) for label, score in row] for row in answer["results"]]

    def label(self, labels: Mapping[str, Any], *, timeout_s: float) -> list[str]:
        """Send labels, which TF Serving itself does not know."""
        answer = self._ask("POST", ":label", {"labels": dict(labels)}, timeout_s=timeout_s)
        with _expected_form(self._url):
            refused, unknown = dict(answer.get("refused", {})), [str(one) for one in answer["unknown"]]
        if refused:
            why = "; ".join(f"{identity}: {reason}" for identity, reason in refused.items())
            raise RequestError(f"Of {len(labels)} parts {len(refused)} were refused, and the others taken: {why}")
        return unknown

    def metadata(self, *, timeout_s: float) -> Signatures:
        """Ask for the signatures."""
        answer = self._ask("GET", "/metadata", timeout_s=timeout_s)
        with _expected_form(self._url):
            return {
                name: (_infos(one.get("inputs", {})), _infos(one.get("outputs", {})))
                for name, one in answer["metadata"]["signature_def"]["signature_def"].items()
                if not name.startswith("__")
            }

    def status(self, *, timeout_s: float) -> tuple[VersionStatus, ...]:
        """Ask for the versions."""
        answer = self._ask("GET", "", timeout_s=timeout_s)
        with _expected_form(self._url):
            return tuple(
                VersionStatus(
                    int(one["version"]), one["state"], one["status"]["error_code"], one["status"]["error_message"]
                )
                for one in answer["model_version_status"]
            )

    def close(self) -> None:
        """Let go of the connections."""
        self._pool.clear()

    def _ask(self, method: str, path: str, body: Any = None, request_id: str | None = None, *, timeout_s: float) -> Any:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | ({} if request_id is None else {"X-Request-Id": request_id})
        try:
            answer = self._pool.request(
                method, self._model + path, body=content, headers=headers, timeout=urllib3.Timeout(total=timeout_s)
            )
        except urllib3.exceptions.ReadTimeoutError as error:
            raise DeadlineError(f"{self._url} did not answer in time.") from error
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise UnavailableError(
                f"{self._url} cannot be reached: {error}. Is the server running, and at this address?"
            ) from error
        return _answer(self._url, answer)


def _answer(url: str, answer: Any) -> Any:
    """Return the JSON of an answer, or raise the error that its status stands for."""
    try:
        document = json.loads(answer.data)
    except (ValueError, RecursionError):
        document = None
    if answer.status == 200 and isinstance(document, dict):
        return document
    if isinstance(document, dict) and "error" in document:
        error = _BY_STATUS.get(answer.status, ServerFailedError)(str(document["error"]))
    else:
        error = ServerFailedError(
            f"{url} is no TF Serving REST server, or not one alone: status {answer.status}, "
            f"{answer.headers.get('Content-Type', 'no type')}. Check address and port."
        )
    wait = answer.headers.get("Retry-After", "")
    error.retry_after_s = float(wait) if wait.isdigit() else 0.0
    raise error


@contextlib.contextmanager
def _expected_form(url: str) -> Iterator[None]:
    """Turn what comes of reading an answer of another form into an error that names the server."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ServerFailedError(
            f"{url} gave an answer of another form than it announced: {type(error).__name__} {error}. Is it a model "
            "server?"
        ) from error


def _to_json(array: np.ndarray) -> Any:
    if array.dtype.kind in "OSU":
        return _texts(array.tolist())
    return array.tolist()


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts(item) for item in value]
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else str(value)


def _feature_json(value: Any) -> Any:
    return _to_json(np.asarray(value, object if isinstance(value, (bytes, str)) else None).reshape(-1))


def _from_json(value: Any, info: TensorInfo) -> np.ndarray:
    array = np.asarray(value, info.dtype) if info.dtype != "object" else np.asarray(_plain(value), object)
    return _fitting(array, info)


def _fitting(array: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Return an output if it has the type and shape that the server announced."""
    if array.dtype != info.dtype:
        raise ValueError(f"output {info.name!r} is {array.dtype}, not {info.dtype}")
    if array.ndim != len(info.shape) or any(
        size not in (None, found) for size, found in zip(info.shape, array.shape, strict=True)
    ):
        raise ValueError(f"output {info.name!r} has shape {array.shape}, not {info.shape}")
    return array


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode()


def _infos(tensors: Mapping[str, Any]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(
            name,
            tuple(None if int(dim["size"]) < 0 else int(dim["size"]) for dim in one["tensor_shape"].get("dim", [])),
            _dtype(one["dtype"].removeprefix("DT_")),
        )
        for name, one in sorted(tensors.items())
    )


def _dtype(word: str) -> str:
    """Return the name of a type that NumPy has; anything else is a `TypeError` of its own."""
    return np.dtype(_TYPES.get(word, word.lower())).name


class GrpcTransport(Transport):
    """TF Serving's gRPC API.

    Args:
        target: host and port.
        model: name.
        version: number, or `None`.
        label: of a version, or `None`.

    Raises:
        MissingDependencyError: the extra `serve` is not installed.
    """

    def __init__(self, target: str, model: str, version: int | None, label: str | None):
        purpose = "Calling a server over gRPC"
        self._grpc = require("grpc", purpose)
        apis = "tensorflow_serving.apis"
        self._messages = {
            name: require(f"{apis}.{name}_pb2", purpose)
            for name in ("predict", "classification", "get_model_metadata", "get_model_status", "model")
        }
        self._tensorflow = importlib.import_module("tensorflow")
        self._codes = importlib.import_module("tensorflow.core.protobuf.error_codes_pb2").Code
        self._decode_error = importlib.import_module("google.protobuf.message").DecodeError
        self._target = target
        self._asked = {"name": model, "version": version, "label": label}
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = self._grpc.insecure_channel(target, options=unlimited)
        self._predictions = require(f"{apis}.prediction_service_pb2_grpc", purpose).PredictionServiceStub(self._channel)
        self._models = require(f"{apis}.model_service_pb2_grpc", purpose).ModelServiceStub(self._channel)

    def predict(
        self,
        signature: str,
        arrays: Arrays,
        outputs: Sequence[TensorInfo],
        request_id: str | None = None,
        *,
        timeout_s: float,
    ) -> dict[str, np.ndarray]:
        """Send the arrays as tensors."""
        request = self._messages["predict"].PredictRequest(model_spec=self._spec(signature))
        for name, array in arrays.items():
            request.inputs[name].CopyFrom(self._tensorflow.make_tensor_proto(array))
        answer = self._call(self._predictions.Predict, request, timeout_s, request_id)
        with _expected_form(self._target):
            found = {name: self._tensorflow.make_ndarray(tensor) for name, tensor in answer.outputs.items()}
            return {info.name: _fitting(found[info.name], info) for info in outputs}

    def classify(self, signature: str, examples: Sequence[Mapping[str, Any]], *, timeout_s: float) -> list[Result]:
        """Send the examples as `tf.train.Example`."""
        request = self._messages["classification"].ClassificationRequest(model_spec=self._spec(signature))
        for example in examples:
            features = {name: _feature_proto(self._tensorflow.train, value) for name, value in example.items()}
            request.input.example_list.examples.add().features.CopyFrom(
                self._tensorflow.train.Features(feature=features)
            )
        answer = self._call(self._predictions.Classify, request, timeout_s)
        return [[(one.label, one.score) for one in row.classes] for row in answer.result.classifications]

    def label(self, labels: Mapping[str, Any], *, timeout_s: float) -> list[str]:
        """Refuse: TF Serving's gRPC API has no labels."""
        raise RequestError("Labels go over REST: TF Serving's gRPC API has no call for them. Use an http:// address.")

    def metadata(self, *, timeout_s: float) -> Signatures:
        """Ask for the signatures."""
        messages = self._messages["get_model_metadata"]
        request = messages.GetModelMetadataRequest(model_spec=self._spec(), metadata_field=["signature_def"])
        answer = self._call(self._predictions.GetModelMetadata, request, timeout_s)
        signatures = messages.SignatureDefMap()
        with _expected_form(self._target):
            self._unpack(answer.metadata["signature_def"], signatures)
            return {
                name: (self._infos(one.inputs), self._infos(one.outputs))
                for name, one in signatures.signature_def.items()
                if not name.startswith("__")
            }

    def status(self, *, timeout_s: float) -> tuple[VersionStatus, ...]:
        """Ask for the versions."""
        messages = self._messages["get_model_status"]
        answer = self._call(
            self._models.GetModelStatus, messages.GetModelStatusRequest(model_spec=self._spec()), timeout_s
        )
        states = messages.ModelVersionStatus.State
        with _expected_form(self._target):
            return tuple(
                VersionStatus(
                    one.version,
                    states.Name(one.state),
                    self._codes.Name(one.status.error_code),
                    one.status.error_message,
                )
                for one in answer.model_version_status
            )

    def close(self) -> None:
        """Let go of the connection."""
        self._channel.close()

    def _unpack(self, packed: Any, message: Any) -> None:
        try:
            packed.Unpack(message)
        except self._decode_error as error:
            raise ValueError(str(error)) from error

    def _spec(self, signature: str = "") -> Any:
        spec = self._messages["model"].ModelSpec(name=self._asked["name"], signature_name=signature)
        if self._asked["version"] is not None:
            spec.version.value = self._asked["version"]
        elif self._asked["label"] is not None:
            spec.version_label = self._asked["label"]
        return spec

    def _call(self, method: Any, request: Any, timeout_s: float, request_id: str | None = None) -> Any:
        metadata = None if request_id is None else (("x-request-id", request_id),)
        try:
            return method(request, timeout=timeout_s, metadata=metadata)
        except self._grpc.RpcError as error:
            name = error.code().name
            raise _BY_CODE.get(name, ServerFailedError)(f"{self._target}: {error.details() or name}") from error

    def _infos(self, tensors: Mapping[str, Any]) -> tuple[TensorInfo, ...]:
        return tuple(
            TensorInfo(
                name,
                tuple(None if dim.size < 0 else dim.size for dim in tensors[name].tensor_shape.dim),
                np.dtype(self._tensorflow.as_dtype(tensors[name].dtype).as_numpy_dtype).name,
            )
            for name in sorted(tensors)
        )


_BY_CODE: dict[str, type[ServingError]] = {
    "INVALID_ARGUMENT": RequestError,
    "FAILED_PRECONDITION": RequestError,
    "NOT_FOUND": NotServedError,
    "RESOURCE_EXHAUSTED": OverloadedError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineError,
}


def _feature_proto(train: Any, value: Any) -> Any:
    flat = np.asarray(value, object if isinstance(value, (bytes, str)) else None).reshape(-1)
    if flat.dtype.kind == "f":
        return train.Feature(float_list=train.FloatList(value=flat))
    if flat.dtype.kind in "biu":
        return train.Feature(int64_list=train.Int64List(value=flat))
    texts = [item if isinstance(item, bytes) else str(item).encode() for item in flat]
    return train.Feature(bytes_list=train.BytesList(value=texts))
