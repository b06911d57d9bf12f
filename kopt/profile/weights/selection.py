"""Which variables of a model are meant: by the type or name of their layer, by their own path, by size."""

import fnmatch
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import keras

from kopt.core.errors import ConfigError, nearest
from kopt.core.settings import whole
from kopt.graph import OwnedVariable, layer_paths, owned_variables
from kopt.graph.internals import flatten_layers

Selector: TypeAlias = str | type[keras.layers.Layer] | Callable[[OwnedVariable], bool]
_LISTED = 8


def weight_variables(model: keras.Model) -> tuple[OwnedVariable, ...]:
    """Return the variables that are parameters: without the states of seeds and metrics."""
    weights = {id(variable) for variable in model.weights}
    return tuple(owned for owned in owned_variables(model) if id(owned.variable) in weights)


def select_variables(
    model: keras.Model,
    variables: Sequence[OwnedVariable],
    select: Selector | Sequence[Selector] | None,
    min_size: int | None = None,
    max_size: int | None = None,
) -> tuple[OwnedVariable, ...]:
    """Return the variables that one of the selectors and the sizes mean.

    Args:
        model: that holds the variables.
        variables: to choose from.
        select: `None` for all, or one or several of: a class of layers; a string, with `*` and `?` as wildcards, that
            is the name or class name of a layer, the path of a layer or the path of a variable; a function from
            `kopt.graph.OwnedVariable` to a bool. A layer means what stands inside it, too.
        min_size: entries that a variable must have at least.
        max_size: entries that it may have at most.

    Raises:
        ConfigError: something else was given, a selector matches no variable, or the sizes leave none.
    """
    chosen = _by_selectors(model, variables, select)
    least = 0 if min_size is None else whole("min_size", min_size, least=0)
    most = None if max_size is None else whole("max_size", max_size, least=least)
    sizes = {id(owned): _size(owned) for owned in variables}
    left = [owned for owned in chosen if least <= sizes[id(owned)] and (most is None or sizes[id(owned)] <= most)]
    if not left and variables:
        found = [sizes[id(owned)] for owned in chosen]
        raise ConfigError(
            f"No variable has between `min_size={min_size}` and `max_size={max_size}` entries. The {len(found)} "
            f"selected ones have {min(found):,} to {max(found):,}."
        )
    return tuple(left)


def _by_selectors(
    model: keras.Model, variables: Sequence[OwnedVariable], select: Selector | Sequence[Selector] | None
) -> list[OwnedVariable]:
    if select is None:
        return list(variables)
    selectors = list(select) if isinstance(select, (list, tuple, set, frozenset)) else [select]
    if not selectors:
        raise ConfigError("`select` is empty. Name layers, e.g. `select='*Attention*'`, or leave it out for all.")
    around = _surroundings(model)
    chosen: set[int] = set()
    for selector in selectors:
        found = [owned for owned in variables if _matches(owned, selector, around[owned.layer_path])]
        if not found:
            raise ConfigError(_nothing(selector, variables, around))
        chosen |= {id(owned) for owned in found}
    return [owned for owned in variables if id(owned) in chosen]


def _surroundings(model: keras.Model) -> dict[str, list[tuple[str, keras.layers.Layer]]]:
    """Return, for the path of every layer, the layer and those round it, each with its path; the model itself is none.

    A variable that the model itself holds has nothing round it but the model.
    """
    paths = layer_paths(model)
    layers = {paths[id(layer)]: layer for layer in flatten_layers(model)}
    around = {model.name: [(model.name, model)]}
    for path in layers:
        if path != model.name:
            parts = path.split("/")
            prefixes = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
            around[path] = [(prefix, layers[prefix]) for prefix in prefixes]
    return around


def _matches(owned: OwnedVariable, selector: Any, around: Iterable[tuple[str, keras.layers.Layer]]) -> bool:
    if isinstance(selector, str):
        names = {owned.path}
        for path, layer in around:
            names |= {path, layer.name, type(layer).__name__}
        return any(fnmatch.fnmatchcase(name, selector) for name in names)
    if inspect.isclass(selector) and issubclass(selector, keras.layers.Layer):
        return any(isinstance(layer, selector) for _, layer in around)
    if callable(selector) and not inspect.isclass(selector):
        return bool(selector(owned))
    raise ConfigError(
        f"`select` takes names and patterns such as '*attention*', classes of layers such as "
        f"`keras.layers.Conv2D`, and functions of a variable. Received: {selector!r} ({type(selector).__name__})."
    )


def _nothing(
    selector: Any, variables: Sequence[OwnedVariable], around: dict[str, list[tuple[str, keras.layers.Layer]]]
) -> str:
    types = dict.fromkeys(type(layer).__name__ for owned in variables for _, layer in around[owned.layer_path])
    layers = dict.fromkeys(path for owned in variables for path, _ in around[owned.layer_path])
    known = [*types, *layers, *(owned.path for owned in variables)]
    name = selector if isinstance(selector, str) else getattr(selector, "__name__", repr(selector))
    shown = [*types, *list(layers)[:_LISTED]]
    return (
        f"`select`: {name!r} matches no variable.{nearest(name.strip('*'), known)} Types and layers that hold "
        f"variables: {', '.join(shown)}{f' and {len(layers) - _LISTED} more' if len(layers) > _LISTED else ''}."
    )


def _size(owned: OwnedVariable) -> int:
    size = 1
    for dimension in owned.variable.shape:
        size *= dimension
    return size
