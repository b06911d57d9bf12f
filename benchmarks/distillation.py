"""Claims: distillation steps against `keras.distillation.Distiller`, and epochs with a cached teacher."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from claims import Claim, publish
from training_networks import BATCH, images

import kopt

# Two equal models differ in speed by where their memory lies: several sets, made in changing order.
SETS, ROUNDS, STEPS = 2, 9, 10


def residual(repeats: int, name: str) -> Any:
    """Return ResNet8 of MLPerf Tiny with `repeats` blocks a stage, its stages named and logits at the end."""
    layers = keras.layers

    def convolve(x: Any, filters: int, stride: int = 1, size: int = 3) -> Any:
        return layers.BatchNormalization()(layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x))

    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU()(convolve(inputs, 16))
    for filters, first in ((16, 1), (32, 2), (64, 2)):
        for block in range(repeats):
            stride = first if block == 0 else 1
            inner = convolve(layers.ReLU()(convolve(x, filters, stride)), filters)
            shortcut = x if stride == 1 else convolve(x, filters, stride, 1)
            last = block == repeats - 1
            x = layers.ReLU(name=f"stage{filters}" if last else None)(layers.Add()([shortcut, inner]))
    return keras.Model(inputs, layers.Dense(10, name="logits")(layers.GlobalAveragePooling2D()(x)), name=name)


def student() -> Any:
    """Return the student, with the same weights in every call."""
    keras.utils.set_random_seed(0)
    return residual(1, "student")


def teacher() -> Any:
    """Return the teacher: three times as deep and as wide as the student, so that features need no projector."""
    keras.utils.set_random_seed(1)
    return residual(3, "teacher")


def compiled(model: Any) -> Any:
    """Compile as most people do; outputs are logits."""
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def ours(features: list[str]) -> Any:
    """Return kopt's model."""
    return compiled(kopt.DistillationModel(student(), teacher(), features=features))


def theirs(features: list[str]) -> Any:
    """Return Keras' model."""
    room = keras.distillation
    losses = [room.LogitsDistillation(temperature=3.0)]
    losses += [room.FeatureDistillation("mse", teacher_layer_name=name, student_layer_name=name) for name in features]
    model = room.Distiller(teacher(), student(), losses, [1.0] * len(losses), 0.3)
    return compiled(model)


STAGES = ["stage16", "stage32", "stage64"]
WAYS: dict[str, Callable[[], Any]] = {
    "student alone": lambda: compiled(student()),
    "kopt": lambda: ours([]),
    "Distiller": lambda: theirs([]),
    "kopt, features": lambda: ours(STAGES),
    "Distiller, features": lambda: theirs(STAGES),
}
CACHED = "kopt, cached teacher"


def epoch_of(model: Any, data: tf.data.Dataset) -> Callable[[], None]:
    """Return an epoch of the steps that `fit` takes, one a call of the graph."""
    function = model.make_train_function(force=True) or model.train_function

    def epoch() -> None:
        iterator = iter(data)
        for _ in range(STEPS):
            function(iterator)

    return epoch


def timed(epochs: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Return the times of a step of each in milliseconds, one a round, taken in turns."""
    for epoch in epochs.values():
        epoch()
    seen: dict[str, list[float]] = {way: [] for way in epochs}
    orders = list(itertools.permutations(epochs))
    for order in itertools.islice(itertools.cycle(orders[:: len(orders) // 5]), ROUNDS):
        for way in order:
            start = time.perf_counter()
            epochs[way]()
            seen[way].append(1e3 * (time.perf_counter() - start) / STEPS)
    return seen


def main() -> int:
    """Time all of them in turns."""
    x, y = images(STEPS * BATCH)
    data = kopt.data.from_arrays(x, y, batch_size=BATCH, drop_remainder=True)
    times: dict[str, list[float]] = {way: [] for way in (*WAYS, CACHED)}
    orders = list(itertools.permutations((*WAYS, CACHED)))
    with tempfile.TemporaryDirectory() as directory:
        cache = kopt.distill.cache_teacher(teacher(), data, directory)
        joined = cache.join(data)
        makers = {way: (make, data) for way, make in WAYS.items()}
        makers[CACHED] = (lambda: compiled(kopt.DistillationModel(student(), cache)), joined)
        for made in orders[:: len(orders) // SETS][:SETS]:
            epochs = {way: epoch_of(makers[way][0](), makers[way][1]) for way in made}
            for way, values in timed(epochs).items():
                times[way] += values
            keras.backend.clear_session()

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))

    return publish(
        "distillation",
        f"ResNet8 as student, a network of the same widths and three times its depth as teacher, batches of {BATCH} "
        f"Fashion-MNIST images, Adam, one step a call; three stages as features; {SETS} sets of {ROUNDS} rounds in "
        f"changing order, medians of the ratios of a round.",
        {f"{way}, ms a step": round(statistics.median(values), 3) for way, values in times.items()},
        [
            Claim("step with logits over that of Distiller", ratio("kopt", "Distiller"), 1.0),
            Claim("step with features over that of Distiller", ratio("kopt, features", "Distiller, features"), 0.75),
            Claim("epoch with a cached teacher over that of the student alone", ratio(CACHED, "student alone"), 1.15),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
