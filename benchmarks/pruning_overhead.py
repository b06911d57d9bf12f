"""Claim: masks cost at most 5 % of a training step, and less than tfmot's on the tf_keras twin."""

import statistics
from collections.abc import Callable
from typing import Any

from claims import Claim, publish
from step_times import medians, ratios, times_in_turns
from training_networks import BATCH, compiled, resnet8

import kopt
from kopt.graph import to_tf_keras
from kopt.graph.tfmot import load_tfmot

SETS, ROUNDS, STEPS = 4, 7, 40
LOSS = "sparse_categorical_crossentropy"


def dense() -> Any:
    """Return the network as it is."""
    return compiled(resnet8)


def masked() -> Any:
    """Return it under masks that are computed at every tenth step."""
    schedule = kopt.prune.schedules.Polynomial(0.8, begin=1, end=10**6, frequency=10)
    pruned, _ = kopt.prune.magnitude(dense(), schedule)
    pruned.compile("adam", LOSS, metrics=["accuracy"])
    return pruned


def twin() -> Any:
    """Return the tf_keras twin."""
    model = to_tf_keras(dense())
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


def twin_by_tfmot() -> Any:
    """Return the twin under tfmot's masks, of the same schedule."""
    sparsity = load_tfmot().sparsity.keras
    schedule = sparsity.PolynomialDecay(0.0, 0.8, begin_step=1, end_step=10**6, frequency=10)
    model = sparsity.prune_low_magnitude(to_tf_keras(dense()), pruning_schedule=schedule)
    model.compile("adam", LOSS, metrics=["accuracy"])
    step = sparsity.UpdatePruningStep()
    step.set_model(model)
    step.on_train_begin()
    return model


WAYS: dict[str, Callable[[], Any]] = {"dense": dense, "masks": masked, "twin": twin, "tfmot": twin_by_tfmot}


def main() -> int:
    """Time all four in turns."""
    times = times_in_turns(WAYS, sets=SETS, rounds=ROUNDS, steps=STEPS)
    ours, theirs = ratios(times, "masks", "dense"), ratios(times, "tfmot", "twin")
    numbers = {**medians(times), "masks over dense": ours, "tfmot over twin": theirs}
    return publish(
        "pruning_overhead",
        f"ResNet8 on batches of {BATCH} Fashion-MNIST images with Adam, masks computed anew at every tenth step; the "
        f"same network in tf_keras, plain and under tfmot; {SETS} sets made in changing order, medians of {ROUNDS}.",
        numbers,
        [
            Claim("ResNet8: steps with masks over dense ones", statistics.median(ours), 1.05),
            Claim("overhead of masks over that of tfmot", statistics.median(ours) / statistics.median(theirs), 1.0),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
