"""Keras models, in memory or from `.keras` and `.h5` files."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import MeasurementError
from kopt.core.records.artifacts import TensorInfo
from kopt.graph import load_model, require_built, signature
from kopt.graph.checks import input_structure
from kopt.graph.internals import losses_kept
from kopt.measure.runner import Runner, batch_of


class KerasRunner(Runner):
    """Runs a Keras model as one `tf.function`: what serving it from Python costs, without the loop of `predict`."""

    format = "keras"
    threads = None

    def __init__(self, model: keras.Model, name: str):
        require_built(model)
        self.name = name
        self.runtime = f"Keras {keras.__version__} on TensorFlow {tf.__version__}"
        self.device = "gpu" if tf.config.list_logical_devices("GPU") else "cpu"
        inputs, outputs = signature(model)
        self.inputs, self.outputs = _as_arrays(inputs), _as_arrays(outputs)
        self.fixed_batch = batch_of(self.inputs)
        self.model = model
        self._structure = input_structure(model)
        specs = {info.name: tf.TensorSpec(info.shape, info.dtype) for info in inputs}
        self._function = tf.function(self._call, input_signature=[specs])

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Call the traced model once."""
        try:
            results = self._function({name: tf.constant(array) for name, array in feeds.items()})
            return {name: tensor.numpy() for name, tensor in results.items()}
        except tf.errors.OpError as error:
            raise MeasurementError(f"{self.runtime} cannot run {self.name}: {error.message}") from error

    def _call(self, feeds: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # A recurrent layer that keeps its state has the same before and after.
        with losses_kept(self.model), keras.StatelessScope():
            results = self.model(self._structured(feeds), training=False)
        return dict(zip((info.name for info in self.outputs), keras.tree.flatten(results), strict=True))

    def _structured(self, feeds: dict[str, tf.Tensor]) -> Any:
        """Arrange the inputs the way the model was built to take them."""
        return keras.tree.pack_sequence_as(self._structure, [feeds[info.name] for info in self.inputs])


def _as_arrays(infos: tuple[TensorInfo, ...]) -> tuple[TensorInfo, ...]:
    """Return inputs or outputs with the types of arrays: text is in arrays of objects."""
    return tuple(dataclasses.replace(one, dtype="object") if one.dtype == "string" else one for one in infos)


def from_path(path: Path, safe_mode: bool) -> KerasRunner:
    """Open a `.keras` or `.h5` file."""
    return KerasRunner(load_model(path, safe_mode=safe_mode, compile=False), path.name)
