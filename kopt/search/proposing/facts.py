"""What a model spends its work and its weights on, as shares: what proposals are made from."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras

from kopt.core.errors import KoptError, words_of
from kopt.core.records.profiles.cost import LayerCost, ModelProfile
from kopt.graph import channel_graph, owned_variables
from kopt.profile import model as profile_of

_DENSE = ("Dense", "EinsumDense")
_ATTENTION = ("MultiHeadAttention", "GroupQueryAttention")


@dataclasses.dataclass(frozen=True)
class Share:
    """Part of the multiply-accumulates and of the parameters of a model, each in [0, 1]."""

    macs: float = 0.0
    parameters: float = 0.0


@dataclasses.dataclass(frozen=True)
class Facts:
    """What rules look at.

    Attributes:
        removable: layers that make channels of which some can go.
        wide_kernels: convolutions of more than one point that are neither depthwise nor grouped.
        dense: dense layers.
        attention: attention layers.
        normalizations: number of batch normalizations.
        unreadable: why layers cannot be changed, e.g. of a subclassed model; empty if they can.
    """

    removable: Share = Share()
    wide_kernels: Share = Share()
    dense: Share = Share()
    attention: Share = Share()
    normalizations: int = 0
    unreadable: str = ""


def facts_of(model: keras.Model | Path) -> Facts:
    """Look at a model, or at a SavedModel that is only known by its path; nothing is changed."""
    if isinstance(model, Path):
        return Facts(unreadable=f"{model} is a SavedModel, whose layers cannot be changed.")
    try:
        graph = channel_graph(model)
    except KoptError as error:
        return Facts(unreadable=words_of(error))
    profile = profile_of(model)
    free = {path for group in graph.groups if not group.reason and group.kind != "heads" for path in group.layers}
    wide = {one.layer_path for one in owned_variables(model) if _is_wide(one.layer)}
    return Facts(
        removable=_share(profile, lambda row: row.path in free),
        wide_kernels=_share(profile, lambda row: row.path in wide),
        dense=_share(profile, lambda row: row.type in _DENSE),
        attention=_share(profile, lambda row: row.type in _ATTENTION),
        normalizations=sum(row.type == "BatchNormalization" for row in profile.layers),
    )


def _is_wide(layer: keras.layers.Layer) -> bool:
    return type(layer) is keras.layers.Conv2D and layer.groups == 1 and max(layer.kernel_size) > 1


def _share(profile: ModelProfile, chosen: Callable[[LayerCost], bool]) -> Share:
    rows = [row for row in profile.layers if chosen(row)]
    return Share(
        sum(row.macs or 0 for row in rows) / max(profile.macs, 1),
        sum(row.parameters for row in rows) / max(profile.parameters, 1),
    )
