"""How large the outputs of layers are."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kopt.graph import Call, GraphView
from kopt.graph.running import run


def output_deviations(view: GraphView, inputs: list[Any]) -> dict[str, float]:
    """Return the standard deviation of the first output of every layer, by path, in inference; that of its first call.

    Args:
        view: of the model.
        inputs: arrays in the order of `view.inputs`.
    """
    found: dict[str, float] = {}

    def note(path: str, call: Call, taken: Sequence[Any], given: Sequence[Any]) -> None:
        found.setdefault(path, float(np.std(keras.ops.convert_to_numpy(given[0]).astype(np.float64))))

    run(view, inputs, note)
    return found
