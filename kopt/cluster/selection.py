"""Which kernels of a model share weights, how many values each keeps, and why the others stay as they are."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from kopt.core.records.actions import LayerAction
from kopt.core.settings import whole
from kopt.graph import OwnedVariable, layer_paths, owned_variables
from kopt.graph.layer_names import Wanted, all_named, nothing_chosen
from kopt.graph.naming import is_kernel

Clusters = int | Mapping[str, int]


def choose(
    model: keras.Model, clusters: Clusters, layers: Iterable[str] | None, skip: Iterable[str], per_channel: bool
) -> tuple[list[tuple[OwnedVariable, int]], list[LayerAction]]:
    """Return the variables to cluster with the values of a codebook, and what is left as it is with the reason.

    Raises:
        ConfigError: an unknown layer, fewer than two values, or nothing to cluster.
    """
    paths = [path for identity, path in layer_paths(model).items() if identity != id(model)]
    sizes = _sizes(paths, clusters)
    wanted = Wanted.of(paths, layers, skip)
    chosen, left = [], []
    for one in owned_variables(model):
        if not is_kernel(one.variable):
            continue
        size = sizes(one.layer_path)
        reason = _reason(one, size, wanted, per_channel)
        if reason:
            left.append(LayerAction(one.layer_path, type(one.layer).__name__, reason))
        else:
            chosen.append((one, size))
    if not chosen:
        raise nothing_chosen(model.name, "clustered", left)
    return chosen, left


def _reason(one: OwnedVariable, size: int, wanted: Wanted, per_channel: bool) -> str:
    refusal = wanted.refusal(one.layer_path)
    if refusal:
        return refusal
    if size == 0:
        return "not named in `clusters`"
    if not one.trainable:
        return "frozen: training does not change it"
    if per_channel and "Embedding" in type(one.layer).__name__:
        return "an embedding has no output channels"
    distinct = np.unique(one.variable.numpy()).size
    return f"it has {distinct} different weights only" if distinct <= size else ""


def _sizes(paths: list[str], clusters: Clusters) -> Any:
    if not isinstance(clusters, Mapping):
        size = whole("clusters", clusters, least=2)
        return lambda path: size
    found: dict[str, int] = {}
    for name, given in clusters.items():
        value = whole(f"clusters[{name!r}]", given, least=2)
        found.update(dict.fromkeys(all_named(paths, [name], "clusters"), value))
    return lambda path: found.get(path, 0)
