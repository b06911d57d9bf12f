"""Claim: int8 costs a trained network next to no accuracy and leaves less than a third of its file."""

import tempfile
import time
from pathlib import Path

from claims import Claim, publish

import kopt

LIMIT_POINTS = 0.5
LIMIT_SIZE = 0.30


def main() -> int:
    """Train, export twice, and let LiteRT answer the test images from each file."""
    splits = kopt.data.load("fashion_mnist")
    test = (splits.test.x, splits.test.y)
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        model = kopt.search.demo.train_or_load(splits, Path(directory) / "model.keras")
        training_s = time.perf_counter() - start
        with kopt.export.traced(model) as source:
            files = {
                "float32": kopt.export.tflite(source, Path(directory) / "float32.tflite"),
                "int8": kopt.export.tflite(
                    source, Path(directory) / "int8.tflite", scheme="int8", calibration=splits.train
                ),
            }
        accuracy = {name: kopt.measure.evaluate(file.path, test).metrics["accuracy"] for name, file in files.items()}
        accuracy["model"] = kopt.measure.evaluate(model, test).metrics["accuracy"]
    return publish(
        "fashion_mnist_int8",
        f"The network of `kopt demo`, {model.count_params():,} parameters, trained on Fashion-MNIST; accuracy on its "
        f"{len(splits.test):,} test images: of the model in Keras, of the files in LiteRT.",
        {
            "training, s": round(training_s, 1),
            **{f"{name}, test accuracy": round(value, 4) for name, value in accuracy.items()},
            **{f"{name}, bytes": file.size_bytes for name, file in files.items()},
        },
        [
            Claim(
                "accuracy lost, model to int8",
                100 * (accuracy["model"] - accuracy["int8"]),
                LIMIT_POINTS,
                unit="points",
            ),
            Claim("int8 over float32 file size", files["int8"].size_bytes / files["float32"].size_bytes, LIMIT_SIZE),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
