"""Claim: a search that trains finds a file of a quarter of the size, three times as fast, that loses half a point.

A row is a network on a set of images. Each is judged on 20,000 images that nothing was trained with, and a drop must be
inside the budget surely: on 6,000 images, by its estimate, the best of a dozen files lost 0.42 points there and 0.58 on
the test images, because a best of many is flattered by the images it is chosen on. A row that is finished is kept, and
one that was stopped goes on where it was.
"""

import argparse
from typing import Any

import keras
from claims import Claim, publish
from image_sets import ImageSet, image_sets
from resumable import MODELS, Table, trained_once
from training_networks import mobilenet_v2, resnet8
from trainings import LOSS

import kopt

MAX_DROP = 0.005
LIMIT_SMALLER, LIMIT_FASTER = 4.0, 3.0
TECHNIQUES = ("channels", "post_training", "aware", "tflite-float32", "tflite-int8")
NETWORKS = {"resnet8": resnet8, "mobilenet_v2": mobilenet_v2}
JUDGED, RATE = 20_000, 3e-3


def original(images: ImageSet, network: str, options: argparse.Namespace) -> Any:
    """Return the network that is searched for a smaller form, trained once."""

    def make() -> Any:
        keras.utils.set_random_seed(0)
        model = NETWORKS[network](images.shape, width=options.width)
        x, y = learned(images, options)
        batches = kopt.data.from_arrays(x, y, batch_size=64, shuffle=True, augment=images.augmentation, seed=0)
        decay = keras.optimizers.schedules.CosineDecay(RATE, options.epochs * len(batches))
        model.compile(keras.optimizers.Adam(decay), LOSS, steps_per_execution=8)
        model.fit(batches, epochs=options.epochs, verbose=0, shuffle=False)
        return model

    name = f"search_{images.name}_{network}_{options.width}_{options.examples}_{options.epochs}"
    return trained_once(name, make)


def learned(images: ImageSet, options: argparse.Namespace) -> tuple[Any, Any]:
    """Return what the original and the candidates learn from."""
    return images.train[0][: options.examples], images.train[1][: options.examples]


def searched(images: ImageSet, network: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a search finds for a network."""
    model = original(images, network, options)
    result = kopt.optimize(
        model,
        learned(images, options),
        (images.held[0][:JUDGED], images.held[1][:JUDGED]),
        test=images.test,
        budget=kopt.Budget(MAX_DROP, ("latency", "size"), undecided="outside"),
        workdir=MODELS.parent / "search_training" / f"{images.name}-{network}",
        techniques=TECHNIQUES,
        threads=1,
        training=kopt.Training(epochs=options.train_epochs, augment=images.augmentation, loss=LOSS),
        seconds=options.seconds,
    )
    return numbers(result, images)


def numbers(result: Any, images: ImageSet) -> dict[str, Any]:
    """Return the chosen file beside the float32 one, on the test images and in LiteRT with one thread."""
    float32 = next(one for one in result.candidates if one.name == "tflite-float32")
    best = result.best or float32
    files = {"float32": float32.artifact.path, "chosen": best.artifact.path}
    accuracy = {name: kopt.measure.evaluate(path, images.test).metrics["accuracy"] for name, path in files.items()}
    return {
        "chosen": best.name,
        "search, s": round(result.seconds, 1),
        "ended": result.ended,
        "looked at": len(result.decisions) + len(result.candidates),
        "float32, test accuracy": round(accuracy["float32"], 4),
        "chosen, test accuracy": round(accuracy["chosen"], 4),
        "chosen, drop on validation": round(best.drop or 0.0, 4),
        "chosen, drop at most": round(best.judgement.high, 4),
        "float32, bytes": float32.artifact.size_bytes,
        "chosen, bytes": best.artifact.size_bytes,
        "float32, ms": float32.measurement.latency_ms,
        "chosen, ms": best.measurement.latency_ms,
    }


def claims_of(row: str, found: dict[str, Any]) -> list[Claim]:
    """Return what is claimed of a row."""
    lost = 100 * (found["float32, test accuracy"] - found["chosen, test accuracy"])
    smaller = found["float32, bytes"] / found["chosen, bytes"]
    faster = found["float32, ms"] / found["chosen, ms"]
    return [
        Claim(f"{row}: accuracy lost on the test images", lost, 100 * MAX_DROP, unit="points"),
        Claim(f"{row}: times smaller", smaller, LIMIT_SMALLER, above=True),
        Claim(f"{row}: times faster", faster, LIMIT_FASTER, above=True),
    ]


def main() -> int:
    """Search for a smaller form of each network on each set, and judge the chosen file on the test images."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=32, help="channels of the first stage")
    parser.add_argument("--examples", type=int, default=12_000, help="training images")
    parser.add_argument("--epochs", type=int, default=8, help="of the network that is searched for a smaller form")
    parser.add_argument("--train-epochs", type=int, default=6, help="of a candidate")
    parser.add_argument("--seconds", type=float, default=2700, help="end a search after this time")
    parser.add_argument("--rows", nargs="+", help="rows such as fashion_mnist-resnet8; all by default")
    options = parser.parse_args()
    table, claims, found = Table("search_training"), [], {}
    for images in image_sets():
        for network in NETWORKS:
            row = f"{images.name}-{network}"
            if options.rows is None or row in options.rows:
                table.once(images.name, network, 0, lambda i=images, n=network: searched(i, n, options))
                found[row] = table.values(images.name, network)[0]
                claims += claims_of(row, found[row])
    return publish(
        "search_training",
        f"networks of {options.width} channels on {options.examples:,} images; candidates are judged on {JUDGED:,} "
        f"others, and the chosen file on the test images, in LiteRT with one thread",
        found,
        claims,
    )


if __name__ == "__main__":
    raise SystemExit(main())
