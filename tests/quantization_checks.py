"""What must hold of a quantization-aware model and its file: checks return numbers, and `BOUNDS` says what they may be.

The integration test runs them over some networks, `make sweep` over all.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np

import kopt

BOUNDS = {
    "float_operators": 0,  # where the report leaves no layer in float
    # Mean difference between the outputs of the copy and of its file, as a share of the largest output.
    "difference": 0.05,
    # Where it is more: over the same difference between the copy and itself, see `noise`.
    "difference_over_noise": 1.5,
}
# A four-hundredth of a step of the integers that inputs become, or less.
_NUDGE = 1e-5


def trained(model: keras.Model, x: Any) -> tuple[keras.Model, Any]:
    """Return the copy after a step of `fit`, and the report."""
    copy, report = kopt.quantize.aware(model)
    copy.compile(keras.optimizers.SGD(1e-5), "mse", run_eagerly=True)
    copy.fit(x, model.predict(x, verbose=0), batch_size=len(x), verbose=0)
    return copy, report


def shipped(copy: keras.Model, report: Any, x: Any, folder: Path) -> dict[str, Any]:
    """Export the copy in int8 without calibration, and hold the file against it."""
    artifact = kopt.export.tflite(copy, folder / "model.tflite", scheme="int8")
    floats = {one.name for one in artifact.operators if one.dtype.startswith("float")} - {"DEQUANTIZE"}
    found, expected = kopt.measure.load(artifact.path).predict(x), copy.predict(x, verbose=0)
    return {
        "float_operators": 0 if report.left else len(floats),
        "difference": _difference(found, expected),
        "agreement": float(np.mean(np.argmax(found, axis=-1) == np.argmax(expected, axis=-1))),
        "kernels": len(report.kernels),
        "ranges": len(report.ranges),
        "left": {one.layer: one.detail for one in report.left},
        "size_bytes": artifact.size_bytes,
    }


def noise(copy: keras.Model, x: Any) -> float:
    """Return the difference that hardly another input makes to the copy.

    A rounding that falls the other way, in the copy as in one operator of the file, grows from layer to layer under
    random weights: of such a network no two computations agree.
    """
    return _difference(copy.predict(x * (1 + _NUDGE), verbose=0), copy.predict(x, verbose=0))


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).mean() / np.abs(expected).max())
