"""Files of the Keras 2 line, opened as Keras 3 models and held against tf_keras."""

import json
import tempfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from kopt.core.errors import LoadError, UnsupportedModelError
from kopt.core.randomness import preserved_random_state
from kopt.graph.internals import graph_of, safe_mode_scope
from kopt.graph.legacy_build import build_model
from kopt.graph.legacy_weights import load_weights
from kopt.graph.tfmot import refuse_quantized
from kopt.graph.view import GraphView

_BATCH = 2
# Length given to dimensions of any size.
_STEPS, _PIXELS = 8, 64
# float32 sums in another order; a wrong activation or weight is off by 1e-2 and more.
_RELATIVE_TOLERANCE = 1e-4
_TF_KERAS_REFUSALS = (TypeError, ValueError, KeyError, AttributeError, OSError)


def load_legacy(
    path: Path, config: Any, *, custom_objects: dict[str, Any], safe_mode: bool, verify: bool
) -> keras.Model:
    """Open a Keras 2 HDF5 file; `config` is its `model_config`. See `kopt.graph.load_model` for the rest."""
    with h5py.File(path, "r") as file:
        model = _rebuild(path, config, file["model_weights"], custom_objects, safe_mode)
    if verify:
        try:
            reference = _open_with_tf_keras(path, custom_objects, safe_mode)
        except _TF_KERAS_REFUSALS:
            # Written for other classes than those of tf_keras: there is nothing to hold the model against.
            return model
        _compare(path, model, reference)
    return model


def load_legacy_archive(path: Path, *, custom_objects: dict[str, Any], safe_mode: bool, verify: bool) -> keras.Model:
    """Open a `.keras` archive of Keras 2.12 to tf_keras, by way of tf_keras. See `kopt.graph.load_model`."""
    try:
        reference = _open_with_tf_keras(path, custom_objects, safe_mode)
    except _TF_KERAS_REFUSALS as error:
        raise LoadError(f"{path} was written by Keras 2, and tf_keras cannot open it: {error}") from error
    try:
        return _translated(path, reference, custom_objects, safe_mode, verify)
    except _TF_KERAS_REFUSALS as error:
        raise LoadError(f"{path} was written by Keras 2, and Keras 3 cannot build it: {error}") from error


@preserved_random_state()
def from_tf_keras(model: Any) -> keras.Model:
    """Return a tf_keras model as a Keras 3 model of the same names and weights; any other model is given back.

    The two are run on seeded inputs and compared.

    Args:
        model: built; not changed.

    Raises:
        UnsupportedModelError: the tf_keras model is a subclassed one, was quantized by tfmot, or holds layers that
            Keras 3 does not have; or Keras 3 computes something else.

    Example:
        >>> old = kopt.graph.to_tf_keras(model)
        >>> new = kopt.graph.from_tf_keras(old)
        >>> [type(same).__module__.split(".")[0] for same in (old, new)], new.count_params()
        (['tf_keras', 'keras'], 2722)
    """
    if not any(kind.__module__.startswith("tf_keras.") for kind in type(model).__mro__):
        return model
    refuse_quantized(model)
    try:
        return _translated(f"The tf_keras model {model.name!r}", model, {}, safe_mode=False, verify=True)
    except (*_TF_KERAS_REFUSALS, NotImplementedError, LoadError) as error:
        raise UnsupportedModelError(
            f"The tf_keras model {model.name!r} has no Keras 3 model that computes the same: {error} Build it in Keras "
            f"3, or save it with `model.save` and open it with `kopt.load_model(path, custom_objects=...)`."
        ) from error


def _translated(
    source: Path | str, reference: Any, custom_objects: dict[str, Any], safe_mode: bool, verify: bool
) -> keras.Model:
    """Return a tf_keras model as one of Keras 3; `source` is what messages call it."""
    with tempfile.TemporaryDirectory() as directory:
        weights = Path(directory, "weights.h5")
        reference.save_weights(weights)
        with h5py.File(weights, "r") as file:
            model = _rebuild(source, json.loads(reference.to_json()), file, custom_objects, safe_mode)
    if verify:
        _compare(source, model, reference)
    return model


def example_inputs(model: keras.Model, seed: int = 0) -> list[NDArray[Any]]:
    """Return seeded arrays, one for each input of a Functional or Sequential model, that the model can run on."""
    rng, view = np.random.default_rng(seed), GraphView.of(model)
    vocabularies = [layer.input_dim for _, layer in view.walk() if isinstance(layer, keras.layers.Embedding)]

    def array(tensor: keras.KerasTensor) -> NDArray[Any]:
        free = _PIXELS if len(tensor.shape) > 3 else _STEPS
        shape = (tensor.shape[0] or _BATCH, *(size or free for size in tensor.shape[1:]))
        if vocabularies or "int" in tensor.dtype:
            return rng.integers(0, min(vocabularies, default=2), shape).astype(tensor.dtype)
        return rng.normal(size=shape).astype(tensor.dtype)

    return [array(tensor) for tensor in view.inputs]


def _rebuild(
    path: Path | str, config: Any, weights: h5py.Group, custom_objects: dict[str, Any], safe_mode: bool
) -> keras.Model:
    with safe_mode_scope(safe_mode), keras.saving.custom_object_scope(custom_objects):
        rebuilt = build_model(config["class_name"], config["config"])
    if graph_of(rebuilt.layer) is None:
        raise LoadError(f"{path} does not say which input shape the model takes. Rebuild it in Python with one.")
    load_weights(weights, rebuilt)
    return rebuilt.layer


def _compare(path: Path | str, model: keras.Model, reference: Any) -> None:
    arrays = example_inputs(model)
    try:
        expected = reference(_packed(arrays), training=False)
    except (ValueError, tf.errors.OpError) as error:
        raise LoadError(
            f"{path} was opened, but tf_keras cannot run it on arrays of shape {[array.shape for array in arrays]} to "
            f"verify that ({error}). Pass `verify=False` and compare the outputs yourself."
        ) from error
    found = model(keras.tree.pack_sequence_as(GraphView.of(model).input_structure, arrays), training=False)
    for index, (one, other) in enumerate(zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True)):
        a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
        difference, scale = _difference(a, b), _rms(b)
        if not difference <= _RELATIVE_TOLERANCE * scale:
            raise LoadError(
                f"{path} does not compute in Keras 3 what it computes in Keras 2: output {index} differs by up to "
                f"{difference:.3g} (root mean square {scale:.3g}). This is a defect of kopt's translation: please "
                f"report it. `verify=False` opens the file all the same."
            )


def _open_with_tf_keras(path: Path, custom_objects: dict[str, Any], safe_mode: bool) -> Any:
    # Imported here: opening a file of Keras 3, the common case, has no use for it.
    import tf_keras  # noqa: PLC0415

    # The cuDNN layers themselves run on a GPU only; tf_keras reads their weights into its plain layers too.
    plain = {"CuDNNGRU": tf_keras.layers.GRU, "CuDNNLSTM": tf_keras.layers.LSTM}
    return tf_keras.models.load_model(
        path, custom_objects={**plain, **custom_objects}, compile=False, safe_mode=safe_mode
    )


def _difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the largest absolute difference; infinite where only one side is finite, or the shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return float(np.max(np.where(same, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf)), initial=0.0))


def _rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values[np.isfinite(values)])))) if np.isfinite(values).any() else 0.0


def _packed(arrays: list[NDArray[Any]]) -> Any:
    return arrays[0] if len(arrays) == 1 else arrays
