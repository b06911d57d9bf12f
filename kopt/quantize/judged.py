"""What the outputs of a model are judged by."""

from typing import Any

import keras

from kopt.graph import GraphView
from kopt.quantize.ranges import OutputRange

_CHOICES = ("Argmax", "Argmin")
# Operations that give the numbers that they take, in another shape or type.
_PASSING = ("Cast", "ExpandDims", "Reshape", "Squeeze")


def before_choice(view: GraphView, tensor: Any) -> Any:
    """Return what an argmax or argmin is taken of, if the tensor is what it gives; else the tensor.

    Places are no quantities: between 3 and 4 lies as much as between 3 and 9.
    """
    call = view.producer(tensor)
    while call is not None and (
        isinstance(call.operation, (keras.layers.Identity, keras.layers.Reshape, OutputRange))
        or type(call.operation).__name__ in _PASSING
    ):
        call = view.producer(call.inputs[0])
    return call.inputs[0] if call is not None and type(call.operation).__name__ in _CHOICES else tensor
