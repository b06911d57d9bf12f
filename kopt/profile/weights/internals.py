"""How Keras lays out its checkpoints; the only file of this room that touches private parts of Keras.

`tests/unit/profile/test_profile_parameters_checkpoints.py` fails when a Keras release changes one of them.
"""

from typing import Any

import keras
from keras.src.saving import saving_lib


class _Recorder(saving_lib.H5IOStore):
    """Stands in for the HDF5 file that a model is saved to, and keeps the variables instead of their values."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._prefix = ""

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: dict[str, Any] | None = None) -> "_Recorder":
        self._prefix = f"{path}/vars" if path else "vars"
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        self.found[f"{self._prefix}/{key}"] = value


def checkpoint_entries(model: keras.Model) -> dict[str, Any]:
    """Return what Keras would write to a `.weights.h5` file, by its name there, e.g. `"layers/dense/vars/0"`.

    Values are the `keras.Variable` objects themselves, and arrays or tensors where a layer works out what it saves.
    """
    recorder = _Recorder()
    saving_lib._save_state(model, weights_store=recorder, assets_store=None, inner_path="", visited_saveables=set())
    return recorder.found
