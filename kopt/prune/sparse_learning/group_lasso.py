"""Training that makes whole channels small, so that little is lost when they go."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from kopt.core.errors import ConfigError, InputError
from kopt.core.records.changes.group_lasso import GroupLassoReport, PenalizedGroup
from kopt.core.settings import names, number
from kopt.graph import copy_model, from_tf_keras, require_built, require_finite
from kopt.prune.plain import require_plain
from kopt.prune.sparse_learning.penalties import GroupNorms, PenalizedFunctional, PenalizedSequential, PenaltySettings
from kopt.report.changes.group_lasso import GROUP_LASSO
from kopt.report.look import Shown

_SMALL = 0.01


@dataclasses.dataclass(frozen=True)
class GroupLasso(Shown, GroupLassoReport):
    """The penalties of a model, with ways to show them.

    Example:
        >>> report = kopt.prune.group_lasso(model, 1e-3)[1]
        >>> [(group.layers, group.units, group.left) for group in report.groups]
        [(('conv1',), 8, ''), (('conv2',), 16, ''), (('classes',), 10, 'it is an output of the model')]
    """

    look = GROUP_LASSO


def group_lasso(
    model: keras.Model, strength: float = 1e-4, *, scale_strength: float = 0.0, protect: str | Iterable[str] = ()
) -> tuple[keras.Model, GroupLasso]:
    """Return a copy of a model with a penalty that drives whole channels to zero as it trains, and a report.

    Use it before `channels`: an L2 penalty makes all weights smaller, this one makes some channels vanish, and what is
    small can go at little cost. Channels that depend on each other, e.g. by a residual connection, are under one norm,
    so that they vanish together. `channels`, `constant_channels` and `finalize` give models without it, and so
    does what else copies the model: change its precision before.

    Formula: the loss gets `strength sum_g sqrt(p_g) sum_{u in g} |w_u|_2`, where `w_u` are the `p_g` weights of all
    kernels that make unit `u` of group `g` (biases are free), plus `scale_strength sum |gamma|` over the factors of
    batch normalizations. At a norm of 0 the slope is taken as 0.

    Args:
        model: Functional or Sequential, built; not changed.
        strength: of the norms, at least 0. Too much of it shows in the training loss, too little in `small` units.
        scale_strength: of the factors, at least 0; for `channels(criterion="bn_scale")`.
        protect: names or paths of layers that keep their outputs, and so get no penalty.

    Returns:
        The model, to be compiled; it saves to `.keras` and loads with its penalty. And the report, with `.table()`: by
        group what it adds to the loss, and how many units are small. `finalize` gives it again after training.

    Raises:
        ConfigError: a setting is out of range, both are 0, or a name of `protect` is of no layer.
        InputError: the model is not built, has masks or penalties already, or no channels that can be removed.
        NonFiniteError: a weight is NaN or infinite.
        UnsupportedModelError: a subclassed model, or a layer that cannot be cloned.

    Example:
        >>> sparse, report = kopt.prune.group_lasso(model, 1e-3)
        >>> sparse.compile("adam", "sparse_categorical_crossentropy")
        >>> history = sparse.fit(x_train, y_train, epochs=2, verbose=0)
        >>> plain, after = kopt.prune.finalize(sparse)
        >>> after.penalty < report.penalty
        True

    Source: Wen et al., "Learning structured sparsity in deep neural networks", 2016, https://arxiv.org/abs/1608.03665;
    Yuan and Lin, 2006, for `sqrt(p)`; Liu et al., "Network slimming", 2017, https://arxiv.org/abs/1708.06519, for the
    factors.
    """
    number("strength", strength, least=0.0)
    number("scale_strength", scale_strength, least=0.0)
    if strength == 0 == scale_strength:
        raise ConfigError("`strength` and `scale_strength` are both 0, so that there is no penalty.")
    model = from_tf_keras(model)
    require_built(model)
    require_plain(model)
    require_finite(model)
    protected = names("protect", protect)
    copy = copy_model(model, functional=PenalizedFunctional, sequential=PenalizedSequential)
    copy.penalize(PenaltySettings(float(strength), float(scale_strength), protected))
    if not copy.penalties.groups:
        reasons = "; ".join(f"{group.layers[0]}: {group.reason}" for group in copy.penalties.graph.groups[:10])
        raise InputError(f"Model {model.name!r} has no channels that a penalty could remove. {reasons}.")
    return copy, penalty_report(copy)


def penalty_report(model: Any) -> GroupLasso:
    """Return what the penalties of a model are now."""
    penalties = model.penalties
    rows = [
        _row(group, penalties.groups.get(place), penalties.settings.strength)
        for place, group in enumerate(penalties.graph.groups)
    ]
    settings = penalties.settings
    scales = sum(float(scale()) for scale in penalties.scales)
    return GroupLasso(model.name, settings.strength, settings.scale_strength, tuple(rows), scales)


def _row(group: Any, norms: GroupNorms | None, strength: float) -> PenalizedGroup:
    if norms is None:
        left = group.reason or "all its layers are frozen"
        return PenalizedGroup(group.layers, group.units.size, 0, 0.0, 0, left)
    values = np.asarray(norms.norms())
    small = int((values <= _SMALL * values.max()).sum())
    return PenalizedGroup(group.layers, group.units.size, norms.weights_per_unit, float(norms()), small)
