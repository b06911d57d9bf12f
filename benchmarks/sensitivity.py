"""Claim: profiling the sensitivity of all layers costs less than running the model once a perturbation."""

import time
from typing import Any

import keras
import numpy as np
import training_networks
from claims import Claim, publish

from kopt.core.records.profiles.sensitivity import PERTURBATIONS, Perturbation
from kopt.profile.layer_sensitivity import sensitivity
from kopt.profile.layer_sensitivity.kernels import targets_of
from kopt.profile.layer_sensitivity.ranking import spearman

EXAMPLES, BATCH, ROUNDS = 1000, 250, 3
NAMES = tuple(name for name in PERTURBATIONS if name != "removed")  # Which Keras has no way to do without a rebuild.


def brute_force(model: Any, x: Any, y: Any) -> dict[tuple[str, str], float]:
    """Return the loss for every layer and perturbation, by assigning weights and calling `evaluate`."""
    found = {}
    for target in targets_of(model)[0]:
        kept = [kernel.value() for kernel in target.kernels]
        for perturbed in [(name, target.perturbed(Perturbation.of(name), 0)) for name in NAMES]:
            _assign(target, perturbed[1])
            found[target.path, perturbed[0]] = model.evaluate(x, y, batch_size=BATCH, verbose=0)[0]
        _assign(target, kept)
    return found


def _assign(target: Any, values: Any) -> None:
    for kernel, value in zip(target.kernels, values, strict=True):
        kernel.variable.assign(value)


def seconds(function: Any, *arguments: Any, **settings: Any) -> tuple[float, Any]:
    """Return how long a call takes, and its result."""
    start = time.perf_counter()
    result = function(*arguments, **settings)
    return time.perf_counter() - start, result


def main() -> int:
    """Measure both in turn on the ResNet8 of MLPerf Tiny, and the estimates beside them."""
    x, y = training_networks.images(EXAMPLES)
    model = training_networks.compiled(training_networks.resnet8)
    model.evaluate(x, y, batch_size=BATCH, verbose=0)
    times: dict[str, list[float]] = {"brute force": [], "profile": [], "profile with estimates": []}
    settings: dict[str, Any] = {"perturbations": NAMES, "batch_size": BATCH}
    for _ in range(ROUNDS):
        took, losses = seconds(brute_force, model, x, y)
        times["brute force"].append(took)
        took, profile = seconds(sensitivity, model, (x, y), estimate_examples=0, **settings)
        times["profile"].append(took)
        took, _ = seconds(sensitivity, model, (x, y), **settings)
        times["profile with estimates"].append(took)
    effects = [(layer.layer, effect) for layer in profile.layers for effect in layer.effects]
    differences = [
        abs(losses[layer, effect.perturbation] - profile.loss - effect.loss_change) for layer, effect in effects
    ]
    medians = {name: float(np.median(values)) for name, values in times.items()}
    agreement = spearman(
        [effect.loss_change for _, effect in effects], [losses[layer, effect.perturbation] for layer, effect in effects]
    )
    return publish(
        "sensitivity",
        f"ResNet8, {len(profile.layers)} layers x {len(NAMES)} perturbations, {EXAMPLES} images of Fashion-MNIST, "
        f"batch {BATCH}. Brute force assigns the weights and calls `evaluate`. In turn, {ROUNDS} rounds, medians; "
        f"tracing included. Keras {keras.__version__}.",
        {
            **{f"{name}, s": round(value, 3) for name, value in medians.items()},
            "perturbed runs": profile.perturbed_runs,
            "forward passes spent": round(profile.forward_passes, 2),
            "largest difference of a loss": float(max(differences)),
        },
        [
            Claim("profile over brute force", medians["profile"] / medians["brute force"], 0.8),
            Claim("forward passes over perturbed runs", profile.forward_passes / profile.perturbed_runs, 0.7),
            Claim("Spearman of the loss with that of brute force", agreement, 0.99, above=True),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
