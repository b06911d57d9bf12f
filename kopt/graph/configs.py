"""Making layers and models of their configs, as a saved file does."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kopt.core.errors import KoptError, UnsupportedModelError, words_of
from kopt.graph.internals import functions_kept, serializing_in_memory


def config_of(layer: keras.layers.Layer) -> dict[str, Any]:
    """Return the config of a layer to be read, whatever functions the layer has."""
    with serializing_in_memory(), functions_kept(layer):
        config: dict[str, Any] = layer.get_config()
    return config


def without_arrays(config: Any) -> Any:
    """Return a config, or a part of one, for weights of another shape: initializers that are arrays become zeros."""
    if isinstance(config, keras.initializers.Constant):
        return keras.initializers.Zeros() if np.ndim(config.value) else config
    if isinstance(config, list):
        return [without_arrays(value) for value in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "Constant" and not isinstance(config["config"]["value"], (int, float)):
        return keras.saving.serialize_keras_object(keras.initializers.Zeros())
    return {key: without_arrays(value) for key, value in config.items()}


@contextlib.contextmanager
def rebuilding(layer: keras.layers.Layer, path: str = "") -> Iterator[None]:
    """Turn what Keras says of a config that makes no object into one error, with the ways out.

    Args:
        layer: or model that is made anew.
        path: what it is called in the message; its name by default.

    Raises:
        UnsupportedModelError: it does not rebuild from its config.
    """
    try:
        with serializing_in_memory(), functions_kept(layer):
            yield
    except KoptError:
        raise
    except Exception as error:  # A custom `__init__` or `from_config` raises what it likes.
        kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
        what = f"{'Model' if isinstance(layer, keras.Model) else 'Layer'} {(path or layer.name)!r}"
        raise UnsupportedModelError(
            f"{what} ({kind}) cannot be copied: it does not rebuild from its config ({words_of(error)}). "
            f"Give a custom layer or model a `get_config` that returns all arguments of its `__init__`; write a lambda "
            f"as a function registered with `@keras.saving.register_keras_serializable()`, or as `keras.ops`; take a "
            f"subclass that builds its graph in `__init__` as `keras.Model(model.inputs, model.outputs)`."
        ) from error
