"""What must hold of the tf_keras twin of a model: each check returns numbers, and `BOUNDS` says what they may be.

Unit tests run them over a few networks, `make sweep` over all.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tf_keras
from channel_cases import outputs

import kopt
from kopt.graph import Adapter, adapted_twin
from kopt.graph.internals import flatten_layers
from kopt.graph.naming import layer_paths
from kopt.graph.wrapped_twin import origin_of

BOUNDS = {
    # Largest differences of the outputs, as shares of the largest output. Rounding alone can be more than 1e-5 in deep
    # networks; in float64, in which tfmot does not compute, it is not.
    "twin": 1e-5,
    "twin_float64": 1e-12,
    "finalized": 1e-4,
    # Where rounding alone is more: how much farther the twin is from the finalized model in float64 than that model.
    "finalized_rounding": 1.5,
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


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Let both libraries compute in double precision."""
    libraries = (keras.config, tf_keras.backend)
    policy = keras.config.dtype_policy()
    try:
        for library in libraries:
            library.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        yield
    finally:
        for library in libraries:
            library.set_floatx("float32")
        keras.config.set_dtype_policy(policy)


def there_and_back(model: keras.Model, x: Any) -> dict[str, Any]:
    """Put tfmot's wrappers round the twin, change every weight, and bring the weights back.

    Returns:
        How many weights of the Keras 3 model are not bit for bit those of the twin, the difference between the outputs
        of the two, the number of kernels that tfmot prunes, what it leaves dense, with the reason, the Keras 3 model,
        and the outputs of the twin.
    """
    wrapped, report = kopt.prune.magnitude(model, 0.5, backend="tfmot")
    origin = origin_of(wrapped)
    assert origin is not None
    generator = np.random.default_rng(2)
    for one in origin.layers:
        for variable, weight in zip(one.layer.weights, one.weights, strict=True):
            if variable.trainable or variable.name.startswith("moving_"):  # what training changes
                weight.assign(weight * generator.uniform(0.99, 1.01, weight.shape))
    plain, _ = kopt.prune.finalize(wrapped)
    paths = layer_paths(plain)
    back = {paths[id(layer)]: layer for layer in flatten_layers(plain) if id(layer) in paths}
    pairs = [
        (ours.numpy(), np.asarray(theirs))
        for one in origin.layers
        for ours, theirs in zip(one.weights, back[one.path].weights, strict=True)
    ]
    return {
        "not_bit_for_bit": sum(a.tobytes() != b.tobytes() for a, b in pairs),
        "finalized": difference(wrapped, plain, x),
        "wrapped": len(report.variables),
        "left": {row.layer: row.detail for row in report.skipped},
        "plain": plain,
        "found": outputs(wrapped, x),
    }
