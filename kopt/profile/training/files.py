"""A training on disk: a line of JSON for every record, and event files for TensorBoard."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import LoadError, OutputError
from kopt.core.serialization import Record
from kopt.core.training_profile_records import TrainingEpoch, TrainingRun, TrainingSample

_BINS = 30
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
    """Return what `JsonLines` wrote; a line that was torn by a kill is left out.

    Raises:
        LoadError: there is no such file, or it holds no training.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise LoadError(f"{os.fspath(path)} cannot be read: {error}.") from error
    records = [record for record in map(_record, lines) if record is not None]
    runs = [record for record in records if isinstance(record, TrainingRun)]
    if not runs:
        raise LoadError(f"{os.fspath(path)} holds no training: no line of it is a TrainingRun.")
    samples = [record for record in records if isinstance(record, TrainingSample)]
    return runs[-1], samples, [record for record in records if isinstance(record, TrainingEpoch)]


def _record(line: str) -> Record | None:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return None
    kind = _KINDS.get(values.get("schema", "")) if isinstance(values, dict) else None
    return None if kind is None else kind.from_json(line)


class EventFile:
    """Writes scalars and histograms for TensorBoard; the package `tensorboard` is only needed to look at them.

    `tf.summary.scalar` and `tf.summary.histogram` need it to write, too; what they write is a tensor with the name of
    the plugin that shows it.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        """Open an event file in `directory`."""
        self._writer: Any = tf.summary.create_file_writer(os.fspath(directory))

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Write numbers by name."""
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.write(name, tf.constant(value, tf.float32), step, _metadata("scalars", "DATA_CLASS_SCALAR"))

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Write the distribution of an array, in as many bins as TensorBoard's own."""
        counts, edges = np.histogram(values.astype(np.float64), bins=_BINS)
        rows = np.stack([edges[:-1], edges[1:], counts], axis=1)
        with self._writer.as_default():
            tf.summary.write(name, tf.constant(rows, tf.float64), step, _metadata("histograms", "DATA_CLASS_TENSOR"))

    def flush(self) -> None:
        """Hand everything to the system."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def _metadata(plugin: str, data_class: str) -> Any:
    metadata = tf.compat.v1.SummaryMetadata
    return metadata(plugin_data=metadata.PluginData(plugin_name=plugin), data_class=data_class)
