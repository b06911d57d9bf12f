"""A training on disk: a line of JSON for every record."""

import json
import os
from pathlib import Path

from kopt.core.errors import LoadError, OutputError
from kopt.core.records.profiles.training import TrainingEpoch, TrainingRun, TrainingSample
from kopt.core.serialization import Record

_KINDS: dict[str, type[Record]] = {kind.schema(): kind for kind in (TrainingRun, TrainingSample, TrainingEpoch)}


class JsonLines:
    """Appends records to a file, one a line, each written and handed to the system at once.

    A process that is killed loses at most the line it was writing.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Open the file for appending.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            torn = Path(path).exists() and Path(path).read_bytes()[-1:] not in (b"", b"\n")
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - it stays open while training goes on
            if torn:
                self._file.write("\n")
        except OSError as error:
            raise OutputError(f"{os.fspath(path)} cannot be written: {error}.") from error

    def write(self, record: Record) -> None:
        """Append one record."""
        self._file.write(record.to_json(indent=None) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_lines(path: str | os.PathLike[str]) -> tuple[TrainingRun, list[TrainingSample], list[TrainingEpoch]]:
    """Return what `JsonLines` wrote of the last training; a line that was torn by a kill is left out.

    A training that goes on with the epochs of the one before, of the same model and variables, is one with it.

    Raises:
        LoadError: there is no such file, or it holds no training.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise LoadError(f"{os.fspath(path)} cannot be read: {error}.") from error
    run: TrainingRun | None = None
    begun = 0  # samples before the last beginning
    samples: list[TrainingSample] = []
    epochs: list[TrainingEpoch] = []
    for record in map(_record, lines):
        if isinstance(record, TrainingRun):
            if record != run:
                samples, epochs = [], []
            run, begun = record, len(samples)
        elif isinstance(record, TrainingSample):
            samples.append(record)
        elif isinstance(record, TrainingEpoch):
            if epochs and record.epoch <= epochs[-1].epoch:  # Another training of the same model.
                samples, epochs, begun = samples[begun:], [], 0
            epochs.append(record)
    if run is None:
        raise LoadError(f"{os.fspath(path)} holds no training: no line of it is a TrainingRun.")
    return run, samples, epochs


def _record(line: str) -> Record | None:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return None
    kind = _KINDS.get(values.get("schema", "")) if isinstance(values, dict) else None
    return None if kind is None else kind.from_json(line)
