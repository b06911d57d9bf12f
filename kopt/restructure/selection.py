"""Which layers a transform is to look at."""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import keras

from kopt.core.errors import ConfigError, InputError, UnsupportedModelError
from kopt.core.records.actions import LayerAction
from kopt.core.settings import names
from kopt.graph.additions import require_unrounded
from kopt.graph.layer_names import named
from kopt.restructure.sites import Site
from kopt.train.weight_constraints import masked_inside

# `None`: all that the transform knows; names or paths; or a function of the layer.
Layers: TypeAlias = Iterable[str] | Callable[[keras.layers.Layer], bool] | None

_LISTED = 5


def chosen(sites: Iterable[Site], layers: Layers, known: Callable[[keras.layers.Layer], bool]) -> tuple[Site, ...]:
    """Return the sites that `layers` asks for, in the order of the model.

    Args:
        sites: of the model.
        layers: `None` for those that are `known`; names or paths of layers, or one; or a function of the layer that
            says whether it is wanted, which is asked about known ones.
        known: whether the transform has something to do with a layer.

    Raises:
        ConfigError: a name is of no layer of the model; or `layers` is something else.
    """
    sites = tuple(sites)
    if layers is None:
        return tuple(site for site in sites if known(site.layer))
    if callable(layers):
        return tuple(site for site in sites if known(site.layer) and layers(site.layer))
    wanted = set(find(sites, names("layers", layers), "layers"))
    return tuple(site for site in sites if site in wanted)


def find(sites: tuple[Site, ...], wanted: Iterable[Any], setting: str) -> tuple[Site, ...]:
    """Return the site of every name or path.

    Raises:
        ConfigError: a name is of no layer, or of several.
    """
    return tuple(_named(sites, name, setting) for name in wanted)


def require_unconstrained(model: keras.Model) -> None:
    """Raise for a model that carries masks or codebooks, itself or inside, which no new layer would hold.

    Raises:
        InputError: it does.
    """
    require_unrounded(model)
    for inner in masked_inside(model):
        raise InputError(f"The model {inner.name!r} carries masks or codebooks: take them off with `finalize` first.")


def require_applied(transform: str, model: str, applied: int, left: Iterable[LayerAction], kinds: str) -> None:
    """Raise unless a transform treated at least one layer.

    Raises:
        UnsupportedModelError: it treated none; the reasons are listed.
    """
    if applied:
        return
    left = tuple(left)
    if not left:
        raise UnsupportedModelError(
            f"`{transform}` found nothing to treat in model {model!r}: it holds no {kinds}. `model.summary()` shows "
            f"what it holds."
        )
    more = f"; and {len(left) - _LISTED} more" if len(left) > _LISTED else ""
    reasons = "; ".join(f"{action.layer} ({action.type}): {action.detail}" for action in left[:_LISTED])
    raise UnsupportedModelError(
        f"`{transform}` could treat none of {len(left)} layer(s) of model {model!r}: {reasons}{more}."
    )


def _named(sites: tuple[Site, ...], name: Any, setting: str) -> Site:
    by_path = {site.path: site for site in sites}
    found = (name,) if name in by_path else named(by_path, name, setting)
    if len(found) > 1:
        raise ConfigError(f"`{setting}`: {name!r} stands for {len(found)} layers. Give the path: {', '.join(found)}.")
    return by_path[found[0]]
