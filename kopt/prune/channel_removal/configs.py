"""Configs of layers and models with smaller sizes: pure functions of dicts."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kopt.graph.channels import SizeSetting

Kept = npt.NDArray[np.bool_]


def applied(config: Mapping[str, Any], settings: Iterable[SizeSetting], kept: Kept) -> dict[str, Any]:
    """Return the config of a layer with its sizes as they are when only the units with `True` in `kept` are left."""
    smaller = dict(config)
    for setting in settings:
        size = int(kept[setting.units].sum())
        if setting.index is None:
            smaller[setting.key] = size
        else:
            sizes = list(smaller[setting.key])
            sizes[setting.index] = size
            smaller[setting.key] = sizes
    return smaller


def shrunk(config: Mapping[str, Any], settings: Iterable[SizeSetting], kept: Kept) -> dict[str, Any]:
    """Return the config of a model, and of those nested in it, with the sizes of all layers as in `applied`.

    The shapes that layers were built with are left out: Keras works them out again.
    """
    by_path: dict[str, list[SizeSetting]] = {}
    for setting in settings:
        by_path.setdefault(setting.path, []).append(setting)
    return _model(config, by_path, kept, "")


def _model(config: Mapping[str, Any], by_path: Mapping[str, list[SizeSetting]], kept: Kept, prefix: str) -> Any:
    layers = [_layer(entry, by_path, kept, prefix) for entry in config["layers"]]
    left = {key: value for key, value in config.items() if key != "build_input_shape"}
    return {**left, "layers": layers}


def _layer(entry: Mapping[str, Any], by_path: Mapping[str, list[SizeSetting]], kept: Kept, prefix: str) -> Any:
    config, path = entry["config"], f"{prefix}{entry['config']['name']}"
    if isinstance(config.get("layers"), list):
        config = _model(config, by_path, kept, f"{path}/")
    left = {key: value for key, value in entry.items() if key not in ("build_config", "compile_config")}
    return {**left, "config": applied(config, by_path.get(path, ()), kept)}
