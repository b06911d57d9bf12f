"""Measured and estimated effects of perturbing the layers of a model."""

import dataclasses
import re

from kopt.core.errors import ConfigError, nearest
from kopt.core.serialization import Record

PERTURBATIONS = ("noise_10", "int8", "int4", "pruned_30", "pruned_50", "pruned_70", "removed")
_INTEGERS = re.compile(r"int(\d+)")
_SHARES = re.compile(r"(noise|pruned)_(\d+(?:\.\d+)?)")
_GRAMMAR = "'int<bits>' of 2 to 16 bits, 'pruned_<percent>' below 100, 'noise_<percent>', 'removed'"


@dataclasses.dataclass(frozen=True)
class Perturbation(Record):
    """One way to change the kernels of a layer.

    Attributes:
        kind: `"noise"`, `"quantized"`, `"pruned"` or `"removed"`.
        amount: standard deviation of the noise as a fraction of the kernel's root mean square; bits; fraction of the
            weights set to zero; 1 for a layer that is removed.
    """

    kind: str
    amount: float

    @classmethod
    def of(cls, name: str) -> "Perturbation":
        """Return the perturbation called `name`: `"noise_10"` (percent), `"int8"`, `"pruned_50"`, `"removed"`.

        Raises:
            ConfigError: there is none of that name; the nearest one is suggested.
        """
        if name == "removed":
            return cls("removed", 1.0)
        if isinstance(name, str):
            if (match := _INTEGERS.fullmatch(name)) and 2 <= int(match[1]) <= 16:
                return cls("quantized", float(match[1]))
            if match := _SHARES.fullmatch(name):
                amount = float(match[2]) / 100
                if amount > 0 and (match[1] == "noise" or amount < 1):
                    return cls(match[1], amount)
        raise ConfigError(
            f"Unknown perturbation {name!r}.{nearest(name, PERTURBATIONS)} Accepted: {_GRAMMAR}; for example "
            f"{', '.join(PERTURBATIONS)}."
        )

    @property
    def name(self) -> str:
        """What users write."""
        if self.kind == "removed":
            return self.kind
        return f"int{self.amount:g}" if self.kind == "quantized" else f"{self.kind}_{self.amount * 100:g}"


@dataclasses.dataclass(frozen=True)
class PerturbationEffect(Record):
    """What one perturbation of one layer does to the model; nothing was trained.

    Attributes:
        perturbation: its name.
        loss_change: mean loss with it less that without, over the same examples; positive is worse.
        loss_error: standard error of that, from the differences example by example.
        metric_drop: how much worse the metric is; positive is worse, whichever way the metric counts.
        metric_error: standard error of that; `None` for a metric that is no mean over examples.
        squared_change: sum of the squared changes of the weights; `None` for a layer that is passed over.
        first_order: estimated change of the loss, gradient x change of the weights.
        second_order: estimate of the term that comes after it, half of the mean curvature (trace of the Hessian over
            the number of weights) x `squared_change`.
        fisher: the same from the diagonal of the empirical Fisher information, weight by weight.
        passed_over: the layer was removed by giving its input on; else its kernels were replaced.
    """

    perturbation: str
    loss_change: float
    loss_error: float
    metric_drop: float
    metric_error: float | None
    squared_change: float | None
    first_order: float | None = None
    second_order: float | None = None
    fisher: float | None = None
    passed_over: bool = False


@dataclasses.dataclass(frozen=True)
class LayerSensitivity(Record):
    """One layer under every perturbation.

    Attributes:
        layer: its path.
        type: its class.
        kernels: paths of the variables that are perturbed, all of them at once.
        parameters: weights in them.
        effects: one a perturbation, in the order asked for.
        gradient_weight: sum of `|gradient x weight|` (Molchanov et al. 2017); `None` without estimates, as the next.
        hessian_trace: Hutchinson's estimate for the block of this layer; `None` also where the model has no second
            derivative.
        hessian_trace_error: standard error of that over the random vectors.
        fisher_trace: of the empirical Fisher information, the mean squared gradient of an example.
    """

    layer: str
    type: str
    kernels: tuple[str, ...]
    parameters: int
    effects: tuple[PerturbationEffect, ...]
    gradient_weight: float | None = None
    hessian_trace: float | None = None
    hessian_trace_error: float | None = None
    fisher_trace: float | None = None

    def effect(self, perturbation: str) -> PerturbationEffect:
        """Return the effect of the perturbation of that name.

        Raises:
            ConfigError: it was not measured.
        """
        for effect in self.effects:
            if effect.perturbation == perturbation:
                return effect
        known = [effect.perturbation for effect in self.effects]
        raise ConfigError(
            f"Perturbation {perturbation!r} was not measured.{nearest(perturbation, known)} Measured: "
            f"{', '.join(known)}."
        )


@dataclasses.dataclass(frozen=True)
class Agreement(Record):
    """How an estimate ranks the layers, beside the measured changes of the loss.

    Attributes:
        estimate: `"first_order"`, `"second_order"`, `"taylor"` (the sum of both) or `"fisher"`.
        perturbation: under which.
        spearman: correlation of the ranks; NaN below three layers or where one side is constant.
    """

    estimate: str
    perturbation: str
    spearman: float


@dataclasses.dataclass(frozen=True)
class SensitivityProfile(Record):
    """How a model reacts to the perturbation of each of its layers, one at a time.

    Attributes:
        model: its name.
        fingerprint: what identifies architecture and weights.
        metric: name of the metric; `"loss"` where there is none beside it.
        metric_value: of the model as it is.
        loss: mean loss of the model as it is, without regularization.
        examples: that everything was measured on.
        perturbations: names, in the order asked for.
        layers: in order of execution.
        skipped: layers with variables that were not perturbed, with the reason.
        agreements: of the estimates with the measurements.
        estimate_examples: that the estimates were made on; 0 without estimates.
        perturbed_runs: runs over all examples that were judged, one a layer and perturbation.
        forward_passes: time that these took with reused activations, in units of a full forward pass over all
            examples; without reuse it would be `perturbed_runs`.
        cached_bytes: activations and perturbed kernels that were kept at a time, at most.
        seconds: of the whole call.
        notes: what to know before the numbers are used.
    """

    model: str
    fingerprint: str
    metric: str
    metric_value: float
    loss: float
    examples: int
    perturbations: tuple[str, ...]
    layers: tuple[LayerSensitivity, ...]
    skipped: dict[str, str]
    agreements: tuple[Agreement, ...]
    estimate_examples: int
    perturbed_runs: int
    forward_passes: float
    cached_bytes: int
    seconds: float
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.layers or not self.perturbations:
            raise ConfigError("A sensitivity profile has at least one layer and one perturbation.")

    def layer(self, path: str) -> LayerSensitivity:
        """Return the layer of that path.

        Raises:
            ConfigError: there is none.
        """
        for layer in self.layers:
            if layer.layer == path:
                return layer
        names = [layer.layer for layer in self.layers]
        reason = f" It was skipped: {self.skipped[path]}" if path in self.skipped else nearest(path, names)
        raise ConfigError(f"No layer {path!r} in the profile.{reason}")


@dataclasses.dataclass(frozen=True)
class LayerRank(Record):
    """A layer in a ranking.

    Attributes:
        rank: 1 is the most sensitive.
        layer: its path.
        score: what it was ranked by; larger is more sensitive.
    """

    rank: int
    layer: str
    score: float
