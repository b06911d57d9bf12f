"""Records in TensorBoard: their tables as text, their plots as images, their numbers as scalars and histograms."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from kopt.core.errors import InputError, OutputError
from kopt.report.look import Shown

_BINS = 30
_TABLE_WIDTH = 140


class InTensorBoard(Shown):
    """Adds TensorBoard to the ways to look at a record."""

    table_options: ClassVar[dict[str, Any]] = {"rows": 1000}

    def to_tensorboard(self, directory: str | os.PathLike[str], *, step: int = 0) -> None:
        """Write event files: the table as text, the plot as an image, and numbers by layer or variable.

        The package `tensorboard` is only needed to look at them. Profiles of one model at several steps, written to one
        directory, become curves.

        Args:
            directory: that `tensorboard --logdir` is to show.
            step: at which the numbers stand, e.g. that of the checkpoint.

        Raises:
            OutputError: the directory cannot be written.
        """
        name = self.look.name
        events = EventFile(directory)
        try:
            events.text(f"{name}/table", self.look.text(self, _TABLE_WIDTH, **self.table_options), step)
            with contextlib.suppress(InputError):  # There is nothing to draw.
                events.image(f"{name}/plot", self.look.png(self), step)
            events.scalars({f"{name}/{tag}": value for tag, value in self._scalars()}, step)
            for tag, edges, counts in self._histograms():
                events.counts(f"{name}/{tag}", edges, counts, step)
        finally:
            events.close()

    def _scalars(self) -> Iterator[tuple[str, float]]:
        """Yield numbers with the rest of their tags."""
        yield from ()

    def _histograms(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Yield edges and counts with the rest of their tags."""
        yield from ()


class EventFile:
    """Writes scalars and histograms for TensorBoard; the package `tensorboard` is only needed to look at them.

    `tf.summary.scalar` and `tf.summary.histogram` need it to write, too; what they write is a tensor with the name of
    the plugin that shows it.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        """Open an event file in `directory`.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            os.makedirs(directory, exist_ok=True)
            self._writer: Any = tf.summary.create_file_writer(os.fspath(directory))
            self._writer.init()
        except (OSError, tf.errors.OpError) as error:
            raise OutputError(f"{os.fspath(directory)} cannot be written: {error}.") from error

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Write numbers by name."""
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.write(name, tf.constant(value, tf.float32), step, _metadata("scalars", "DATA_CLASS_SCALAR"))

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Write the distribution of an array, in as many bins as TensorBoard's own."""
        counts, edges = np.histogram(values.astype(np.float64), bins=_BINS)
        self.counts(name, edges, counts, step)

    def counts(self, name: str, edges: np.ndarray, counts: np.ndarray, step: int) -> None:
        """Write a distribution that is already in bins, of which there is one edge more."""
        rows = np.stack([edges[:-1], edges[1:], counts], axis=1)
        with self._writer.as_default():
            tf.summary.write(name, tf.constant(rows, tf.float64), step, _metadata("histograms", "DATA_CLASS_TENSOR"))

    def text(self, name: str, text: str, step: int) -> None:
        """Write a text, line by line as it is."""
        indented = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown leaves that alone.
        with self._writer.as_default():
            tf.summary.write(name, tf.constant([indented]), step, _metadata("text", "DATA_CLASS_TENSOR"))

    def image(self, name: str, png: bytes, step: int) -> None:
        """Write a PNG image."""
        height, width = tf.io.decode_png(png).shape[:2]
        values = tf.constant([str(width).encode(), str(height).encode(), png])
        with self._writer.as_default():
            tf.summary.write(name, values, step, _metadata("images", "DATA_CLASS_BLOB_SEQUENCE"))

    def flush(self) -> None:
        """Hand everything to the system."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def _metadata(plugin: str, data_class: str) -> Any:
    metadata = tf.compat.v1.SummaryMetadata
    return metadata(plugin_data=metadata.PluginData(plugin_name=plugin), data_class=data_class)
