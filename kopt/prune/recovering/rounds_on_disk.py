"""Finished rounds of pruning on disk, so that a killed run goes on where it stopped.

```
workdir/
  round-1-<key>/   model.keras and round.json, written in one step
```
The key is the hash of the model that the run began with and of its settings.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from kopt.core.files import atomic_path, remove_leftovers, writing_to
from kopt.core.records.changes.iterative_pruning import PruningRound
from kopt.graph import fingerprint
from kopt.graph.internals import flatten_layers


class RoundsOnDisk:
    """The finished rounds of one run in a work directory."""

    def __init__(self, workdir: str | os.PathLike[str], model: keras.Model, settings: Mapping[str, Any]):
        """Make the directory and remove what a killed run has left half done.

        Args:
            workdir: may hold other runs.
            model: that the run begins with.
            settings: of the run; numbers, words and lists of these tell runs apart, other objects do not.

        Raises:
            OutputError: the directory cannot be written.
        """
        self._workdir = Path(workdir)
        plain = {name: value for name, value in settings.items() if _is_plain(value)}
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


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, bool, int, float))
