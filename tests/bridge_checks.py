"""What must hold of the tf_keras twin of a model: each check returns numbers, and `BOUNDS` says what they may be.

Unit tests run them over a few networks, `make sweep` over all.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from channel_cases import outputs

import kopt
from kopt.graph import Adapter, adapted_twin
from kopt.graph.internals import flatten_layers
from kopt.graph.naming import layer_paths
from kopt.prune.by_tfmot import origin_of

BOUNDS = {
    "twin": 1e-5,  # largest difference of the outputs, as a share of the largest output
    "finalized": 1e-5,
    "not_bit_for_bit": 0,  # weights
}


def difference(one: Any, other: Any, x: Any) -> float:
    ours, theirs = outputs(one, x), outputs(other, x)
    assert [value.shape for value in ours] == [value.shape for value in theirs]
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(ours, theirs, strict=True))


def twin(model: keras.Model, x: Any) -> tuple[float, int]:
    """Return the difference between the outputs of a model and its twin, and how many layers have an adapter."""
    made = adapted_twin(model)
    adapters = sum(isinstance(layer, Adapter) for layer in made.model.layers)
    return difference(model, made.model, x), adapters


def there_and_back(model: keras.Model, x: Any) -> dict[str, Any]:
    """Put tfmot's wrappers round the twin, change every weight, and bring the weights back.

    Returns:
        How many weights of the Keras 3 model are not bit for bit those of the twin, the difference between the outputs
        of the two, the number of kernels that tfmot prunes, and what it leaves dense, with the reason.
    """
    wrapped, report = kopt.prune.magnitude(model, 0.5, backend="tfmot")
    origin = origin_of(wrapped)
    assert origin is not None
    generator = np.random.default_rng(2)
    for one in origin.layers:
        for weight in _weights(one):
            if tf.as_dtype(weight.dtype).is_floating:
                weight.assign(weight * generator.uniform(0.99, 1.01, weight.shape))
    plain, _ = kopt.prune.finalize(wrapped)
    paths = layer_paths(plain)
    back = {paths[id(layer)]: layer for layer in flatten_layers(plain) if id(layer) in paths}
    pairs = [
        (ours.numpy(), np.asarray(theirs))
        for one in origin.layers
        for ours, theirs in zip(_weights(one), back[one.path].weights, strict=True)
    ]
    return {
        "not_bit_for_bit": sum(a.tobytes() != b.tobytes() for a, b in pairs),
        "finalized": difference(wrapped, plain, x),
        "wrapped": len(report.variables),
        "left": {row.layer: row.detail for row in report.skipped},
    }


def _weights(one: Any) -> list[Any]:
    return list(one.twin.operation.weights if isinstance(one.twin, Adapter) else one.twin.weights)
