"""Claims: after fine-tuning, half of the work costs 0.5 points, 80 % zeros 0.3, and no more than with tfmot."""

import functools
import statistics
from typing import Any

import keras
import tf_keras
from claims import Claim, publish
from image_sets import ImageSet, described, image_sets
from resumable import Table, trained_once
from training_networks import resnet8
from trainings import LOSS, points, teacher, trained

import kopt

SEEDS = 3
CRITERIA = ("l2", "l1", "bn_scale", "geometric_median", "lamp", "taylor", "activation", "random")
# Of fine-tuning, where criteria are compared.
SHORT = 4
DENSE, TUNED = "dense", "dense, tuned as long"
HALF = {criterion: f"half the MACs ({criterion})" for criterion in ("l2", "taylor")}
TAUGHT = "half the MACs (taylor), taught by the dense network"
SINGLE = "half the MACs (taylor), single channels, taught by the dense network"
# Fine-tuning for as long as the dense network was trained.
LONG = "half the MACs (taylor), single channels, taught with features, long"
LONG_ZEROS = "80 % zeros of all kernels together, taught with features, long"
# Fine-tuning twice as long, where a network of 32 channels in its first stage is at hand to teach.
PATIENT = "half the MACs (taylor), single channels, taught with features by a larger network, twice as long"
PATIENT_ZEROS = "80 % zeros of all kernels together, taught with features by a larger network, twice as long"
ZEROS = {
    "80 % zeros of all kernels together": {"scope": "global"},
    "80 % zeros, first and last layer dense": {"policy": "keep_first_last"},
    "80 % zeros, first and last layer dense, tfmot": {"policy": "keep_first_last", "backend": "tfmot"},
}
GLOBAL, LAYERS, TFMOT = ZEROS


def dense(images: ImageSet, seed: int) -> Any:
    """Return the dense network of a seed, trained in an earlier run or now."""

    def make() -> Any:
        keras.utils.set_random_seed(seed)
        return trained(resnet8(images.shape), images, images.epochs[0], 4e-3, seed)

    return trained_once(f"resnet8_{images.name}_{seed}", make)


def tuned(
    model: Any, images: ImageSet, seed: int, library: Any = keras, epochs: int | None = None, rate: float = 2e-3
) -> Any:
    """Return the model after fine-tuning."""
    return trained(model, images, epochs or images.epochs[1], rate, seed, library)


def halved(images: ImageSet, seed: int, criterion: str, round_to: int = 8) -> Any:
    """Return the dense network with half of its multiply-accumulates."""
    few = tuple(part[:1024] for part in images.train)
    settings = {"criterion": criterion, "data": few, "loss": LOSS, "seed": seed, "round_to": round_to}
    return kopt.prune.channels(dense(images, seed), target_macs=0.5, **settings)[0]


def smaller(images: ImageSet, seed: int, criterion: str, epochs: int | None = None) -> float:
    """Return the accuracy with half of the multiply-accumulates."""
    return points(tuned(halved(images, seed, criterion), images, seed, epochs=epochs), images)


def taught(student: Any, images: ImageSet, seed: int, epochs: int | None = None, **settings: Any) -> Any:
    """Return the student after fine-tuning on the answers of the dense network, too."""
    model = kopt.DistillationModel(student, dense(images, seed), temperature=4.0, alpha=0.7, **settings)
    return tuned(model, images, seed, epochs=epochs).student


def taught_longer(student: Any, images: ImageSet, seed: int) -> Any:
    """Return the student after learning from the larger network, from its features, too."""
    model = kopt.DistillationModel(student, teacher(images), temperature=4.0, alpha=0.7, features="auto")
    return tuned(model, images, seed, epochs=2 * images.epochs[0], rate=4e-3).student


def masked(images: ImageSet, seed: int, epochs: int, **settings: Any) -> Any:
    """Return the dense network on its way to 80 % zeros, which are reached in the middle of the epochs."""
    schedule = kopt.prune.schedules.Polynomial(0.8, begin=1, end=epochs * images.steps // 2, frequency=20)
    return kopt.prune.magnitude(dense(images, seed), schedule, **settings)[0]


def zeroed(images: ImageSet, seed: int, settings: Any) -> float:
    """Return the accuracy with 80 % zeros."""
    library = tf_keras if "backend" in settings else keras
    model = tuned(masked(images, seed, images.epochs[1], **settings), images, seed, library)
    return points(kopt.prune.finalize(model)[0], images)


def taught_ways(images: ImageSet, seed: int) -> dict[str, Any]:
    """Return what makes the rows in which a network teaches: the dense one, or a larger one."""
    long = images.epochs[0]

    def half(round_to: int) -> float:
        return points(taught(halved(images, seed, "taylor", round_to), images, seed), images)

    def zeros(epochs: int, learn: Any) -> float:
        student = learn(masked(images, seed, epochs, scope="global"))
        return points(kopt.prune.finalize(student)[0], images)

    def features(student: Any) -> Any:
        return taught(student, images, seed, long, features="auto")

    def longer(student: Any) -> Any:
        return taught_longer(student, images, seed)

    return {
        TAUGHT: lambda: half(8),
        SINGLE: lambda: half(1),
        LONG: lambda: points(features(halved(images, seed, "taylor", 1)), images),
        LONG_ZEROS: lambda: zeros(long, features),
        PATIENT: lambda: points(longer(halved(images, seed, "taylor", 1)), images),
        PATIENT_ZEROS: lambda: zeros(2 * long, longer),
    }


def ways(images: ImageSet, seed: int) -> dict[str, Any]:
    """Return what makes each row."""
    rows: dict[str, Any] = {
        DENSE: lambda: points(dense(images, seed), images),
        TUNED: lambda: points(tuned(dense(images, seed), images, seed), images),
    }
    rows |= {name: functools.partial(zeroed, images, seed, settings) for name, settings in ZEROS.items()}
    rows |= {name: functools.partial(smaller, images, seed, criterion) for criterion, name in HALF.items()}
    return rows | taught_ways(images, seed)


def short_ways(images: ImageSet, seed: int) -> dict[str, Any]:
    """Return the same of the comparison of criteria."""
    return {
        f"half the MACs, {SHORT} epochs, {criterion}": functools.partial(smaller, images, seed, criterion, SHORT)
        for criterion in CRITERIA
    }


def claims(table: Table, name: str) -> list[Claim]:
    """Return what the table is held against: the better of the two dense rows, and tfmot."""
    best = max(table.mean(name, DENSE), table.mean(name, TUNED))
    layers, tfmot = table.mean(name, LAYERS), table.values(name, TFMOT)
    behind, spread = statistics.mean(tfmot) - layers, statistics.stdev(tfmot)
    return [
        *(
            Claim(f"{name}: {way}, loss", best - table.mean(name, way), bound, unit="points")
            for ways, bound in (
                ((HALF["taylor"], TAUGHT, SINGLE, LONG, PATIENT), 0.5),
                ((GLOBAL, LONG_ZEROS, PATIENT_ZEROS), 0.3),
            )
            for way in ways
        ),
        Claim(f"{name}: {LAYERS}, behind tfmot", behind, spread, unit="points"),
    ]


def main() -> int:
    """Train, prune and fine-tune with several seeds."""
    table, sets = Table("pruning_accuracy"), image_sets()
    todo = [(images, seed, ways) for images in sets for seed in range(SEEDS)]
    todo += [(sets[0], seed, short_ways) for seed in range(SEEDS)]
    for images, seed, rows in todo:
        for way, measure in rows(images, seed).items():
            table.once(images.name, way, seed, measure)
    table.show()
    return publish(
        "pruning_accuracy",
        f"ResNet8 with {SEEDS} seeds, test accuracy in percent after fine-tuning. {described(sets)}.",
        table.numbers(),
        [claim for images in sets for claim in claims(table, images.name)],
    )


if __name__ == "__main__":
    raise SystemExit(main())
