"""SavedModel directories in TensorFlow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, LoadError, MeasurementError, nearest
from kopt.core.records.artifacts import TensorInfo
from kopt.measure.runner import Runner, batch_of, natural


class SavedModelRunner(Runner):
    """Runs one signature of a SavedModel, whoever wrote it: Keras 3, Keras 2 or a plain `tf.Module`.

    Attributes:
        placed: the device that its variables and its calls are on, as `tf.device` takes it; `None`: TensorFlow chooses.
    """

    format = "saved_model"
    threads = None

    def __init__(self, path: Path, signature: str, loaded: Any = None, placed: str | None = None):
        self.placed = placed
        self.name = path.name
        self.runtime = f"TensorFlow {tf.__version__} SavedModel"
        self.device = "gpu" if tf.config.list_logical_devices("GPU") else "cpu"
        # The signature's variables live only as long as the object that was loaded.
        self._loaded = open_saved_model(path) if loaded is None else loaded
        self._function = _signature(path, self._loaded, signature)
        self.inputs = _tensor_infos(self.name, self._function.structured_input_signature[1])
        self.outputs = _tensor_infos(self.name, self._function.structured_outputs)
        self.fixed_batch = batch_of(self.inputs)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Call the signature once."""
        try:
            with tf.device(self.placed):
                results = self.compute({name: tf.constant(array) for name, array in feeds.items()})
            return {name: tensor.numpy() for name, tensor in results.items()}
        except tf.errors.OpError as error:
            raise MeasurementError(f"{self.runtime} cannot run {self.name}: {_said(error.message)}") from error

    @property
    def operations(self) -> frozenset[str]:
        """Names of the operations that the signature consists of, those in the functions that it calls among them."""
        definition = self._function.graph.as_graph_def()
        bodies = [definition.node, *(one.node_def for one in definition.library.function)]
        return frozenset(node.op for body in bodies for node in body)

    def compute(self, feeds: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return the outputs of tensors of the signature's types, also inside a graph that is being traced."""
        results: dict[str, tf.Tensor] = self._function(**feeds)
        return results


def all_signatures(path: Path, placed: str | None = None) -> dict[str, SavedModelRunner]:
    """Return a runner for every signature of a SavedModel, all of one set of variables, on one device."""
    with tf.device(placed):
        loaded = open_saved_model(path)
    return {key: SavedModelRunner(path, key, loaded, placed) for key in loaded.signatures}


def devices() -> tuple[str, ...]:
    """Return the names of the devices that TensorFlow computes on: all GPUs, or the CPU where there is none."""
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tuple(device.name for device in found)


def open_saved_model(path: Path) -> Any:
    """Load a SavedModel directory.

    Raises:
        LoadError: it is damaged, or none.
    """
    try:
        return tf.saved_model.load(str(path))
    # IndexError is how TensorFlow's checkpoint reader says that a file ends too early, RuntimeError how TensorFlow says
    # that it does not know an operation; of names and types in a damaged graph it thinks that they are there and fit.
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, tf.errors.OpError) as error:
        raise LoadError(
            f"{path} is not a SavedModel that TensorFlow {tf.__version__} can open ({error}). Export or copy it again."
        ) from error


def _signature(path: Path, loaded: Any, key: str) -> Any:
    known = list(loaded.signatures)
    if not known:
        raise LoadError(f"{path} has no signature to run. Save it with `tf.saved_model.save(..., signatures=...)`.")
    if key not in known:
        raise ConfigError(f"{path} has no signature {key!r}.{nearest(key, known)} Signatures: {', '.join(known)}.")
    return loaded.signatures[key]


def _said(message: str) -> str:
    """Return what an operator says went wrong, without the nodes and frames that TensorFlow puts round it."""
    return message.rpartition("<stack traces unavailable>\n")[2].partition("\n\t [[")[0].strip()


def _tensor_infos(name: str, specs: Mapping[str, Any]) -> tuple[TensorInfo, ...]:
    return tuple(_tensor_info(name, key, specs[key]) for key in sorted(specs, key=natural))


def _tensor_info(name: str, key: str, spec: Any) -> TensorInfo:
    # Signature outputs may be known only when they are computed; inputs must be known to be fed.
    rank = spec.shape.rank
    if rank is None:
        raise LoadError(
            f"{name} does not say how many dimensions {key!r} has. Save the signature with a full TensorSpec."
        )
    return TensorInfo(key, tuple(spec.shape.as_list()), np.dtype(spec.dtype.as_numpy_dtype).name)
