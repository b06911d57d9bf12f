"""A teacher of which nothing is there but what it has said."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kopt.core.errors import ConfigError, DataError, LoadError
from kopt.core.records.artifacts import TensorInfo
from kopt.distill.teachers import Answer, Teacher


class PredictionsTeacher(Teacher):
    """Arrays of outputs, the examples on their first axis.

    Attributes:
        arrays: one an output.
        digest: SHA-256 of them.
    """

    in_graph = False

    def __init__(self, given: Any):
        """Take arrays, or read the file of them.

        Raises:
            LoadError: a file that is no array.
            DataError: outputs of different numbers of examples.
        """
        is_path = isinstance(given, (str, os.PathLike))
        found = _read(Path(given)) if is_path else given
        named = dict(found) if isinstance(found, Mapping) else {"output": np.asarray(found)}
        self.name, self.given, self.inputs = (Path(given).name if is_path else "predictions"), given, ()
        self.arrays = [np.asarray(one, np.float32) for one in named.values()]
        self.outputs = tuple(
            TensorInfo(name, (None, *array.shape[1:]), "float32")
            for name, array in zip(named, self.arrays, strict=True)
        )
        if len({len(array) for array in self.arrays}) != 1:
            raise DataError(f"The predictions have {[len(array) for array in self.arrays]} examples; all need as many.")
        digest = hashlib.sha256()
        for name, array in zip(named, self.arrays, strict=True):
            digest.update(f"{name} {array.shape} ".encode() + array.tobytes())
        self.digest = digest.hexdigest()

    @property
    def forms(self) -> list[tuple[str, str]]:
        """Numbers alone do not say what they are."""
        raise ConfigError("What predictions are must be said: `form='logits'` or `form='probabilities'`.")

    def answer(self, x: Any, stored: Mapping[str, Any] | None) -> Answer:
        """It knows no new example."""
        raise ConfigError(f"{self.name} has predictions for its own examples. Use `kopt.distill.cache_predictions`.")


def _read(path: Path) -> Any:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read as predictions: {error}. Write them with `np.save`.") from error
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        return {name: loaded[name] for name in loaded.files}
