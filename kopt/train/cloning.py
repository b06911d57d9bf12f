"""A fresh copy of one layer, not built yet, so that it can be changed before it makes its variables."""

import keras

from kopt.core.errors import UnsupportedModelError
from kopt.graph.internals import flatten_layers, serializing_in_memory


def clone_layer(layer: keras.layers.Layer, path: str) -> keras.layers.Layer:
    """Return a layer of the same class and config, without variables.

    Args:
        layer: any layer, or a model whose `call` is Python code.
        path: what the layer is called in an error message.

    Raises:
        UnsupportedModelError: the layer does not rebuild from its config.
    """
    classes = {type(inner).__name__: type(inner) for inner in flatten_layers(layer)}
    try:
        with serializing_in_memory(), keras.saving.custom_object_scope(classes):
            return type(layer).from_config(layer.get_config())
    except (NotImplementedError, TypeError, ValueError, KeyError) as error:
        raise UnsupportedModelError(
            f"Layer {path!r} ({type(layer).__module__}.{type(layer).__qualname__}) cannot be cloned: it does not "
            f"rebuild from its config ({str(error).splitlines()[0]}). Give a custom layer a `get_config` that returns "
            f"all arguments of its `__init__`; write a lambda as a function registered with "
            f"`@keras.saving.register_keras_serializable()`, or as `keras.ops`."
        ) from error
