"""What a sensitivity profile can do: rank the layers and make a plan."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.core.records.profiles.sensitivity import LayerRank, Perturbation, SensitivityProfile
from kopt.core.records.profiles.sensitivity_plan import SensitivityPlan
from kopt.core.settings import number
from kopt.graph import fingerprint
from kopt.profile.layer_sensitivity.joint import JointRuns
from kopt.profile.layer_sensitivity.objective import Objective
from kopt.profile.layer_sensitivity.plan import make_plan
from kopt.profile.layer_sensitivity.preparation import prepare
from kopt.profile.layer_sensitivity.ranking import rank_layers
from kopt.profile.tensorboard import InTensorBoard
from kopt.report.profiles.sensitivity import SENSITIVITY
from kopt.report.profiles.sensitivity_plan import PLAN


@dataclasses.dataclass(frozen=True)
class Plan(InTensorBoard, SensitivityPlan):
    """Which layers can take how much, with ways to show it.

    Example:
        >>> validation = (x_val, y_val)
        >>> found = kopt.profile.sensitivity(model, validation, perturbations=["int8"], estimate_examples=0)
        >>> plan = found.plan(0.01, model=model, data=validation)
        >>> plan.is_verified, plan.bits["conv2"]
        (True, 8)
    """

    look = PLAN


@dataclasses.dataclass(frozen=True)
class Sensitivity(InTensorBoard, SensitivityProfile):
    """What `sensitivity` found, with ways to show it, to rank the layers and to plan.

    Example:
        >>> found = kopt.profile.sensitivity(model, (x_val, y_val), perturbations=["int8", "removed"], probes=0)
        >>> layer = found.layer("classes")
        >>> layer.effect("removed").metric_drop > layer.effect("int8").metric_drop
        True
        >>> found.ranking("loss", "removed")[0].rank
        1
    """

    look = SENSITIVITY

    def _scalars(self) -> Iterator[tuple[str, float]]:
        for layer in self.layers:
            yield from ((f"{effect.perturbation}/{layer.layer}", effect.loss_change) for effect in layer.effects)

    def ranking(self, by: str = "loss", perturbation: str | None = None) -> list[LayerRank]:
        """Return the layers, most sensitive first.

        Args:
            by: `"loss"` or `"metric"` (measured), or an estimate of the change of the loss: `"first_order"`,
                `"second_order"`, `"taylor"` (the sum of both) or `"fisher"`.
            perturbation: whose effect counts; by default all of them, with the mean of the ranks as the score.

        Raises:
            ConfigError: an unknown `by` or perturbation, or an estimate that is not there.
        """
        return rank_layers(self, by, perturbation)

    def plan(
        self,
        max_drop: float = 0.01,
        *,
        model: keras.Model | None = None,
        data: Any = None,
        loss: Any = None,
        metric: Any = None,
        batch_size: int = 256,
        caution: float = 0.0,
        seed: int = 0,
    ) -> Plan:
        """Return how far every layer may be quantized and pruned.

        For either technique the budget is spent on the layers that save most for their drop; the drops of single
        layers add up to at most `max_drop`. With `model` and `data` all layers are then changed together and measured;
        while that is above the budget, the layers that save least for their drop are given less.

        Args:
            max_drop: of the metric, as it counts: 0.01 is one point of accuracy. Both bits and sparsity may use it up.
            model: the one that was profiled; with `data`, to measure the plan as a whole.
            data: as for `sensitivity`; other examples than there make the check independent.
            loss: as for `sensitivity`.
            metric: as for `sensitivity`; must be the one that was measured there.
            batch_size: as for `sensitivity`.
            caution: standard errors that are added to every measured drop.
            seed: of the noise.

        Raises:
            ConfigError: a setting out of range, one of `model` and `data` without the other, another metric, or a
                profile without a quantization and without a pruning.
            UnsupportedModelError: not the model that was profiled, or its weights have changed.
            DataError: data that does not fit.

        Example:
            >>> validation = (x_val, y_val)
            >>> profile = kopt.profile.sensitivity(model, validation, perturbations=["pruned_30"], estimate_examples=0)
            >>> plan = profile.plan(0.01, model=model, data=validation)
            >>> sorted(plan.sparsity), 0 <= plan.mean_sparsity <= 0.3
            (['classes', 'conv1', 'conv2'], True)
        """
        number("max_drop", max_drop, least=0.0)
        number("caution", caution, least=0.0)
        if all(Perturbation.of(name).kind not in ("quantized", "pruned") for name in self.perturbations):
            raise ConfigError(
                f"A plan is made of quantized and pruned layers, and neither was measured. Perturbations of this "
                f"profile: {', '.join(self.perturbations)}."
            )
        if (model is None) != (data is None):
            raise ConfigError("`model` and `data` belong together: pass both to measure the plan as a whole, or none.")
        runs = None
        if model is not None:
            prepared = prepare(model, data, loss, metric, batch_size)
            self._require_same(model, prepared.objective)
            runs = JointRuns(prepared.trace, prepared.targets, prepared.examples, prepared.objective, seed)
        made = make_plan(self, float(max_drop), float(caution), runs.measure if runs else None)
        return Plan(**{field.name: getattr(made, field.name) for field in dataclasses.fields(made)})

    def _require_same(self, model: keras.Model, objective: Objective) -> None:
        if fingerprint(model) != self.fingerprint:
            raise UnsupportedModelError(
                f"Model {model.name!r} is not the one that was profiled ({self.model!r}), or its weights have changed "
                f"since. Profile it anew with `kopt.profile.sensitivity`."
            )
        if objective.name != self.metric:
            raise ConfigError(
                f"The profile was made with the metric {self.metric!r}; here it is {objective.name!r}. Pass the same "
                f"`metric`."
            )
