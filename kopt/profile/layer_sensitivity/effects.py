"""Measured changes and estimates put together, layer by layer."""

from collections.abc import Sequence

import numpy as np

from kopt.core.records.profiles.sensitivity import LayerSensitivity, Perturbation, PerturbationEffect
from kopt.profile.layer_sensitivity.estimates import LayerDerivatives
from kopt.profile.layer_sensitivity.kernels import Target
from kopt.profile.layer_sensitivity.measured import Change


class Effects:
    """Gathers the estimates while the perturbed kernels pass by, and puts the rows of the record together."""

    def __init__(self, derivatives: dict[str, LayerDerivatives]):
        self._derivatives = derivatives
        self._estimates: dict[tuple[str, str], dict[str, float | None]] = {}

    def see(self, target: Target, perturbation: Perturbation, perturbed: list[np.ndarray]) -> None:
        """Take up the perturbed kernels of a layer."""
        kernels = zip(perturbed, target.kernels, strict=True)
        changes = [one.astype(np.float32) - kernel.value().astype(np.float32) for one, kernel in kernels]
        found: dict[str, float | None] = {"squared_change": float(sum(np.vdot(one, one) for one in changes))}
        derivatives = self._derivatives.get(target.path)
        if derivatives is not None:
            found["first_order"] = derivatives.first_order(changes)
            found["second_order"] = derivatives.second_order(changes)
            found["fisher"] = derivatives.fisher_order(changes)
        self._estimates[target.path, perturbation.name] = found

    def layer(
        self, target: Target, chosen: Sequence[Perturbation], changes: dict[tuple[str, str], tuple[Change, bool]]
    ) -> LayerSensitivity:
        """Return the row of a layer."""
        derivatives = self._derivatives.get(target.path)
        return LayerSensitivity(
            layer=target.path,
            type=type(target.layer).__name__,
            kernels=tuple(kernel.path for kernel in target.kernels),
            parameters=target.parameters,
            effects=tuple(self._effect(target.path, one.name, *changes[target.path, one.name]) for one in chosen),
            gradient_weight=derivatives.gradient_weight if derivatives else None,
            hessian_trace=derivatives.trace if derivatives else None,
            hessian_trace_error=derivatives.trace_error if derivatives else None,
            fisher_trace=derivatives.fisher_trace if derivatives else None,
        )

    def _effect(self, path: str, perturbation: str, change: Change, passed_over: bool) -> PerturbationEffect:
        estimates = self._estimates.get((path, perturbation), {})
        return PerturbationEffect(
            perturbation=perturbation,
            loss_change=change.loss_change,
            loss_error=change.loss_error,
            metric_drop=change.metric_drop,
            metric_error=change.metric_error,
            squared_change=estimates.get("squared_change"),
            first_order=estimates.get("first_order"),
            second_order=estimates.get("second_order"),
            fisher=estimates.get("fisher"),
            passed_over=passed_over,
        )
