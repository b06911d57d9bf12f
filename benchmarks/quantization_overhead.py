"""Claims: training with the rounding of an int8 file, or with shared weights, costs at most 1.3 of a float step."""

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


def plain() -> Any:
    """Return the network as it is."""
    return compiled(resnet8)


def rounded() -> Any:
    """Return it with rounded weights and activations."""
    model, _ = kopt.quantize.aware(plain())
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


def shared() -> Any:
    """Return it with 16 values a kernel."""
    model, _ = kopt.cluster.weights(plain(), clusters=16)
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


def rounded_by_tfmot() -> Any:
    """Return the tf_keras twin, quantization-aware by tfmot."""
    model = load_tfmot().quantization.keras.quantize_model(to_tf_keras(plain()))
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


WAYS: dict[str, Callable[[], Any]] = {
    "float": plain,
    "rounded": rounded,
    "shared": shared,
    "tfmot": rounded_by_tfmot,
}


def main() -> int:
    """Time all in turns."""
    times = times_in_turns(WAYS, sets=SETS, rounds=ROUNDS, steps=STEPS)
    over_float, over_tfmot = ratios(times, "rounded", "float"), ratios(times, "rounded", "tfmot")
    shared = ratios(times, "shared", "float")
    numbers = {**medians(times), "rounded over float": over_float, "rounded over tfmot": over_tfmot}
    return publish(
        "quantization_overhead",
        f"ResNet8 on batches of {BATCH} Fashion-MNIST images with Adam, in float, quantization-aware, with 16 values a "
        f"kernel, and quantization-aware by tfmot in tf_keras; {SETS} sets in changing order, medians of {ROUNDS}.",
        {**numbers, "shared over float": shared},
        [
            Claim("ResNet8: quantization-aware steps over float ones", statistics.median(over_float), 1.3),
            Claim("ResNet8: quantization-aware steps over those of tfmot", statistics.median(over_tfmot), 1.2),
            Claim("ResNet8: steps with shared weights over float ones", statistics.median(shared), 1.3),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
