"""SavedModel to a SavedModel with TensorRT engines in it. Runs in the conversion child process only."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kopt.core.records.shipping.tensorrt import TFTRTPlan
from kopt.export import arrays_file

_CONVERTER = "tensorflow.python.compiler.tensorrt.trt_convert"


def convert(saved_model: str, signature: str, output: str, plan: str, examples: str, calibration: str | None) -> None:
    """Write the directory.

    Args:
        saved_model: directory to convert.
        signature: key of the signature.
        output: directory to write.
        plan: JSON of a `TFTRTPlan`.
        examples: path of an `.npz` with arrays by input name, of which engines are built.
        calibration: another, for int8; `None` for other precisions.
    """
    trt, ranges = importlib.import_module(_CONVERTER), None if calibration is None else arrays_file.read(calibration)
    build(trt, saved_model, signature, output, TFTRTPlan.from_json(plan), arrays_file.read(examples), ranges)


def build(
    trt: Any,
    saved_model: str,
    signature: str,
    output: str,
    plan: TFTRTPlan,
    examples: dict[str, np.ndarray],
    calibration: dict[str, np.ndarray] | None,
) -> None:
    """Convert, calibrate, build the engines that the plan names, and save.

    Args:
        trt: the module with `TrtGraphConverterV2`.
        saved_model: directory to convert.
        signature: key of the signature.
        output: directory to write.
        plan: of the conversion.
        examples: arrays by input name, of which batches are made.
        calibration: likewise, for int8.

    Source: `tensorflow/python/compiler/tensorrt/trt_convert.py`, TrtGraphConverterV2.
    """
    converter = trt.TrtGraphConverterV2(
        input_saved_model_dir=saved_model,
        input_saved_model_signature_key=signature,
        **plan.arguments(),
    )
    if calibration is None:
        converter.convert()
    else:
        # All batches of the calibration have one shape, which is that of the first engine.
        converter.convert(calibration_input_fn=_feeds(calibration, _whole_batches(calibration, plan.batch_sizes[-1])))
    converter.build(input_fn=_feeds(examples, [np.arange(count) for count in plan.built_sizes]))
    converter.save(output_saved_model_dir=output)


def _feeds(arrays: dict[str, np.ndarray], batches: list[np.ndarray]) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
    """Return a function that yields batches by input name; rows beyond the last begin anew."""

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        for rows in batches:
            yield {name: array[rows % len(array)] for name, array in arrays.items()}

    return feeds


def _whole_batches(arrays: dict[str, np.ndarray], size: int) -> list[np.ndarray]:
    count = len(next(iter(arrays.values())))
    return [np.arange(start, start + size) for start in range(0, count, size)]
