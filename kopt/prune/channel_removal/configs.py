"""Configs of layers and models with smaller sizes: pure functions of dicts."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kopt.graph.channels import SizeSetting
from kopt.graph.configs import without_arrays

Kept = npt.NDArray[np.bool_]


def applied(config: Mapping[str, Any], settings: Iterable[SizeSetting], kept: Kept) -> dict[str, Any]:
    """Return the config of a layer with its sizes as they are when only the units with `True` in `kept` are left."""
    smaller = dict(config)
    for setting in settings:
        smaller = _with(smaller, setting.key.split("."), setting.index, int(kept[setting.units].sum()))
    return smaller


def _with(config: Mapping[str, Any], keys: list[str], index: int | None, size: int) -> dict[str, Any]:
    key, *inner = keys
    if inner:
        return {**config, key: _with(config[key], inner, index, size)}
    if index is None:
        return {**config, key: size}
    sizes = list(config[key])
    sizes[index] = size
    return {**config, key: sizes}


def shrunk(config: Mapping[str, Any], settings: Iterable[SizeSetting], kept: Kept) -> dict[str, Any]:
    """Return the config of a model, and of those nested in it, with the sizes of all layers as in `applied`.

    The shapes that layers were built with are left out: Keras works them out again. Initializers that are arrays, which
    have shapes of before, become zeros.
    """
    by_path: dict[str, list[SizeSetting]] = {}
    for setting in settings:
        by_path.setdefault(setting.path, []).append(setting)
    return _model(without_arrays(config), by_path, kept, "")


def _model(config: Mapping[str, Any], by_path: Mapping[str, list[SizeSetting]], kept: Kept, prefix: str) -> Any:
    layers = [_layer(entry, by_path, kept, prefix) for entry in config["layers"]]
    left = {key: value for key, value in config.items() if key != "build_input_shape"}
    return {**left, "layers": layers}


def _layer(entry: Mapping[str, Any], by_path: Mapping[str, list[SizeSetting]], kept: Kept, prefix: str) -> Any:
    config, path = entry["config"], f"{prefix}{entry['config']['name']}"
    inner = config.get("layers")
    if isinstance(inner, list) and all(isinstance(one, dict) and "config" in one for one in inner):
        config = _model(config, by_path, kept, f"{path}/")
    return _unbuilt({**entry, "config": applied(config, by_path.get(path, ()), kept)})


def _unbuilt(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a serialized object, and those inside it, without the shapes that it was built with."""
    left = {key: value for key, value in entry.items() if key not in ("build_config", "compile_config")}
    inner = {key: _unbuilt(value) if _is_object(value) else value for key, value in left["config"].items()}
    return {**left, "config": inner}


def _is_object(value: Any) -> bool:
    """Return whether an entry of a config is an object, and not a function, whose own config is its name."""
    return isinstance(value, dict) and "class_name" in value and isinstance(value.get("config"), dict)
