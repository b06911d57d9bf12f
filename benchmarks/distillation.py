"""Claims: distillation steps against `keras.distillation.Distiller`, and epochs with a cached teacher."""

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

# Two equal models differ in speed by where their memory lies, so both sides are made twice.
ROUNDS, STEPS = 16, 8


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


def epoch_of(model: Any, data: tf.data.Dataset) -> Callable[[], None]:
    """Return an epoch of the steps that `fit` takes, one a call of the graph."""
    function = model.make_train_function(force=True) or model.train_function

    def epoch() -> None:
        iterator = iter(data)
        for _ in range(STEPS):
            function(iterator)

    return epoch


def compared(
    one: Callable[[], Callable[[], None]], other: Callable[[], Callable[[], None]]
) -> list[tuple[float, float]]:
    """Return the times of a step of both in milliseconds, taken one right after the other, in changing order."""
    sets = []
    for order in ((0, 1), (1, 0)):
        made = {place: (one, other)[place]() for place in order}
        sets.append([made[0], made[1]])
    for epochs in sets:
        for epoch in epochs:
            epoch()
    pairs = []
    for index in range(ROUNDS):
        for number, epochs in enumerate(sets):
            seen = [0.0, 0.0]
            for place in (0, 1) if (index + number) % 2 else (1, 0):
                start = time.perf_counter()
                epochs[place]()
                seen[place] = 1e3 * (time.perf_counter() - start) / STEPS
            pairs.append((seen[0], seen[1]))
    keras.backend.clear_session()
    return pairs


def main() -> int:
    """Time the sides of each claim in turns."""
    x, y = images(STEPS * BATCH)
    data = kopt.data.from_arrays(x, y, batch_size=BATCH, drop_remainder=True)
    with tempfile.TemporaryDirectory() as directory:
        cache = kopt.distill.cache_teacher(teacher(), data, directory)
        joined = cache.join(data)
        times = {
            "step with logits over that of Distiller": compared(
                lambda: epoch_of(ours([]), data), lambda: epoch_of(theirs([]), data)
            ),
            "step with features over that of Distiller": compared(
                lambda: epoch_of(ours(STAGES), data), lambda: epoch_of(theirs(STAGES), data)
            ),
            "epoch with a cached teacher over that of the student alone": compared(
                lambda: epoch_of(compiled(kopt.DistillationModel(student(), cache)), joined),
                lambda: epoch_of(compiled(student()), data),
            ),
        }
    numbers: dict[str, object] = {
        f"{what}, ms a step": [round(statistics.median(side), 3) for side in zip(*pairs, strict=True)]
        for what, pairs in times.items()
    }
    ratios = [statistics.median(one / other for one, other in pairs) for pairs in times.values()]
    return publish(
        "distillation",
        f"ResNet8 as student, a network of the same widths and three times its depth as teacher, batches of {BATCH} "
        f"Fashion-MNIST images, Adam, one step a call; three stages as features; both sides made twice, in either "
        f"order, {ROUNDS} rounds of {STEPS} steps each, medians of the ratios of a round.",
        numbers,
        [Claim(what, ratio, bound) for what, ratio, bound in zip(times, ratios, (1.0, 0.75, 1.15), strict=True)],
    )


if __name__ == "__main__":
    raise SystemExit(main())
