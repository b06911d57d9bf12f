"""Layers that scale raw features, of which one scale of integers cannot hold all."""

from collections.abc import Sequence

import keras
import numpy as np

from kopt.graph import GraphView

# Of 256 steps a feature of this share of the widest one's range has eight.
_NARROWEST = 1 / 32
_SCALING = (keras.layers.Normalization, keras.layers.BatchNormalization)


def scaling_layers(model: keras.Model, arrays: Sequence[np.ndarray]) -> dict[str, str]:
    """Return layers that take an input whose features have very different ranges, each with what is seen of them.

    Args:
        model: Functional or Sequential.
        arrays: examples by input, in the order of the model's.
    """
    view = GraphView.of(model)
    found = {}
    for tensor, array in zip(view.inputs, arrays, strict=True):
        ranges = np.ptp(array.astype(np.float64).reshape(-1, array.shape[-1]), axis=0)
        varying = ranges[ranges > 0]
        if not varying.size or varying.min() >= _NARROWEST * varying.max():
            continue
        said = f"the features that it takes span from {varying.min():.3g} to {varying.max():.3g}"
        found.update(
            {call.operation.name: said for call in view.consumers(tensor) if isinstance(call.operation, _SCALING)}
        )
    return found
