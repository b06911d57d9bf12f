"""Claim: a search that trains finds a file of a quarter of the size, three times as fast, that loses half a point."""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
from claims import Claim, publish
from training_networks import resnet8

import kopt

MAX_DROP = 0.005
LIMIT_SMALLER, LIMIT_FASTER = 4.0, 3.0
TECHNIQUES = ("channels", "post_training", "aware", "tflite-float32", "tflite-int8")


def trained(train: kopt.data.Split, width: int, epochs: int, path: Path) -> Any:
    """Return a trained ResNet8, kept at `path`."""
    if path.exists():
        return kopt.load_model(path)
    keras.utils.set_random_seed(0)
    model = resnet8(width=width)
    batches = kopt.data.from_arrays(train.x, train.y, batch_size=64, shuffle=True, seed=0)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * len(batches))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", steps_per_execution=8)
    model.fit(batches, epochs=epochs, verbose=0, shuffle=False)
    model.save(path)
    return model


def main() -> int:
    """Train a network, search with trained candidates, and judge the chosen file on the test images."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=32, help="channels of the first stage")
    parser.add_argument("--examples", type=int, default=54_000, help="training images")
    parser.add_argument("--epochs", type=int, default=7, help="of the network that is searched for a smaller form")
    parser.add_argument("--train-epochs", type=int, default=4, help="of a candidate")
    parser.add_argument("--seconds", type=float, help="end the search after this time")
    parser.add_argument("--workdir", type=Path, help="where the run is kept and resumed; a temporary one by default")
    options = parser.parse_args()
    splits = kopt.data.load("fashion_mnist")
    train = kopt.data.Split(splits.train.x[: options.examples], splits.train.y[: options.examples])
    with tempfile.TemporaryDirectory() as scratch:
        workdir = options.workdir or Path(scratch)
        workdir.mkdir(parents=True, exist_ok=True)
        model = trained(train, options.width, options.epochs, workdir / "model.keras")
        begun = time.monotonic()
        result = kopt.optimize(
            model,
            train,
            splits.validation,
            budget=kopt.Budget(MAX_DROP),
            workdir=workdir / "run",
            techniques=TECHNIQUES,
            threads=1,
            training=kopt.Training(epochs=options.train_epochs, loss="sparse_categorical_crossentropy"),
            seconds=options.seconds,
        )
        seconds = time.monotonic() - begun
        test = (splits.test.x, splits.test.y)
        float32 = next(one for one in result.candidates if one.name == "tflite-float32")
        best = result.best or float32
        files = {"float32": float32.artifact.path, "chosen": best.artifact.path}
        accuracy = {name: kopt.measure.evaluate(path, test).metrics["accuracy"] for name, path in files.items()}
    return publish(
        "search_training",
        f"ResNet8 of {options.width} channels on {len(train):,} images of Fashion-MNIST; chosen: {best.name}; "
        f"judged on {len(splits.test):,} test images in LiteRT, one thread. {result.ended}",
        {
            "search, s": round(seconds, 1),
            "looked at": len(result.decisions) + len(result.candidates),
            "float32, test accuracy": round(accuracy["float32"], 4),
            "chosen, test accuracy": round(accuracy["chosen"], 4),
            "chosen, drop on validation": round(best.drop or 0.0, 4),
            "float32, bytes": float32.artifact.size_bytes,
            "chosen, bytes": best.artifact.size_bytes,
            "float32, ms": float32.measurement.latency_ms,
            "chosen, ms": best.measurement.latency_ms,
        },
        [
            Claim(
                "accuracy lost on the test images",
                100 * (accuracy["float32"] - accuracy["chosen"]),
                100 * MAX_DROP,
                unit="points",
            ),
            Claim("times smaller", float32.artifact.size_bytes / best.artifact.size_bytes, LIMIT_SMALLER, above=True),
            Claim(
                "times faster", float32.measurement.latency_ms / best.measurement.latency_ms, LIMIT_FASTER, above=True
            ),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
