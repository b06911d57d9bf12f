"""`.tflite` files in LiteRT."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from kopt.core.errors import ConfigError, KoptError, LoadError, MeasurementError, nearest
from kopt.core.records.artifacts import TensorInfo
from kopt.measure.runner import Runner, batch_of, natural

IDENTIFIER = b"TFL3"


class TFLiteRunner(Runner):
    """Runs a `.tflite` file in LiteRT with its default delegate, XNNPACK.

    Inputs and outputs carry the names of the signature; a file without signatures shows the names of its tensors.
    """

    format = "tflite"
    device = "cpu"

    def __init__(self, path: Path, threads: int | None, signature: str):
        self.name = path.name
        self.threads = threads
        self.runtime = f"LiteRT {importlib.metadata.version('ai-edge-litert')}"
        self._path = path
        self._shapes: dict[str, tuple[int, ...]]
        self._signature_runner: Any = None  # of a signature that is not the file's main one
        self._interpreter = self._open()
        try:
            self._describe(signature)
        except KoptError:
            raise
        # Names that are no text, indices of tensors that are not there: LiteRT opens such a file and stumbles later.
        except (RuntimeError, ValueError, TypeError, LookupError, OverflowError) as error:
            raise _damaged(path, error) from error
        self.fixed_batch = batch_of(self.inputs)
        if any(None in info.shape[1:] for info in self.inputs):
            # The file holds a size of 1 where it is open, at which no convolution or pooling need work.
            self._shapes = {}
            return
        if self._signature_runner is not None:
            return
        self._guard(self._interpreter.allocate_tensors)
        if self.fixed_batch is None and self._interpreter.num_subgraphs() > 1 and not self._runs_a_batch_of_two():
            self.fixed_batch = 1

    def _describe(self, signature: str) -> None:
        details = self._details(signature)
        self.inputs = tuple(_tensor_info(name, detail) for name, detail in details[0].items())
        self.outputs = tuple(_tensor_info(name, detail) for name, detail in details[1].items())
        self._input_indices = {name: detail["index"] for name, detail in details[0].items()}
        self._output_indices = {name: detail["index"] for name, detail in details[1].items()}
        self._shapes = {name: tuple(map(int, detail["shape"])) for name, detail in details[0].items()}

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Copy the inputs in, invoke, copy the outputs out; tensors are resized only when a shape changes."""
        return self._guard(self._run, self._interpreter, feeds)

    def _run(self, interpreter: Interpreter, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._signature_runner is not None:
            return dict(self._signature_runner(**feeds))  # it resizes tensors itself
        shapes = {name: feeds[name].shape for name in self._input_indices}
        if shapes != self._shapes:
            for name, index in self._input_indices.items():
                interpreter.resize_tensor_input(index, shapes[name], strict=True)
            interpreter.allocate_tensors()
            self._shapes = shapes
        for name, index in self._input_indices.items():
            interpreter.set_tensor(index, feeds[name])
        interpreter.reset_all_variables()  # an LSTM would begin where the example before it ended
        interpreter.invoke()
        return {name: interpreter.get_tensor(index) for name, index in self._output_indices.items()}

    def _open(self) -> Interpreter:
        check_identifier(self._path)
        try:
            return Interpreter(model_path=str(self._path), num_threads=self.threads)
        except ValueError as error:
            raise _damaged(self._path, error) from error

    def _details(self, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the input and output tensors of the signature by name."""
        interpreter = self._interpreter
        primary = interpreter.get_input_details(), interpreter.get_output_details()
        signatures = interpreter.get_signature_list()
        if not signatures:
            return tuple({detail["name"]: detail for detail in details} for details in primary)  # type: ignore[return-value]
        if key not in signatures:
            raise ConfigError(
                f"{self.name} has no signature {key!r}.{nearest(key, signatures)} Signatures: {', '.join(signatures)}."
            )
        runner = interpreter.get_signature_runner(key)
        found = runner.get_input_details(), runner.get_output_details()
        if any(
            {d["name"] for d in ours.values()} - {d["name"] for d in theirs}
            for ours, theirs in zip(found, primary, strict=True)
        ):
            self._signature_runner = runner
        return tuple({name: details[name] for name in sorted(details, key=natural)} for details in found)  # type: ignore[return-value]

    def _runs_a_batch_of_two(self) -> bool:
        """Try it: files with loops may claim an open batch and run only one example (converted RNNs)."""
        feeds = {
            info.name: np.zeros([2 if axis == 0 else size or 1 for axis, size in enumerate(info.shape)], info.dtype)
            for info in self.inputs
        }
        before = self._shapes
        try:
            self._run(self._open(), feeds)
        except (RuntimeError, ValueError):
            return False
        finally:
            self._shapes = before
        return True

    def _guard(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise MeasurementError(f"{self.runtime} cannot run {self.name}: {error}") from error


def _damaged(path: Path, error: Exception) -> LoadError:
    return LoadError(f"{path} is a damaged or truncated .tflite file ({error}). Export or copy it again.")


def check_identifier(path: Path) -> None:
    """Raise `LoadError` unless the file carries the identifier of a TensorFlow Lite flatbuffer."""
    with open(path, "rb") as file:
        head = file.read(8)
    if head[4:8] != IDENTIFIER:
        raise LoadError(
            f"{path} is not a TensorFlow Lite file: it begins with {head!r}, and bytes 4 to 8 of a .tflite are "
            f"{IDENTIFIER!r}. Was another file renamed, or a download cut short?"
        )


def _tensor_info(name: str, detail: dict[str, Any]) -> TensorInfo:
    scales = detail["quantization_parameters"]["scales"]
    zero_points = detail["quantization_parameters"]["zero_points"]
    integer = np.issubdtype(detail["dtype"], np.integer) and len(scales) == 1 and scales[0] > 0
    return TensorInfo(
        name=name,
        shape=tuple(None if size < 0 else int(size) for size in detail["shape_signature"]),
        dtype=np.dtype(detail["dtype"]).name,
        scale=float(scales[0]) if integer else None,
        zero_point=int(zero_points[0]) if integer else None,
    )
