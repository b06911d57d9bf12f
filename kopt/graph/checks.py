"""What must hold before a model is worked on, and what identifies it."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kopt.core.blocks import BLOCK, flat_blocks, is_float
from kopt.core.errors import InputError, NonFiniteError, UnsupportedModelError
from kopt.core.records.artifacts import TensorInfo
from kopt.graph.internals import (
    flatten_layers,
    graph_of,
    losses_kept,
    node_of,
    own_training,
    serializing_in_memory,
    was_called,
)
from kopt.graph.naming import owned_variables
from kopt.graph.tfmot import refuse_quantized
from kopt.graph.values import values_of

# Left out of the fingerprint: how a model is trained, and the shape its layers happened to be built with, are no part
# of what it computes, and a saved model does not always carry them.
_NO_PART_OF_THE_FUNCTION = ("compile_config", "build_config")
# What an error about weights lists at most.
_LISTED_VARIABLES = 20
_LISTED_INDICES = 3


def require_built(model: keras.Model) -> None:
    """Raise unless `model` is a Keras 3 model that has its variables.

    Raises:
        UnsupportedModelError: a tf_keras model that tfmot has quantized.
        InputError: not a Keras 3 model, or one that was never built or called; the message says how to do it.

    Example:
        >>> kopt.graph.require_built(model)
        >>> kopt.graph.require_built(keras.Sequential([keras.layers.Dense(2)]))
        Traceback (most recent call last):
            ...
        kopt.core.errors.InputError: Sequential model ... is not built: its input shape is not known. ...
    """
    if not isinstance(model, keras.Model):
        refuse_quantized(model)
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        hint = " `kopt.graph.from_tf_keras(model)` makes one of it." if kind.startswith("tf_keras.") else ""
        raise InputError(f"Expected a Keras 3 model (`keras.Model`). Received: {kind}.{hint}")
    if graph_of(model) is not None:
        return
    if isinstance(model, keras.Sequential) and not model.built:
        raise InputError(
            f"Sequential model {model.name!r} is not built: its input shape is not known. Add "
            f"`keras.Input(shape)` as its first layer, or call `model.build((None, ...))`."
        )
    if not was_called(model):
        raise InputError(
            f"Model {model.name!r} ({type(model).__qualname__}) was never called, so it has no variables yet. "
            f"Call it once on an example batch: `model(x)`."
        )


def require_finite(model: keras.Model) -> None:
    """Raise if a variable of `model` holds NaN or infinity.

    Every entry is read, piece by piece, without a copy of the weights.

    Raises:
        NonFiniteError: names every such variable with its layer, the number of NaN and infinite entries, and the
            indices of the first ones.

    Example:
        >>> kopt.graph.require_finite(model)
        >>> model.get_layer("classes").set_weights([np.full((144, 10), np.inf), np.zeros(10)])
        >>> kopt.graph.require_finite(model)
        Traceback (most recent call last):
            ...
        kopt.core.errors.NonFiniteError: Model 'digits' holds non-finite numbers in 1 variable(s): classes/kernel ...
    """
    found: list[str] = []
    for owned in owned_variables(model):
        if text := _nonfinite_text(values_of(owned.variable), f" in {type(owned.layer).__name__} {owned.layer_path!r}"):
            found.append(f"{owned.path} {text}")
    _raise_nonfinite(model.name, found)


def require_finite_values(name: str, weights: Mapping[str, np.ndarray]) -> None:
    """Raise `NonFiniteError` if one of the weights of the model called `name` holds NaN or infinity."""
    texts = {path: _nonfinite_text(values) for path, values in weights.items()}
    _raise_nonfinite(name, [f"{path} {text}" for path, text in texts.items() if text])


def _raise_nonfinite(name: str, found: list[str]) -> None:
    if found:
        left = f"; and {len(found) - _LISTED_VARIABLES} more" if len(found) > _LISTED_VARIABLES else ""
        raise NonFiniteError(
            f"Model {name!r} holds non-finite numbers in {len(found)} variable(s): "
            f"{'; '.join(found[:_LISTED_VARIABLES])}{left}. Restore an earlier checkpoint, or train again with a lower "
            f"learning rate or gradient clipping."
        )


def _nonfinite_text(values: np.ndarray, holder: str = "") -> str:
    """Return how many entries are NaN and infinite, and the indices of the first ones; empty if all are finite."""
    if not is_float(values.dtype):
        return ""
    nans = infinities = 0
    places: list[int] = []
    for number, block in enumerate(flat_blocks(values)):
        finite = np.isfinite(block)
        if finite.all():
            continue
        block_nans = int(np.isnan(block).sum())
        nans += block_nans
        infinities += block.size - int(finite.sum()) - block_nans
        if len(places) < _LISTED_INDICES:
            places += [number * BLOCK + int(place) for place in np.flatnonzero(~finite)[:_LISTED_INDICES]]
    if not places:
        return ""
    indices = [tuple(map(int, np.unravel_index(place, values.shape))) for place in places[:_LISTED_INDICES]]
    more = ", ..." if nans + infinities > len(indices) else ""
    return f"({nans} NaN, {infinities} infinite of {values.size}){holder} at {', '.join(map(str, indices))}{more}"


def require_unquantized(model: keras.Model) -> None:
    """Refuse a model that Keras' own quantization has changed.

    Raises:
        UnsupportedModelError: it has.
    """
    integer = [layer.name for layer in flatten_layers(model) if getattr(layer, "quantization_mode", None)]
    if integer:
        raise UnsupportedModelError(
            f"Model {model.name!r} was converted with `keras.Model.quantize`: {', '.join(integer[:5])} hold integers, "
            f"which neither train nor pass the TFLite converter. Pass the float model that it was made from."
        )


def require_keras_training(model: keras.Model) -> None:
    """Refuse a model whose class says itself how it is trained, which a copy of another class would not have.

    Raises:
        UnsupportedModelError: it does.
    """
    own = own_training(model)
    if own:
        kind, names = f"{type(model).__module__}.{type(model).__qualname__}", ", ".join(f"`{name}`" for name in own)
        raise UnsupportedModelError(
            f"Model {model.name!r} ({kind}) overrides {names}, which its copy would not have. Pass "
            f"`keras.Model(model.inputs, model.outputs)` if Keras' own training will do."
        )


def fingerprint(model: keras.Model) -> str:
    """Return the SHA-256 of what `model` computes: its architecture and its weights.

    Equal after saving and loading and in another process; how the model was compiled is no part of it. A model whose
    class gives no config is identified by its class name and weights.

    Example:
        >>> before = kopt.graph.fingerprint(model)
        >>> before == kopt.graph.fingerprint(kopt.load_model("model.keras")), len(before)
        (True, 64)
        >>> model.get_layer("classes").set_weights([np.zeros((144, 10)), np.zeros(10)])
        >>> kopt.graph.fingerprint(model) == before
        False
    """
    digest = hashlib.sha256(_architecture(model).encode())
    for variable in model.weights:
        values = np.ascontiguousarray(variable.numpy())
        digest.update(f"\0{variable.name}\0{values.dtype}\0{values.shape}\0".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def signature(model: keras.Model) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Return the inputs and the outputs of `model` in the order in which Keras flattens them.

    Names are the keys where the model takes or gives a dict, else those of the input and output layers. A subclassed
    model declares neither: they are called `input` and `output`, the shapes are those it was built with, with the first
    dimension free, and the dtype is the one it converts its inputs to.

    Raises:
        InputError: the model is not built.
        UnsupportedModelError: a subclassed model of which Keras recorded no input shape.

    Example:
        >>> inputs, outputs = kopt.graph.signature(model)
        >>> inputs[0].name, inputs[0].shape, inputs[0].dtype, outputs[0].name
        ('image', (None, 8, 8, 1), 'float32', 'classes')
    """
    inputs = input_structure(model)
    graph = graph_of(model)
    if graph is not None:
        input_names = [node_of(tensor).operation.name for tensor in graph.inputs]
        return _infos(inputs, input_names), _infos(graph.output, graph.output_names)
    with losses_kept(model):
        outputs = model.compute_output_spec(inputs)
    return _infos(inputs, ["input"]), _infos(outputs, ["output"])


def input_structure(model: keras.Model) -> Any:
    """Return symbolic inputs in the structure in which `model` takes them: one, a list or a dict.

    Raises:
        InputError: the model is not built.
        UnsupportedModelError: a subclassed model of which Keras recorded no input shape.
    """
    require_built(model)
    graph = graph_of(model)
    return _recorded_inputs(model) if graph is None else graph.input


def _architecture(model: keras.Model) -> str:
    try:
        with serializing_in_memory():
            config = keras.saving.serialize_keras_object(model)
    except (NotImplementedError, TypeError):  # without `get_config`, or with functions that have no names
        config = {"class_name": type(model).__qualname__}
    return json.dumps(_function_only(config), sort_keys=True, default=repr)


def _function_only(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _function_only(item) for key, item in config.items() if key not in _NO_PART_OF_THE_FUNCTION}
    if isinstance(config, (list, tuple)):
        return [_function_only(item) for item in config]
    return config


def _recorded_inputs(model: keras.Model) -> Any:
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict", config).values()
    parameters = inspect.signature(model.call).parameters.values()
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    if len(required) != 1 or len(shapes) != 1 or not all(shapes):
        raise UnsupportedModelError(
            f"The inputs of the subclassed model {model.name!r} ({type(model).__qualname__}) are not known: Keras "
            f"recorded the build shapes {config} for the argument(s) {', '.join(required)}. Give its `call` one "
            f"argument (a tensor, list or dict) and call it on a batch, or rebuild it as a Functional model."
        )

    def symbolic(shape: tuple[int | None, ...]) -> keras.KerasTensor:
        return keras.KerasTensor((None, *shape[1:]), dtype=model.input_dtype)

    return keras.tree.map_shape_structure(symbolic, next(iter(shapes)))


def _infos(structure: Any, names: list[str]) -> tuple[TensorInfo, ...]:
    infos: list[TensorInfo] = []
    for index, (path, tensor) in enumerate(keras.tree.flatten_with_path(structure)):
        keys = [str(key) for key in path if isinstance(key, str)]
        name = keys[-1] if keys else names[min(index, len(names) - 1)]
        infos.append(TensorInfo(_unique(name, [info.name for info in infos]), tuple(tensor.shape), str(tensor.dtype)))
    return tuple(infos)


def _unique(name: str, taken: list[str]) -> str:
    # A layer with several outputs (an LSTM that returns its state) gives all of them one name.
    candidates = (name if count == 0 else f"{name}_{count}" for count in range(len(taken) + 1))
    return next(candidate for candidate in candidates if candidate not in taken)
