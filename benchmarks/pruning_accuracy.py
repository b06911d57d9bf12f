"""Claims: after fine-tuning, half of the work costs 0.5 points, 80 % zeros 0.3, and no more than with tfmot."""

import statistics
import sys
from typing import Any

import keras
import numpy as np
import tf_keras
from claims import Claim, publish
from training_networks import BATCH, resnet8

import kopt

TRAIN, TEST, SEEDS = 24_000, 10_000, 3
EPOCHS, TUNING = 6, 3
CRITERIA = ("l2", "l1", "bn_scale", "geometric_median", "lamp", "taylor", "random")
LOSS = "sparse_categorical_crossentropy"


def trained(model: Any, data: Any, epochs: int, rate: float, library: Any = keras) -> Any:
    """Return the model after some epochs of Adam with a cosine schedule."""
    steps = epochs * (len(data[0]) // BATCH)
    decay = library.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(library.optimizers.Adam(decay), LOSS, metrics=["accuracy"])
    model.fit(*data, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def points(model: Any, data: Any) -> float:
    """Return the accuracy in percent."""
    return 100 * float(np.mean(np.argmax(model.predict(data[0], verbose=0), axis=-1) == data[1]))


def one_seed(seed: int, train: Any, test: Any) -> dict[str, float]:
    """Return the accuracy of the dense network and of all ways to prune it."""
    keras.utils.set_random_seed(seed)
    dense = trained(resnet8(), train, EPOCHS, 2e-3)
    found = {"dense": points(dense, test)}
    found["dense, tuned as long"] = points(trained(kopt.graph.copy_model(dense), train, TUNING, 1e-3), test)
    for criterion in CRITERIA:
        few = tuple(part[:1024] for part in train)
        smaller, _ = kopt.prune.channels(dense, target_macs=0.5, criterion=criterion, data=few, loss=LOSS, seed=seed)
        found[f"channels, {criterion}"] = points(trained(smaller, train, TUNING, 1e-3), test)
    steps = TUNING * (len(train[0]) // BATCH)
    schedule = kopt.prune.schedules.Polynomial(0.8, begin=1, end=steps // 2, frequency=20)
    for backend, library in (("keras", keras), ("tfmot", tf_keras)):
        masked, _ = kopt.prune.magnitude(dense, schedule, backend=backend)
        plain, _ = kopt.prune.finalize(trained(masked, train, TUNING, 1e-3, library))
        found[f"80 % zeros, {backend}"] = points(plain, test)
    return found


def main() -> int:
    """Train, prune and fine-tune with several seeds."""
    data = kopt.data.load("fashion_mnist")
    train, test = (data.train.x[:TRAIN], data.train.y[:TRAIN]), (data.test.x[:TEST], data.test.y[:TEST])
    runs = []
    for seed in range(SEEDS):
        runs.append(one_seed(seed, train, test))
        print(f"seed {seed}: {runs[-1]}", file=sys.stderr)
        keras.backend.clear_session()
    mean = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
    numbers: dict[str, object] = {
        f"{name}, %": [round(value, 2), *(round(run[name], 2) for run in runs)] for name, value in mean.items()
    }
    behind = mean["80 % zeros, tfmot"] - mean["80 % zeros, keras"]
    spread = statistics.stdev(run["80 % zeros, tfmot"] for run in runs)
    return publish(
        "pruning_accuracy",
        f"ResNet8, {TRAIN:,} Fashion-MNIST images, {EPOCHS} epochs, then {TUNING} of fine-tuning; {TEST:,} to test; "
        f"mean and single values of {SEEDS} seeds.",
        numbers,
        [
            Claim("channels (l2), loss of accuracy", mean["dense"] - mean["channels, l2"], 0.5, unit="points"),
            Claim("80 % zeros, loss of accuracy", mean["dense"] - mean["80 % zeros, keras"], 0.3, unit="points"),
            Claim("80 % zeros, behind tfmot", behind, spread, unit="points"),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
