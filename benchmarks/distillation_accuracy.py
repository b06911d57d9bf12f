"""Claims: distilled students beat the same student alone, and in integers at half the work lose next to nothing."""

import tempfile
from pathlib import Path
from typing import Any

import keras
from claims import Claim, publish
from image_sets import ImageSet, described, image_sets
from resumable import MODELS, Table, trained_once
from training_networks import resnet8
from trainings import LOSS, TEACHER, points, teacher, trained

import kopt

SEEDS = 3
STUDENT = 8  # channels of the first stage
TEMPERATURE, ALPHA = 4.0, 0.7
ALONE, DISTILLER, TAUGHT = "student alone", "keras.distillation.Distiller", "taught"
FEATURES = "taught, with features"
ALONE_INT8, ALL = "student alone, int8 after training", "half the MACs, rounding while it learns, taught, int8"
PATIENT, LONGER = "half the MACs, taught with features twice as long, then as above, int8", "student alone, as long"
# With half of the work next to nothing is to be lost: augmented images want the longer recipe.
SMALLEST = {"fashion_mnist": ALL, "cifar10": PATIENT}


def fresh(images: ImageSet, seed: int) -> Any:
    """Return a student before training."""
    keras.utils.set_random_seed(seed)
    return resnet8(images.shape, STUDENT)


def alone(images: ImageSet, seed: int) -> Any:
    """Return the student that learned from labels alone."""

    def make() -> Any:
        return trained(fresh(images, seed), images, images.epochs[0], 4e-3, seed)

    return trained_once(f"resnet8_{STUDENT}_{images.name}_{seed}", make)


def answers(images: ImageSet, seed: int) -> Any:
    """Return what the teacher says of every image that a training looks at, computed in an earlier run or now."""
    place = MODELS / f"answers_{TEACHER}_{images.name}"
    if images.augmentation is None:
        every = kopt.data.from_arrays(*images.train, batch_size=256)  # shuffled batches drop others every epoch
        return kopt.distill.cache_teacher(teacher(images), every, place)
    longest = max(images.epochs)
    return kopt.distill.cache_teacher(teacher(images), images.batches(seed), f"{place}_{seed}", epochs=longest)


def taught(
    student: Any, images: ImageSet, seed: int, epochs: int, rate: float, *, cached: bool = True, **settings: Any
) -> Any:
    """Return a student after learning from the teacher and from labels."""
    settings = {"temperature": TEMPERATURE, "alpha": ALPHA, **settings}
    source = answers(images, seed) if cached else teacher(images)
    batches = source.join(images.batches(seed)) if cached else None
    model = kopt.DistillationModel(student, source, **settings)
    return trained(model, images, epochs, rate, seed, batches=batches).student


def by_distiller(images: ImageSet, seed: int) -> Any:
    """Return a student that Keras' own class has taught, which takes logits of both."""
    models = [_logits(one) for one in (fresh(images, seed), teacher(images))]
    loss = keras.distillation.LogitsDistillation(temperature=TEMPERATURE)
    model = keras.distillation.Distiller(
        teacher=models[1], student=models[0], distillation_losses=loss, student_loss_weight=1 - ALPHA
    )
    return trained(model, images, images.epochs[0], 4e-3, seed, loss=_from_logits()).student


def _logits(model: Any) -> Any:
    """Return a model with the same layers, but for the softmax at its end."""
    last = model.layers[-1]
    config = {**last.get_config(), "activation": None}
    layer = type(last).from_config(config)
    twin = keras.Model(model.inputs, layer(last.input))
    layer.set_weights(last.get_weights())
    return twin


def _from_logits() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def halved(images: ImageSet, seed: int) -> Any:
    """Return the student alone with half of its multiply-accumulates, not yet fine-tuned."""
    few = tuple(part[:1024] for part in images.train)
    return kopt.prune.channels(
        alone(images, seed), target_macs=0.5, criterion="taylor", data=few, loss=LOSS, seed=seed, round_to=1
    )[0]


def rounding(model: Any, images: ImageSet) -> Any:
    """Return a copy that computes with the rounding of its integer file."""
    return kopt.quantize.aware(model, calibration=images.train[0][:256])[0]


def as_int8(model: Any, images: ImageSet) -> float:
    """Return the accuracy of the integer file in LiteRT."""
    with tempfile.TemporaryDirectory() as folder:
        file = kopt.export.tflite(
            model, Path(folder) / "model.tflite", scheme="int8", calibration=images.train[0][:256]
        )
        return points(file.path, images)


def ways(images: ImageSet, seed: int) -> dict[str, Any]:
    """Return what makes each row."""
    long, short = images.epochs

    def learned(**settings: Any) -> float:
        return points(taught(fresh(images, seed), images, seed, long, 4e-3, **settings), images)

    def tuned(start: Any, **settings: Any) -> Any:
        return taught(start, images, seed, short, 2e-3, **settings)

    def patient(start: Any) -> Any:
        return taught(start, images, seed, 2 * long, 4e-3, features="auto", cached=False)

    rows = {
        "teacher": lambda: points(teacher(images), images),
        ALONE: lambda: points(alone(images, seed), images),
        ALONE_INT8: lambda: as_int8(alone(images, seed), images),
        DISTILLER: lambda: points(by_distiller(images, seed), images),
        TAUGHT: lambda: learned(cached=False),
        "taught by cached answers": learned,
        "taught, decoupled": lambda: learned(losses="decoupled"),
        FEATURES: lambda: learned(features="auto", cached=False),
        "rounding while it learns, taught, int8": lambda: as_int8(tuned(rounding(alone(images, seed), images)), images),
        "half the MACs, taught": lambda: points(tuned(halved(images, seed)), images),
        ALL: lambda: as_int8(tuned(rounding(tuned(halved(images, seed)), images)), images),
    }
    if SMALLEST[images.name] == PATIENT:
        rows[PATIENT] = lambda: as_int8(tuned(rounding(patient(halved(images, seed)), images)), images)
        rows[LONGER] = lambda: points(trained(alone(images, seed), images, 2 * long + short, 4e-3, seed), images)
    return rows


def main() -> int:
    """Train students with several seeds."""
    table, sets = Table("distillation_accuracy"), image_sets()
    for seed in range(SEEDS):
        for images in sets:
            for way, measure in ways(images, seed).items():
                table.once(images.name, way, seed, measure)
    table.show()
    last = sets[-1].name
    gains = [
        Claim(
            f"{last}: {way}, over {ALONE}",
            table.mean(last, way) - table.mean(last, ALONE),
            0.5,
            above=True,
            unit="points",
        )
        for way in (TAUGHT, FEATURES)
    ]
    losses = [
        Claim(
            f"{data}: {SMALLEST[data]}, loss",
            table.mean(data, ALONE) - table.mean(data, SMALLEST[data]),
            0.5,
            unit="points",
        )
        for data in table.rows
    ]
    return publish(
        "distillation_accuracy",
        f"ResNet8 of {STUDENT} channels taught by one of {TEACHER}, {SEEDS} seeds, percent. {described(sets)}.",
        table.numbers(),
        [*gains, *losses],
    )


if __name__ == "__main__":
    raise SystemExit(main())
