"""Making layers and models of their configs, as a saved file does."""

import contextlib
from collections.abc import Iterator

from kopt.core.errors import UnsupportedModelError
from kopt.graph.internals import serializing_in_memory


@contextlib.contextmanager
def rebuilding(what: str) -> Iterator[None]:
    """Turn what Keras says of a config that makes no object into one error, with the ways out.

    Args:
        what: is made, e.g. `"Layer 'scale' (my.layers.Scale)"`.

    Raises:
        UnsupportedModelError: it does not rebuild from its config.
    """
    try:
        with serializing_in_memory():
            yield
    except (NotImplementedError, TypeError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnsupportedModelError(
            f"{what} cannot be copied: it does not rebuild from its config ({reason}). Give a custom layer or model a "
            f"`get_config` that returns all arguments of its `__init__`; write a lambda as a function registered with "
            f"`@keras.saving.register_keras_serializable()`, or as `keras.ops`; take a subclass that builds its graph "
            f"in `__init__` as `keras.Model(model.inputs, model.outputs)`."
        ) from error
