"""One set of weights for repeated blocks."""

import dataclasses
import itertools
import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.core.randomness import preserved_random_state
from kopt.core.records.actions import LayerAction
from kopt.core.settings import choice, names
from kopt.graph import GraphView, clone_layer
from kopt.graph.internals import serializing_in_memory
from kopt.restructure.accounting import Change, Costs, Restructuring, make_report
from kopt.restructure.repetition import find_runs
from kopt.restructure.selection import find, require_unconstrained
from kopt.restructure.sites import Site, sites_of
from kopt.restructure.substitution import substituted, values

# Each block as the names of its layers, in the same order, or as what their names begin with.
Blocks: TypeAlias = Sequence[str | Sequence[str]] | None
_WEIGHTS = ("mean", "first")


@preserved_random_state()
def share_layers(
    model: keras.Model, *, blocks: Blocks = None, weights: str = "mean"
) -> tuple[keras.Model, Restructuring]:
    """Return a copy of `model` in which repeated blocks have one set of weights, as in ALBERT.

    Use it on deep models of equal blocks where the size of the file matters, and train afterwards: the parameters fall
    by the number of blocks, the arithmetic stays.

    Formula: the shared weight is the mean of the originals, which of all is the nearest to them in the sum of squares;
    the error of a layer is `norm(original - shared) / norm(original)` over all of its weights.

    Args:
        model: built Functional or Sequential model; not changed.
        blocks: each block as a list of layer names or paths, position by position those that become one; or as the
            beginning of its layers' names, so that `"block1"` stands for `"block1_conv"` and `"block1_norm"`. By
            default the layers with weights are searched, in the order of the model, for blocks that follow each other
            and have equal configurations and shapes of weights; of several ways to cut them the one that spares most.
            A nested model is searched by itself.
        weights: `"mean"` or `"first"`, those of the first block.

    Returns:
        The copy, a plain Functional model, not compiled, in which the first block's layers are called in the place of
        the others', and a report with the distance of every layer's weights from the shared ones.

    Raises:
        ConfigError: unknown names, fewer than two blocks, blocks of different layers, or a layer in two blocks.
        InputError: the model is not built, or carries masks or codebooks.
        UnsupportedModelError: a subclassed model, or no block is repeated.

    Example:
        >>> x = inputs = keras.Input((16,))
        >>> for number in range(4):
        ...     x = keras.layers.Dense(16, activation="relu", name=f"block{number}")(x)
        >>> small, report = kopt.restructure.share_layers(keras.Model(inputs, x))
        >>> report.parameters_before, report.parameters_after
        (1088, 272)

    Source: Lan et al., "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations", 2020.
    """
    choice("weights", weights, _WEIGHTS)
    view = GraphView.of(model)
    require_unconstrained(model)
    sites = sites_of(view)
    groups = _found(sites, model.name) if blocks is None else _named(sites, blocks)
    shared = [_Shared.of(group, weights) for group in groups]
    small = substituted(model, {id(site.layer): one.layer for one in shared for site in one.group})
    for one in shared:
        for variable, array in zip(one.layer.weights, one.weights, strict=True):
            variable.assign(array.astype(variable.dtype))
    order = {site: place for place, site in enumerate(sites)}
    changes = sorted(
        ((site, change) for one in shared for site, change in one.changes()), key=lambda pair: order[pair[0]]
    )
    left = {} if blocks is not None else _left(sites, groups)
    report = make_report("share_layers", Costs.of(model), Costs.of(small), [change for _, change in changes], left)
    # The calls stay as many; a profile counts all of them for the one layer that is left.
    rows = tuple(dataclasses.replace(row, macs_after=row.macs_before) for row in report.applied)
    return small, dataclasses.replace(report, applied=rows)


Group: TypeAlias = tuple[Site, ...]


@dataclasses.dataclass(frozen=True)
class _Shared:
    """Layers that become one.

    Attributes:
        group: the layers, the first of which gives the name.
        layer: in the place of all.
        weights: that it gets, in the order of `layer.weights`.
        errors: relative distance from each of the group.
    """

    group: Group
    layer: keras.layers.Layer
    weights: list[np.ndarray]
    errors: list[float]

    @classmethod
    def of(cls, group: Group, rule: str) -> "_Shared":
        originals = [[values(variable) for variable in site.layer.weights] for site in group]
        first = originals[0]
        weights = first if rule == "first" else [np.mean(same, axis=0) for same in zip(*originals, strict=True)]
        errors = [_distance(original, weights) for original in originals]
        return cls(group, clone_layer(group[0].layer, group[0].path), weights, errors)

    def changes(self) -> Iterator[tuple[Site, Change]]:
        first, others = self.group[0], len(self.group) - 1
        for number, (site, error) in enumerate(zip(self.group, self.errors, strict=True)):
            detail = f"called for {others} more" if number == 0 else f"calls {first.path!r}"
            names = (site.layer.name,) if number == 0 else ()
            yield site, Change(site.path, type(site.layer).__name__, detail, names, error)


def _found(sites: tuple[Site, ...], model: str) -> list[Group]:
    groups: list[Group] = []
    for row in _rows(sites):
        sizes = [sum(math.prod(weight.shape) for weight in site.layer.weights) for site in row]
        for run in find_runs([_signature(site) for site in row], sizes):
            groups += zip(*([row[place] for place in block] for block in run.blocks()), strict=True)
    if not groups:
        raise UnsupportedModelError(
            f"`share_layers` found no blocks in model {model!r} that follow each other with equal configurations and "
            f"shapes of weights. Name `blocks` that are apart; layers of different shapes, or of different nested "
            f"models, cannot be shared."
        )
    return groups


def _rows(sites: Iterable[Site]) -> list[list[Site]]:
    """Return the layers that can be shared, those of each nested model by themselves."""
    rows: dict[int, list[Site]] = {}
    for site in sites:
        if not _unfit(site):
            rows.setdefault(id(site.calls[0][0]), []).append(site)
    return list(rows.values())


def _left(sites: tuple[Site, ...], groups: list[Group]) -> dict[str, LayerAction]:
    taken = {site for group in groups for site in group}
    reasons = {site: _unfit(site) or "no block beside it is like its own" for site in sites if site.layer.weights}
    return {
        site.path: LayerAction(site.path, type(site.layer).__name__, reason)
        for site, reason in reasons.items()
        if site not in taken
    }


def _unfit(site: Site) -> str:
    if not site.layer.weights:
        return "it has no weights"
    if len({id(view) for view, _ in site.calls}) > 1:
        return "it is called in several nested models"
    return "it is called with `training=True`" if site.in_training_mode else ""


def _named(sites: tuple[Site, ...], blocks: Any) -> list[Group]:
    if isinstance(blocks, str) or not isinstance(blocks, Collection) or len(blocks) < 2:
        raise ConfigError(f"`blocks` must be two or more blocks. Received: {blocks!r}.")
    members = [_members(sites, block) for block in blocks]
    if len({len(block) for block in members}) > 1:
        counts = ", ".join(f"{block!r}: {len(found)}" for block, found in zip(blocks, members, strict=True))
        raise ConfigError(f"`blocks` must have as many layers with weights each. Received: {counts}.")
    everything = list(itertools.chain.from_iterable(members))
    twice = sorted({site.path for site in everything if everything.count(site) > 1})
    if twice:
        raise ConfigError(f"`blocks`: a layer can be in one block only. Received twice: {', '.join(twice)}.")
    groups = list(zip(*members, strict=True))
    for group in groups:
        _check_equal(group)
    return groups


def _members(sites: tuple[Site, ...], block: Any) -> list[Site]:
    """Return the layers with weights of a block that was named."""
    if isinstance(block, str) and not any(block in (site.path, site.layer.name) for site in sites):
        beginnings = tuple(f"{block}{mark}" for mark in "_/.")
        found: Iterable[Site] = [site for site in sites if site.path.startswith(beginnings)]
        found = found or find(sites, [block], "blocks")
    else:
        found = find(sites, names("blocks", block), "blocks")
    members = [site for site in found if site.layer.weights]
    if not members:
        raise ConfigError(f"`blocks`: {block!r} holds no layer with weights.")
    return members


def _check_equal(group: Group) -> None:
    first = group[0]
    for site in group:
        if reason := _unfit(site):
            raise ConfigError(f"`blocks`: {site.path!r} cannot be shared: {reason}.")
        if site.calls[0][0] is not first.calls[0][0]:
            raise ConfigError(
                f"`blocks`: {first.path!r} and {site.path!r} are in different nested models, which cannot share a "
                f"layer when the model is saved."
            )
        if _signature(site) != _signature(first):
            raise ConfigError(
                f"`blocks`: {first.path!r} and {site.path!r} are not alike: {_described(first)} and "
                f"{_described(site)}; or another setting of theirs differs."
            )


def _described(site: Site) -> str:
    return f"{type(site.layer).__name__} with weights {[tuple(weight.shape) for weight in site.layer.weights]}"


def _signature(site: Site) -> str:
    """Return what must be equal for layers to become one; names and initializers need not be."""
    layer = site.layer
    try:
        with serializing_in_memory():
            config = _compared(keras.saving.serialize_keras_object(layer)["config"])
    except NotImplementedError:
        config = {"only": site.path}
    shapes = [(tuple(weight.shape), str(weight.dtype)) for weight in layer.weights]
    kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
    return json.dumps([kind, config, shapes], sort_keys=True, default=repr)


def _compared(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            key: _compared(value)
            for key, value in config.items()
            if key not in ("name", "seed", "build_config") and not key.endswith("_initializer")
        }
    return [_compared(item) for item in config] if isinstance(config, (list, tuple)) else config


def _distance(original: list[np.ndarray], weights: list[np.ndarray]) -> float:
    squares = sum(float(((one - other) ** 2).sum()) for one, other in zip(original, weights, strict=True))
    total = sum(float((one**2).sum()) for one in original)
    return math.sqrt(squares / total) if total else 0.0
