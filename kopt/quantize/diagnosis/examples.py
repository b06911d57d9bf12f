"""Calibration examples that know where they come from."""

from typing import Any

import keras
import numpy as np

from kopt.core.records.artifacts import TensorInfo
from kopt.data import calibration as sample
from kopt.data.validation import as_model_inputs


def numbered(
    source: Any, samples: int, seed: int, inputs: tuple[TensorInfo, ...]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return examples for a model, and the number of each in the arrays that they are chosen from.

    Args:
        source: see `kopt.data.calibration`; examples of a data set are numbered as they are chosen.
        samples: how many at most.
        seed: of the choice.
        inputs: of the model.

    Raises:
        InputError: as `kopt.data.calibration`.
    """
    if hasattr(source, "x") and hasattr(source, "y"):
        source = (source.x, source.y)
    x, *labels = source if isinstance(source, tuple) else (source,)
    leaves = keras.tree.flatten(x)
    if not leaves or not all(isinstance(leaf, np.ndarray) and leaf.ndim for leaf in leaves):
        arrays = list(sample(source, samples=samples, seed=seed, inputs=inputs).values())
        return arrays, np.arange(len(arrays[0]))
    numbers = np.arange(len(leaves[0]))
    found = sample(({"x": x, "row": numbers}, *labels), samples=samples, seed=seed)
    chosen = as_model_inputs(found["x"], inputs, name="`calibration`", rows=found["row"])
    return list(chosen.values()), found["row"]
