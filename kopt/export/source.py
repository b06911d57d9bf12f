"""What is exported: a model traced once into a SavedModel with one flat, named signature.

Every exporter starts from that directory. The traced function also computes the reference that the exported file is
held against, so that the model is traced once however many questions are asked of it.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import UnsupportedModelError
from kopt.core.files import sha256
from kopt.core.records import TensorInfo
from kopt.export.integer_layers import integer_twin
from kopt.graph import copy_weights, fingerprint, load_model, require_built, require_finite, rewrite, signature
from kopt.graph.internals import flatten_layers, graph_of

SIGNATURE = "serving_default"
_LOOP_OPERATORS = frozenset(("While", "StatelessWhile", "TensorListReserve"))
Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
    """A model ready for export.

    Attributes:
        name: of the model or its file.
        model: the Keras model in float32; `None` for a SavedModel made elsewhere.
        directory: SavedModel that converters read.
        signature: key of its signature.
        inputs, outputs: of the signature, in the model's order.
        sha256: of architecture and weights, or of the SavedModel's content.
        has_loop: the graph holds a loop (an RNN), which TFLite runs for a fixed batch size only.
        compute: the traced model: arrays by input name to arrays by output name.
        owner: what keeps the variables of `compute` alive.
    """

    name: str
    model: Any
    directory: Path
    signature: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    sha256: str
    has_loop: bool
    compute: Callable[[Arrays], dict[str, np.ndarray]]
    owner: Any


def open_model(model: Any, *, custom_objects: dict[str, Any] | None = None, safe_mode: bool = True) -> Any:
    """Return `model` as something to export: a checked Keras model, or the path of a SavedModel directory.

    Args:
        model: a built Keras model, or the path of a `.keras`, `.h5` or SavedModel.
        custom_objects: see `kopt.load_model`.
        safe_mode: see `kopt.load_model`.

    Raises:
        LoadError: the path cannot be opened.
        UnsupportedModelError: the model was never built or called.
        NonFiniteError: a weight is NaN or infinite.
    """
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        if (path / "saved_model.pb").is_file():
            return path
        model = load_model(path, custom_objects=custom_objects, safe_mode=safe_mode)
    require_built(model)
    require_finite(model)
    return model


def trace(model: Any, directory: Path, *, batch_size: int | None = None) -> Source:
    """Trace `model` (from `open_model`) into `directory`.

    Args:
        model: a Keras model, or the path of a SavedModel, which is used where it lies.
        directory: an existing empty directory.
        batch_size: fixed number of examples a call; `None` keeps it free.
    """
    if isinstance(model, Path):
        return _trace_saved_model(model)
    inputs, outputs = signature(model)
    twin = float32_twin(model)
    function = tf.function(_serving_function(twin, [i.name for i in inputs], [o.name for o in outputs]))
    specs = {i.name: tf.TensorSpec((batch_size, *i.shape[1:]), i.dtype, name=i.name) for i in inputs}
    concrete = function.get_concrete_function(**specs)
    archive = keras.export.ExportArchive()
    archive.track(twin)
    archive.add_endpoint(SIGNATURE, function)
    archive.write_out(str(directory), verbose=False)
    return Source(
        name=model.name,
        model=twin,
        directory=directory,
        signature=SIGNATURE,
        inputs=tuple(dataclasses.replace(i, shape=(batch_size, *i.shape[1:])) for i in inputs),
        outputs=outputs,
        sha256=fingerprint(model),
        has_loop=_has_loop(concrete),
        compute=_numpy_function(concrete),
        owner=function,
    )


def float32_twin(model: Any) -> Any:
    """Return `model`, or a copy that computes in float32 if any layer computes in a lower precision.

    The converters refuse half-precision graphs; the weights are float32 in both.
    """
    if all(layer.compute_dtype in (None, "float32") for layer in flatten_layers(model)):
        return model
    return _rebuilt(model, lambda layer: type(layer).from_config(_with_float32(layer.get_config())))


def trace_with_integer_layers(source: Source, directory: Path, *, batch_size: int | None) -> Source:
    """Return `source` with its SavedModel made from a copy whose layers all have integer kernels in TFLite.

    The copy computes the same function; `source.compute` stays the model as it was given.
    """
    if source.model is None or graph_of(source.model) is None:
        return source
    if not any(integer_twin(layer) for layer in flatten_layers(source.model)):
        return source
    twin = trace(_rebuilt(source.model, integer_twin), directory, batch_size=batch_size)
    return dataclasses.replace(source, directory=directory, owner=(source.owner, twin.owner))


def _rebuilt(model: Any, make: Callable[[Any], Any]) -> Any:
    """Return a copy of `model` with the layers that `make` returns in place of the given ones, weights copied."""
    pairs: list[tuple[Any, Any]] = []

    def replace(layer: Any) -> Any:
        twin = make(layer)
        if twin is not None:
            pairs.append((layer, twin))
        return twin

    twin_model, _ = rewrite(model, replace)
    for layer, twin in pairs:
        copy_weights(layer, twin)
    return twin_model


def _with_float32(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: "float32" if key == "dtype" else _with_float32(value) for key, value in config.items()}
    return [_with_float32(item) for item in config] if isinstance(config, (list, tuple)) else config


def _serving_function(model: Any, inputs: list[str], outputs: list[str]) -> Callable[..., dict[str, Any]]:
    def serve(**tensors: Any) -> dict[str, Any]:
        flat = [tensors[name] for name in inputs]
        result = model(_structured(model, inputs, flat), training=False)
        # `tf.identity` gives an output that is an input, or another output, a tensor of its own.
        return {name: tf.identity(tensor) for name, tensor in zip(outputs, keras.tree.flatten(result), strict=True)}

    return serve


def _structured(model: Any, names: list[str], flat: list[Any]) -> Any:
    graph = graph_of(model)
    if graph is not None:
        return keras.tree.pack_sequence_as(graph.input, flat)
    return flat[0] if len(flat) == 1 else dict(zip(names, flat, strict=True))


def _trace_saved_model(path: Path) -> Source:
    loaded = tf.saved_model.load(str(path))
    if SIGNATURE not in loaded.signatures:
        raise UnsupportedModelError(
            f"{path} has no signature {SIGNATURE!r}; it has {', '.join(map(repr, loaded.signatures)) or 'none'}. "
            f"Save it with `model.export(path)`."
        )
    concrete = loaded.signatures[SIGNATURE]
    specs = concrete.structured_input_signature[1]
    return Source(
        name=path.name,
        model=None,
        directory=path,
        signature=SIGNATURE,
        inputs=tuple(_info(name, spec) for name, spec in specs.items()),
        outputs=tuple(_info(name, spec) for name, spec in concrete.structured_outputs.items()),
        sha256=sha256(path),
        has_loop=_has_loop(concrete),
        compute=_numpy_function(concrete),
        owner=loaded,
    )


def _info(name: str, spec: Any) -> TensorInfo:
    return TensorInfo(name, tuple(spec.shape), spec.dtype.name)


def _has_loop(concrete: Any) -> bool:
    graph = concrete.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return any(node.op in _LOOP_OPERATORS for node in nodes)


def _numpy_function(concrete: Any) -> Callable[[Arrays], dict[str, np.ndarray]]:
    def compute(arrays: Arrays) -> dict[str, np.ndarray]:
        tensors = {name: tf.constant(array) for name, array in arrays.items()}
        return {name: tensor.numpy() for name, tensor in concrete(**tensors).items()}

    return compute
