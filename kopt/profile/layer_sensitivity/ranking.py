"""Layers in order of sensitivity, and how two orders agree."""

import math
from collections.abc import Sequence

import numpy as np

from kopt.core.errors import ConfigError
from kopt.core.records.profiles.sensitivity import (
    Agreement,
    LayerRank,
    LayerSensitivity,
    PerturbationEffect,
    SensitivityProfile,
)
from kopt.core.settings import choice

SCORES = ("loss", "metric", "first_order", "second_order", "taylor", "fisher")
ESTIMATES = ("first_order", "second_order", "taylor", "fisher")


def rank_layers(profile: SensitivityProfile, by: str = "loss", perturbation: str | None = None) -> list[LayerRank]:
    """Return the layers, most sensitive first; see `Sensitivity.ranking`."""
    choice("by", by, SCORES)
    names = profile.perturbations if perturbation is None else (perturbation,)
    columns = [[score(layer.effect(name), by) for layer in profile.layers] for name in names]
    known = [column for column in columns if not any(value is None for value in column)]
    if not known:
        raise ConfigError(
            f"There is no {by!r} for {perturbation or 'any perturbation'}: it was not estimated, or a layer was "
            f"removed by passing its input on. Rank by 'loss' or 'metric', or name another perturbation."
        )
    if perturbation is None:
        scores = np.mean([ranks(column) for column in known], axis=0)
    else:
        scores = np.array(known[0], np.float64)
    # NaN, a model that broke, is worst.
    order = np.argsort(-np.where(np.isnan(scores), np.inf, scores), kind="stable")
    return [
        LayerRank(place, profile.layers[index].layer, float(scores[index]))
        for place, index in enumerate(order, start=1)
    ]


def score(effect: PerturbationEffect, by: str) -> float | None:
    """Return the measured or estimated number that a ranking goes by; larger is more sensitive."""
    if by == "loss":
        return effect.loss_change
    if by == "metric":
        return effect.metric_drop
    if by == "taylor":
        parts = (effect.first_order, effect.second_order)
        return None if None in parts else sum(part for part in parts if part is not None)
    value: float | None = getattr(effect, by)
    return value


def agreements_of(layers: Sequence[LayerSensitivity], perturbations: Sequence[str]) -> tuple[Agreement, ...]:
    """Return how every estimate ranks the layers that have it, beside the measured change of the loss."""
    found = []
    for name in perturbations:
        effects = [layer.effect(name) for layer in layers]
        for estimate in ESTIMATES:
            pairs = [(effect.loss_change, score(effect, estimate)) for effect in effects]
            pairs = [pair for pair in pairs if pair[1] is not None]
            if pairs:
                measured, estimated = zip(*pairs, strict=True)
                found.append(Agreement(estimate, name, spearman(measured, estimated)))
    return tuple(found)


def ranks(values: Sequence[float | None]) -> np.ndarray:
    """Return ranks from 1 for the smallest; equal values share the mean of theirs, NaN counts as infinite."""
    numbers = np.array(values, np.float64)
    numbers = np.where(np.isnan(numbers), np.inf, numbers)
    _, group, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[group]


def spearman(first: Sequence[float | None], second: Sequence[float | None]) -> float:
    """Return the correlation of the ranks; NaN below three pairs or where one side is constant.

    Source: Spearman 1904, https://doi.org/10.2307/1412159
    """
    one, other = ranks(first), ranks(second)
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(np.corrcoef(one, other)[0, 1])
