"""One interface over everything that can run: a Keras model and every deployable file."""

import abc
import re
from collections.abc import Iterable, Mapping
from typing import final

import numpy as np

from kopt.core.errors import ConfigError, DataError, MeasurementError
from kopt.core.records.artifacts import TensorInfo
from kopt.measure.feeding import Arrays, convert, dequantize, examples, match, rows

CALL_SIZE = 32


def in_order_of(wanted: Iterable[TensorInfo], infos: tuple[TensorInfo, ...]) -> tuple[TensorInfo, ...]:
    """Return inputs or outputs in the order in which others of the same names come; as they are if names differ."""
    names = [info.name for info in wanted]
    if sorted(names) != sorted(info.name for info in infos):
        return infos
    return tuple(sorted(infos, key=lambda info: names.index(info.name)))


class Runner(abc.ABC):
    """A model or file in the runtime that would serve it. Made by `kopt.measure.load`.

    A new format is one subclass that sets the attributes and implements `run`; nothing else is overridden.

    Attributes:
        name: file name, or name of the model.
        format: `"keras"`, `"saved_model"`, `"tflite"`, `"onnx"` or `"tensorrt"`.
        runtime: the runtime and its version; it belongs to every number measured in it.
        threads: threads the runtime was given; `None` leaves the choice to the runtime.
        inputs: signature; `None` in a shape where any size is accepted.
        outputs: the same of what it answers.
        fixed_batch: examples that every call must have; `None` if any number will do.
        device: `"cpu"` or `"gpu"`.

    Example:
        >>> runner = kopt.measure.load("model.tflite")
        >>> runner.format, runner.inputs[0].name, runner.inputs[0].shape, runner.device
        ('tflite', 'image', (None, 8, 8, 1), 'cpu')
        >>> runner.predict(x_val).shape
        (269, 10)
    """

    name: str
    format: str
    runtime: str
    threads: int | None
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    fixed_batch: int | None
    device: str

    @abc.abstractmethod
    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run exactly one call on what `feeds` returned, with no check and no conversion: this is what is timed.

        Returns:
            The outputs by name in the file's own types: quantized ones are still integers.
        """

    @final
    def feeds(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """Check one batch and bring it into the file's own types, quantized where the file is.

        Raises:
            DataError: the arrays do not fit the inputs, or are not exactly one batch of a file with a fixed batch.
        """
        named = match(self.inputs, arrays)
        count = examples(self.inputs, named)
        if self.fixed_batch not in (None, count):
            raise DataError(f"{self.name} runs batches of exactly {self.fixed_batch}. Received: {count} example(s).")
        return {info.name: convert(info, named[info.name]) for info in self.inputs}

    @final
    def predict(self, arrays: Arrays, *, batch_size: int | None = None) -> np.ndarray | dict[str, np.ndarray]:
        """Run any number of examples, in as many calls as it takes.

        Args:
            arrays: one array, a sequence by position or a dict by input name; real values even where the file takes
                integers (an array of the file's own integer type is taken as already quantized).
            batch_size: examples a call; 32 if not given. A file with a fixed batch runs that one, its last call
                filled up with copies of the last example whose results are dropped.

        Returns:
            One array for one output, else a dict by output name; quantized outputs as float32.

        Raises:
            ConfigError: `batch_size` is not one that the file runs.
            DataError: the arrays do not fit the inputs.
            MeasurementError: the runtime failed, or an output does not have the examples on its first axis.
        """
        named = match(self.inputs, arrays)
        count = examples(self.inputs, named)
        size = self._call_size(count, batch_size)
        calls = []
        for start in range(0, count, size):
            chunk = rows(self.inputs, named, start, start + size)
            filled = self.fixed_batch or min(size, count - start)
            feeds = {
                i.name: convert(i, _fill(chunk[i.name], filled) if i.shape else chunk[i.name]) for i in self.inputs
            }
            calls.append((self.run(feeds), filled, min(size, count - start)))
        outputs = {info.name: self._join(info, calls) for info in self.outputs}
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _call_size(self, count: int, batch_size: int | None) -> int:
        if batch_size is not None:
            check_positive("batch_size", batch_size)
            if self.fixed_batch not in (None, batch_size):
                raise ConfigError(
                    f"{self.name} runs batches of exactly {self.fixed_batch}. Received: batch_size={batch_size}. "
                    "Leave `batch_size` out."
                )
        return self.fixed_batch or min(count, batch_size or CALL_SIZE)

    def _join(self, info: TensorInfo, calls: list[tuple[dict[str, np.ndarray], int, int]]) -> np.ndarray:
        """Cut what was filled up and put the calls together."""
        parts = [dequantize(results[info.name], info) for results, _, _ in calls]
        if all(part.ndim and len(part) == filled for part, (_, filled, _) in zip(parts, calls, strict=True)):
            return np.concatenate([part[:kept] for part, (_, _, kept) in zip(parts, calls, strict=True)])
        if len(parts) == 1 and calls[0][1] == calls[0][2]:
            return parts[0]
        raise MeasurementError(
            f"Output {info.name!r} of {self.name} has shape {parts[0].shape} for a call of {calls[0][1]} example(s): "
            "its first axis is not the examples, so calls cannot be put together. Pass exactly one call's examples."
        )


def batch_of(inputs: tuple[TensorInfo, ...]) -> int | None:
    """Return the number of examples that the signature fixes; `None` if it is open."""
    return next((info.shape[0] for info in inputs if info.shape and info.shape[0] is not None), None)


def check_positive(name: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ConfigError(f"`{name}` must be a whole number from 1. Received: {value!r} ({type(value).__name__}).")


def natural(name: str) -> tuple[str | int, ...]:
    """Return a sort key that puts `"output_2"` before `"output_10"`: signatures know names, not positions."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


def _fill(array: np.ndarray, size: int) -> np.ndarray:
    """Repeat the last example until there are `size`."""
    if len(array) == size:
        return array
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])
