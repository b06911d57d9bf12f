"""Sensitivity records made by hand."""

from kopt.core.records.profiles.sensitivity import LayerSensitivity, PerturbationEffect
from kopt.profile.layer_sensitivity import Sensitivity


def profile_of(drops, *, parameters=None, metric="accuracy", error=0.01):
    """Return a profile from `{layer: {perturbation: drop}}`; the loss changes by the same numbers."""
    names = tuple(next(iter(drops.values())))
    layers = tuple(
        LayerSensitivity(
            layer=layer,
            type="Dense",
            kernels=(f"{layer}/kernel",),
            parameters=(parameters or {}).get(layer, 100),
            effects=tuple(PerturbationEffect(name, row[name], error, row[name], error, 1.0) for name in names),
        )
        for layer, row in drops.items()
    )
    return Sensitivity(
        model="net",
        fingerprint="f",
        metric=metric,
        metric_value=0.9,
        loss=0.3,
        examples=1000,
        perturbations=names,
        layers=layers,
        skipped={"norm": "no kernel"},
        agreements=(),
        estimate_examples=0,
        perturbed_runs=len(layers) * len(names),
        forward_passes=2.5,
        cached_bytes=1024,
        seconds=1.0,
    )
