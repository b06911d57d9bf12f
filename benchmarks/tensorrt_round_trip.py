"""Claim: engines of every precision compute what the model computes. For a machine with an NVIDIA GPU and TensorRT.

Run it alone, `python benchmarks/tensorrt_round_trip.py`; `make bench` leaves it out. Where something is missing, it
prints what, and ends with exit code 2.
"""

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from claims import Claim, publish

import kopt
from kopt.core.errors import MissingDependencyError

SHAPE = (96, 96, 3)
# Root-mean-square difference over the root mean square of the output: sums in another order (TF32 has 11 bits),
# 11 bits, and steps of 8 bits over fifty layers.
BOUNDS = {"fp32": 1e-3, "fp16": 1e-2, "int8": 0.1}


def main() -> int:
    """Build, run and time an engine of each precision."""
    model = keras.applications.MobileNetV2(SHAPE, weights=None, classes=10)
    images = np.random.default_rng(0).random((64, *SHAPE), np.float32)
    numbers: dict[str, object] = {}
    claims, runners = [], {}
    with tempfile.TemporaryDirectory() as directory:
        for precision, bound in BOUNDS.items():
            path = Path(directory) / f"{precision}.engine"
            calibration = images if precision == "int8" else None
            try:
                artifact = kopt.export.tensorrt(
                    model, path, precision=precision, engine="onnx", calibration=calibration, data=images
                )
            except MissingDependencyError as error:
                print(error, file=sys.stderr)
                return 2
            assert artifact.parity is not None
            (output,) = artifact.parity.outputs
            numbers[f"{precision}_size_bytes"] = artifact.size_bytes
            claims.append(Claim(f"{precision}: difference over output", output.rmse / output.reference_rms, bound))
            runners[precision] = kopt.measure.load(path)
        measured = kopt.measure.latency(list(runners.values()), images)
        for precision, one in zip(runners, measured, strict=True):
            numbers[f"{precision}_latency_ms"] = one.latency_ms
    return publish("tensorrt_round_trip", "MobileNetV2 96x96, random weights, batch 1", numbers, claims)


if __name__ == "__main__":
    sys.exit(main())
