"""The constants of an exported file as its reader finds them, as one hash."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema

from kopt.measure.saved_model_runner import open_saved_model


def parameters_sha256(path: Path, format: str) -> str:
    """Return a hash over names, types, shapes and values of all constants (of a SavedModel: its variables).

    Args:
        path: of the file or directory; it must be whole.
        format: `"tflite"`, `"onnx"` or `"saved_model"`; of another nothing can be read, and the hash is `""`.
    """
    read = {"tflite": _tflite, "onnx": _onnx, "saved_model": _saved_model}.get(format)
    if read is None:
        return ""
    digest = hashlib.sha256()
    for one in sorted(_line(name, values) for name, values in read(path)):
        digest.update(one.encode())
    return digest.hexdigest()


def _line(name: str, values: np.ndarray) -> str:
    content = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return f"{name}\0{values.dtype}\0{values.shape}\0{content}\n"


def _tflite(path: Path) -> Iterable[tuple[str, np.ndarray]]:
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data):
                yield f"{(tensor.name or b'').decode()}\0{tensor.type}\0{tensor.shape}", np.asarray(data, np.uint8)


def _onnx(path: Path) -> Iterable[tuple[str, np.ndarray]]:
    for tensor in onnx.load(path).graph.initializer:
        yield tensor.name, onnx.numpy_helper.to_array(tensor)


def _saved_model(path: Path) -> Iterable[tuple[str, np.ndarray]]:
    loaded = open_saved_model(path)
    for function in loaded.signatures.values():
        for variable in function.variables:
            yield variable.name, variable.numpy()
