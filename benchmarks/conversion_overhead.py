"""Claim: an int8 export through kopt, child process and verification included, costs little more than the converter."""

import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from claims import Claim, publish

import kopt

SHAPE = (96, 96, 3)
SAMPLES = 100
PAIRS = 5
LIMIT = 1.3
SIDES = ("kopt", "plain")


def images(seed: int, count: int) -> np.ndarray:
    """Return images that differ in color and contrast, so that an untrained network tells them apart."""
    random = np.random.default_rng(seed)
    color, contrast = random.uniform(-1, 1, (count, 1, 1, 3)), random.uniform(0, 1, (count, 1, 1, 1))
    return np.clip(color + contrast * random.normal(size=(count, *SHAPE)), -1, 1).astype(np.float32)


def build(samples: np.ndarray) -> Any:
    """Return an untrained MobileNetV2 whose answers are worth comparing.

    Probabilities of an untrained network all round to the same 8-bit number, hence logits; and with its first
    statistics of batch normalization the signal dies out on the way, hence those of `samples`.
    """
    keras = importlib.import_module("keras")
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(SHAPE, weights=None, classifier_activation=None)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(samples, training=True)
    return model


def convert_with_kopt(model: Any, samples: np.ndarray, path: Path) -> None:
    """Export as a user of kopt does."""
    kopt.export.tflite(model, path, scheme="int8", calibration=samples, samples=SAMPLES)


def convert_plainly(model: Any, samples: np.ndarray, path: Path) -> None:
    """Convert as TensorFlow's guide to integer quantization does."""
    lite = importlib.import_module("tensorflow").lite
    converter = lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([samples[i : i + 1]] for i in range(SAMPLES))
    converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS_INT8]
    path.write_bytes(converter.convert())


def convert(side: str, path: Path) -> None:
    """Convert once in this process and write the seconds beside the file; imports and the model do not count."""
    convert_one = convert_with_kopt if side == "kopt" else convert_plainly
    importlib.import_module("kopt.export" if side == "kopt" else "tensorflow")
    samples = images(0, SAMPLES)
    model = build(samples)
    start = time.perf_counter()
    convert_one(model, samples, path)
    path.with_suffix(".seconds").write_text(json.dumps(time.perf_counter() - start))


def main() -> int:
    """Let both sides convert in turn, each in a fresh process, and compare their files."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as directory:
        paths: dict[str, Path] = {}
        for pair in range(PAIRS):
            for side in SIDES:
                paths[side] = Path(directory) / f"{side}{pair}.tflite"
                command = [sys.executable, __file__, side, str(paths[side])]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                seconds[side].append(json.loads(paths[side].with_suffix(".seconds").read_text()))
        answers = {side: kopt.measure.load(paths[side]).predict(images(1, 100)) for side in SIDES}
        sizes = {f"{side}, bytes": paths[side].stat().st_size for side in SIDES}
    ratios = [ours / theirs for ours, theirs in zip(seconds["kopt"], seconds["plain"], strict=True)]
    classes = {side: answers[side].argmax(axis=1) for side in SIDES}
    agreement = float(np.mean(classes["kopt"] == classes["plain"]))
    return publish(
        "conversion_overhead",
        f"MobileNetV2 {SHAPE} to int8 with {SAMPLES} samples: kopt.export.tflite, its converter process started anew "
        f"and its file verified, over tf.lite.TFLiteConverter. Fresh processes in turn, median of {PAIRS} pairs.",
        {
            **{f"{side}, s": [round(value, 2) for value in values] for side, values in seconds.items()},
            **{f"{side}, median s": round(statistics.median(values), 2) for side, values in seconds.items()},
            **sizes,
            "largest difference of logits": float(np.abs(answers["kopt"] - answers["plain"]).max()),
            "range of logits": float(np.ptp(answers["plain"])),
            "classes answered": len(np.unique(classes["plain"])),
        },
        [
            Claim("kopt over plain conversion", statistics.median(ratios), LIMIT),
            Claim("argmax agreement of the two files on 100 inputs", agreement, 0.99, above=True),
        ],
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        convert(sys.argv[1], Path(sys.argv[2]))
    else:
        raise SystemExit(main())
