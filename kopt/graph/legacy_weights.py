"""Weights of a Keras 2 HDF5 file, in the order in which Keras 2 wrote them."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import h5py
import keras
import numpy as np
from numpy.typing import NDArray

from kopt.core.errors import LoadError

Arrays = list[NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    """A layer made from a Keras 2 config.

    Attributes:
        name: as the file has it; Keras 3 allows no `/` in a name.
        class_name: of Keras 2.
        layer: the Keras 3 layer, model or, for a recorded TensorFlow function, a callable.
        children: what a model was made of, in the order of the file; empty for other layers.
        inside: for a wrapper, the Keras 2 class of the layer inside, whose weights are those of the wrapper.
    """

    name: str
    class_name: str
    layer: Any
    children: tuple["Rebuilt", ...] = ()
    inside: str = ""

    def leaves(self) -> Iterator["Rebuilt"]:
        """Yield the layers that are not models."""
        if self.children:
            for child in self.children:
                yield from child.leaves()
        elif isinstance(self.layer, keras.layers.Layer):
            yield self


def load_weights(group: h5py.Group, model: Rebuilt) -> None:
    """Assign the weights in the `model_weights` group of a file to the layers of `model`.

    Raises:
        LoadError: the file lacks a layer, or has other shapes.
    """
    stored = {name: group[name] for name in _names(group, "layer_names")}
    for child in model.children:
        if not list(child.leaves()):
            continue
        arrays = _arrays(stored[child.name]) if child.name in stored else []
        _assign(child, arrays)


def _assign(rebuilt: Rebuilt, arrays: Arrays) -> None:
    """Give out `arrays`: first the trainable weights of every layer, then the others, as Keras 2 orders them."""
    leaves = list(rebuilt.leaves())
    counts = [(len(leaf.layer.trainable_weights), len(leaf.layer.non_trainable_weights)) for leaf in leaves]
    if sum(map(sum, counts)) != len(arrays):
        raise LoadError(
            f"The file holds {len(arrays)} weight(s) for layer {rebuilt.name!r} ({rebuilt.class_name}); the layer has "
            f"{sum(map(sum, counts))}."
        )
    remaining = iter(arrays)
    trainable = [[next(remaining) for _ in range(count)] for count, _ in counts]
    fixed = [[next(remaining) for _ in range(count)] for _, count in counts]
    for leaf, one, other in zip(leaves, trainable, fixed, strict=True):
        _assign_leaf(leaf, one + other)


def _assign_leaf(leaf: Rebuilt, arrays: Arrays) -> None:
    variables = leaf.layer.trainable_weights + leaf.layer.non_trainable_weights
    for variable, array in zip(variables, _converted(leaf, arrays), strict=True):
        if tuple(variable.shape) != array.shape:
            raise LoadError(
                f"Weight {variable.name!r} of layer {leaf.name!r} ({leaf.class_name}) has shape {array.shape} in the "
                f"file; the layer needs {tuple(variable.shape)}."
            )
        variable.assign(array)
    if hasattr(leaf.layer, "finalize_state") and variables:
        leaf.layer.finalize_state()


def _converted(leaf: Rebuilt, arrays: Arrays) -> Arrays:
    convert = {"CuDNNLSTM": _from_cudnn_lstm, "CuDNNGRU": _from_cudnn_gru}.get(leaf.inside or leaf.class_name)
    if convert is None:
        return arrays
    return [array for start in range(0, len(arrays), 3) for array in convert(arrays[start : start + 3])]


def _from_cudnn_lstm(arrays: Arrays) -> Arrays:
    """Four gates; the two biases of cuDNN are only ever added."""
    kernel, recurrent, bias = arrays
    return [_input_kernel(kernel, 4), _recurrent_kernel(recurrent, 4), bias.reshape(2, -1).sum(axis=0)]


def _from_cudnn_gru(arrays: Arrays) -> Arrays:
    """Three gates; the recurrent bias stands inside the reset gate, so both biases are kept (`reset_after=True`)."""
    kernel, recurrent, bias = arrays
    return [_input_kernel(kernel, 3), _recurrent_kernel(recurrent, 3), bias.reshape(2, -1)]


def _input_kernel(kernel: NDArray[Any], gates: int) -> NDArray[Any]:
    """Read every gate, which cuDNN stores column by column, row by row."""
    return np.hstack([gate.T.reshape(gate.shape, order="F") for gate in np.hsplit(kernel, gates)])


def _recurrent_kernel(kernel: NDArray[Any], gates: int) -> NDArray[Any]:
    return np.hstack([gate.T for gate in np.hsplit(kernel, gates)])


def _arrays(group: h5py.Group) -> Arrays:
    return [np.asarray(group[name]) for name in _names(group, "weight_names")]


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """Read a list of names, which HDF5 makes Keras split into `<attribute>0`, `<attribute>1`... when it is long."""
    if attribute in group.attrs:
        names = list(group.attrs[attribute])
    else:
        parts = sorted((key for key in group.attrs if key.startswith(attribute)), key=lambda key: (len(key), key))
        names = [name for part in parts for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]
