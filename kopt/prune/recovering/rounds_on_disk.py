"""Finished rounds of pruning on disk, so that a killed run goes on where it stopped.

```
workdir/
  round-1-<key>/   model.keras and round.json, written in one step
```
The key is the hash of the model that the run began with and of its settings.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kopt.core.files import atomic_path, remove_leftovers, writing_to
from kopt.core.records.changes.iterative_pruning import PruningRound
from kopt.graph import fingerprint
from kopt.graph.internals import flatten_layers

# What a setting is that does not tell runs apart.
_OTHER = object()


class RoundsOnDisk:
    """The finished rounds of one run in a work directory."""

    def __init__(self, workdir: str | os.PathLike[str], model: keras.Model, settings: Mapping[str, Any]):
        """Make the directory and remove what a killed run has left half done.

        Args:
            workdir: may hold other runs.
            model: that the run begins with.
            settings: of the run; numbers, words, losses, functions by name and collections of these tell runs apart,
                data does not.

        Raises:
            OutputError: the directory cannot be written.
        """
        self._workdir = Path(workdir)
        plain = {name: plain for name, value in settings.items() if (plain := _plain(value)) is not _OTHER}
        identity = json.dumps([fingerprint(model), plain], sort_keys=True)
        self._key = hashlib.sha256(identity.encode()).hexdigest()[:12]
        self._classes = {type(one).__name__: type(one) for one in flatten_layers(model)}
        with writing_to(self._workdir):
            self._workdir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._workdir)

    def finished(self, number: int) -> tuple[keras.Model, PruningRound] | None:
        """Return the model and the record of a finished round, `None` if it is still to be made."""
        directory = self._directory(number)
        if not directory.is_dir():
            return None
        with keras.saving.custom_object_scope(self._classes):
            model = keras.saving.load_model(directory / "model.keras", compile=False)
        return model, PruningRound.from_json((directory / "round.json").read_text())

    def finish(self, model: keras.Model, record: PruningRound) -> None:
        """Write a round down.

        Raises:
            OutputError: the directory cannot be written.
        """
        with atomic_path(self._directory(record.number), overwrite=True) as staged:
            staged.mkdir()
            model.save(staged / "model.keras")
            (staged / "round.json").write_text(record.to_json() + "\n")

    def _directory(self, number: int) -> Path:
        return self._workdir / f"round-{number}-{self._key}"


def _plain(value: Any) -> Any:
    """Return a setting as JSON has it, `_OTHER` for data and functions."""
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=repr)
    if isinstance(value, (list, tuple)):
        parts = [_plain(one) for one in value]
        return _OTHER if any(one is _OTHER for one in parts) else parts
    if isinstance(value, Mapping):
        return _plain([[key, one] for key, one in sorted(value.items(), key=repr)])
    if isinstance(value, keras.losses.Loss):
        return keras.saving.serialize_keras_object(value)
    if isinstance(value, type) or inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    value = value.item() if isinstance(value, np.generic) else value
    return value if value is None or isinstance(value, (str, bool, int, float)) else _OTHER
