"""What kopt adds to a model, and copies of Keras do not have."""

from typing import Any

import keras

from kopt.core.errors import UnsupportedModelError
from kopt.graph.internals import flatten_layers
from kopt.graph.view import GraphView


class Addition:
    """An attribute that every model of a class gets after it is made, by `add`.

    `keras.models.clone_model` makes models of the class without it: reading it there raises `UnsupportedModelError`.
    """

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        if model is None:
            return self
        raise UnsupportedModelError(
            f"Model {model.name!r} was made by `keras.models.clone_model`, which leaves out what kopt adds to a "
            f"{type(model).__name__}. Copy such a model with `copy.deepcopy`, or clone the one that it was made from."
        )


def add(model: Any, **values: Any) -> None:
    """Set attributes of a model past Keras, which would wrap tuples and mappings to look for layers in them."""
    for name, value in values.items():
        object.__setattr__(model, name, value)


class AddedState(keras.layers.Layer):
    """A layer that is an attribute of a model, and whose variables say how its weights are kept: no parameters."""


def parameters_of(model: keras.Model) -> list[Any]:
    """Return the weights of a model but for what kopt has added, such as masks."""
    added = {id(one) for layer in flatten_layers(model) if isinstance(layer, AddedState) for one in layer.weights}
    return [one for one in model.weights if id(one) not in added]


def require_no_additions(model: keras.Model) -> None:
    """Refuse a model that `keras.models.clone_model` would not copy whole.

    Raises:
        UnsupportedModelError: kopt has added something to it.
    """
    added = _additions(model)
    if added:
        raise UnsupportedModelError(
            f"Model {model.name!r} is a {type(model).__name__}: fresh copies would not have its {added[0]}. Give the "
            f"model that it was made from, or what `finalize` makes of it."
        )


def require_unrounded(model: keras.Model) -> None:
    """Refuse a model that computes with rounded numbers, itself or inside, the record of which no copy would have.

    Raises:
        UnsupportedModelError: it does.
    """
    for inner in flatten_layers(model):
        if "quantization" in vars(inner):
            raise UnsupportedModelError(
                f"Model {inner.name!r} computes with rounded numbers. Prune, cluster or restructure the model that it "
                f"was made from, and round the result: zeros and shared values stay through that."
            )


def require_no_additions_inside(view: GraphView) -> None:
    """Refuse nested models to which kopt has added something, which a copy of the outer model would not have.

    Raises:
        UnsupportedModelError: there is one.
    """
    for call in view.calls:
        if call.nested is not None:
            added = _additions(call.operation)
            if added:
                raise UnsupportedModelError(
                    f"Model {view.name!r} holds {call.operation.name!r}, a {type(call.operation).__name__}, and a copy "
                    f"would not have its {added[0]}. Put what `finalize` makes of it in its place, or the model that "
                    f"it was made from."
                )
            require_no_additions_inside(call.nested)


def _additions(model: Any) -> list[str]:
    return [name for kind in type(model).__mro__ for name, one in vars(kind).items() if isinstance(one, Addition)]
