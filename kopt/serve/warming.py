"""Requests that a server replays before a version takes traffic, as TF Serving keeps them: real PredictionLog records.

Source: "SavedModel Warmup" of TF Serving; tensorflow_serving/apis/prediction_log.proto.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import LoadError, ParityError
from kopt.core.optional import require
from kopt.core.records.artifacts import TensorInfo
from kopt.core.records.shipping.serving import SignatureInfo
from kopt.measure.feeding import take
from kopt.measure.saved_model_runner import open_saved_model
from kopt.serve.endpoints import IMAGE_BYTES, IMAGES
from kopt.serve.versions import present

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_PURPOSE = "Writing warm-up requests"
_MOST_RECORDS = 1000  # TF Serving refuses to load a version with more
Arrays = Mapping[str, np.ndarray]


def require_protos() -> None:
    """Raise `MissingDependencyError` unless the messages of TF Serving can be had, before any long work."""
    require("tensorflow_serving.apis.prediction_log_pb2", _PURPOSE)


def write_warmup(
    directory: Path,
    name: str,
    signatures: Sequence[SignatureInfo],
    inputs: tuple[TensorInfo, ...],
    arrays: Arrays,
    batch_sizes: Sequence[int],
) -> int:
    """Write one request a signature and batch size into a SavedModel, after running each of them.

    Args:
        directory: of the SavedModel.
        name: of the model.
        signatures: to warm up.
        inputs: of `serving_default`.
        arrays: examples by input name.
        batch_sizes: examples in a request.

    Returns:
        The number of records.

    Raises:
        ParityError: a signature that does not run.
        MissingDependencyError: the extra `serve` is not installed.
    """
    loaded = open_saved_model(directory)
    target = directory / FILE
    target.parent.mkdir(exist_ok=True)
    as_files = any(signature.name == IMAGES for signature in signatures)
    count = 0
    with tf.io.TFRecordWriter(str(target)) as writer:
        for signature in signatures:
            for size in batch_sizes[: _MOST_RECORDS // len(signatures)]:
                tensors = _tensors(signature, inputs, arrays, size, as_files=as_files)
                _run(loaded.signatures[signature.name], signature, tensors)
                writer.write(_record(name, signature, tensors).SerializeToString())
                count += 1
    return count


def read_warmup(directory: str | os.PathLike[str]) -> Iterator[Any]:
    """Yield the PredictionLog records of a SavedModel, or of the newest in a directory of versions.

    Raises:
        LoadError: there is no such directory.
        MissingDependencyError: it needs the extra `serve`.

    Example:
        >>> made = kopt.serve.bundle(model, "models/digits", data=x_val, batching=False)
        >>> len(list(kopt.serve.read_warmup(made.artifact.path))) == made.warmup_records
        True
    """
    logs = require("tensorflow_serving.apis.prediction_log_pb2", "Reading warm-up requests")
    path = Path(directory)
    if not path.is_dir():
        raise LoadError(f"{path} is no directory of a SavedModel, nor one of versions.")
    if versions := present(path):
        path /= str(versions[-1])
    if (path / FILE).is_file():
        for record in tf.data.TFRecordDataset(str(path / FILE)):
            yield logs.PredictionLog.FromString(record.numpy())


def _tensors(
    signature: SignatureInfo, inputs: tuple[TensorInfo, ...], arrays: Arrays, size: int, *, as_files: bool
) -> dict[str, Any]:
    """Return what a signature is fed with, by input name; `as_files`: its images are files, of noise."""
    examples = take(inputs, arrays, size)
    if set(signature.inputs) == {info.name for info in inputs}:
        return dict(examples)
    features = {IMAGE_BYTES: _files(inputs[0], size)} if as_files else examples
    if signature.name == IMAGES:
        return features
    (only,) = signature.inputs
    return {only: np.array([_example(features, row) for row in range(size)], object)}


def _files(info: TensorInfo, size: int) -> Any:
    height, width, channels = info.shape[1:]
    noise = np.random.default_rng(0).integers(0, 256, (size, height, width, channels), np.uint8)  # type: ignore[arg-type]
    return np.array([tf.io.encode_png(image).numpy() for image in noise], object)


def _example(features: Arrays, row: int) -> bytes:
    """Return one row as a serialized `tf.train.Example`."""
    stored = {name: _feature(values[row]) for name, values in features.items()}
    return bytes(tf.train.Example(features=tf.train.Features(feature=stored)).SerializeToString())


def _feature(value: Any) -> Any:
    flat = np.asarray(value).reshape(-1)
    if flat.dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=flat.astype(np.float32)))
    if flat.dtype.kind in "biu":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=flat.astype(np.int64)))
    texts = [text if isinstance(text, bytes) else str(text).encode() for text in flat]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=texts))


def _run(function: Any, signature: SignatureInfo, tensors: Mapping[str, Any]) -> None:
    try:
        function(**{name: tf.constant(value) for name, value in tensors.items()})
    except tf.errors.OpError as error:
        raise ParityError(f"Signature {signature.name!r} was written but does not run: {error.message}") from error


def _record(name: str, signature: SignatureInfo, tensors: Mapping[str, Any]) -> Any:
    logs = require("tensorflow_serving.apis.prediction_log_pb2", _PURPOSE)
    if signature.method == "classify":
        (serialized,) = tensors.values()
        record = logs.PredictionLog(classify_log=logs.ClassifyLog())
        request = record.classify_log.request
        request.input.example_list.examples.extend(tf.train.Example.FromString(one) for one in serialized)
    else:
        record = logs.PredictionLog(predict_log=logs.PredictLog())
        request = record.predict_log.request
        for key, value in tensors.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    request.model_spec.name = name
    request.model_spec.signature_name = signature.name
    return record
