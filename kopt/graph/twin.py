"""A tf_keras (Keras 2) twin of a Keras 3 model, for converters that know how to fuse the layers of Keras 2 only."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import tf_keras

from kopt.core.errors import UnsupportedModelError
from kopt.core.randomness import preserved_random_state
from kopt.graph.activation_functions import keras_activation
from kopt.graph.internals import copy_stateless, mask_of, node_of, takes_training
from kopt.graph.legacy_layers import hard_sigmoid
from kopt.graph.naming import layer_paths
from kopt.graph.rewrite import clone_layer, copy_weights
from kopt.graph.view import Call, GraphView

# Same name and same mathematics in both; `hard_sigmoid`, `leaky_relu` and `hard_silu`, say, are not among them.
_ACTIVATIONS = {
    keras.activations.elu: "elu",
    keras.activations.exponential: "exponential",
    keras.activations.gelu: "gelu",
    keras.activations.linear: "linear",
    keras.activations.mish: "mish",
    keras.activations.relu: "relu",
    keras.activations.relu6: "relu6",
    keras.activations.selu: "selu",
    keras.activations.sigmoid: "sigmoid",
    keras.activations.silu: "swish",
    keras.activations.softmax: "softmax",
    keras.activations.softplus: "softplus",
    keras.activations.softsign: "softsign",
    keras.activations.tanh: "tanh",
    hard_sigmoid: "hard_sigmoid",
}
_MERGING = frozenset(("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"))
_LAYERS = frozenset(
    (
        *("Bidirectional", "TimeDistributed"),
        *("Activation", "LeakyReLU", "ReLU", "Softmax"),
        *_MERGING,
        *("AveragePooling1D", "AveragePooling2D", "MaxPooling1D", "MaxPooling2D"),
        *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D"),
        *("BatchNormalization", "LayerNormalization", "Rescaling"),
        *("Conv1D", "Conv2D", "Conv2DTranspose", "Dense", "DepthwiseConv2D", "SeparableConv2D"),
        *("Cropping1D", "Cropping2D", "UpSampling1D", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D"),
        *("Dropout", "GaussianDropout", "GaussianNoise", "SpatialDropout1D", "SpatialDropout2D"),
        *("Embedding", "GRU", "LSTM", "SimpleRNN"),
        *("Flatten", "Masking", "Permute", "RepeatVector", "Reshape"),
    )
)
# Settings of training, or of Keras 3 alone, that change nothing in inference.
_DROPPED = ("quantization_config", "seed", "synchronized", "lora_rank", "lora_alpha")
_DROPPED_ENDINGS = ("_initializer", "_regularizer", "_constraint")
# Settings that tf_keras does not have, with the value that it implies.
_NEUTRAL = {
    ("Cropping1D", "data_format"): "channels_last",
    ("LayerNormalization", "rms_scaling"): False,
    ("UpSampling1D", "data_format"): "channels_last",
    ("ZeroPadding1D", "data_format"): "channels_last",
}
_ANY = object()
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}


class TwinLayer(NamedTuple):
    """A layer of Keras 3 and the one of tf_keras that stands for it.

    Attributes:
        path: of the layer, e.g. `"backbone/conv"`.
        layer: of Keras 3.
        twin: of tf_keras, or an `Adapter`.

    Example:
        >>> pair = kopt.graph.adapted_twin(model).layers[0]
        >>> pair.path, type(pair.layer).__module__.split(".")[0], type(pair.twin).__module__.split(".")[0]
        ('conv1', 'keras', 'tf_keras')
    """

    path: str
    layer: Any
    twin: Any


class Twin(NamedTuple):
    """A tf_keras model, and which of its layers stands for which.

    Attributes:
        model: the tf_keras model.
        layers: those with weights, each once.

    Example:
        >>> twin = kopt.graph.adapted_twin(model)
        >>> [layer.path for layer in twin.layers], twin.model.count_params()
        (['conv1', 'norm1', 'conv2', 'classes'], 2722)
    """

    model: Any
    layers: tuple[TwinLayer, ...]


@preserved_random_state()
def to_tf_keras(model: keras.Model, *, batch_size: int | None = None) -> tf_keras.Model:
    """Return a tf_keras model that computes what `model` computes, with its own copy of the weights.

    Nested models are inlined. For inference: initializers, regularizers and constraints are left out.

    Args:
        model: Functional or Sequential model of common layers; not changed.
        batch_size: fixes the first dimension of the inputs; by default it stays as it is.

    Raises:
        UnsupportedModelError: names the layer that has no twin, and the reason.

    Example:
        >>> twin = kopt.graph.to_tf_keras(model)
        >>> type(twin).__module__.split(".")[0], bool(np.allclose(twin(x_val), model(x_val), atol=1e-5))
        ('tf_keras', True)
    """
    return _twin_of(model, batch_size, _Tracer(layer_paths(model))).model


@preserved_random_state()
def adapted_twin(model: keras.Model) -> Twin:
    """Return a tf_keras model for training, in which what has no twin is a copy of itself within an `Adapter`.

    Args:
        model: Functional or Sequential model; not changed.

    Raises:
        UnsupportedModelError: a subclassed model.

    Example:
        >>> twin = kopt.graph.adapted_twin(model)
        >>> bool(np.allclose(twin.model(x_val), model(x_val), atol=1e-5))
        True
    """
    return _twin_of(model, None, _Tracer(layer_paths(model), adapt=True))


def _twin_of(model: keras.Model, batch_size: int | None, tracer: "_Tracer") -> Twin:
    view = GraphView.of(model)
    tensors = {id(tensor): _new_input(tensor, batch_size) for tensor in view.inputs}
    inputs = keras.tree.map_structure(lambda tensor: tensors[id(tensor)], view.input_structure)
    tracer.trace(view, tensors, "")
    outputs = keras.tree.map_structure(lambda tensor: tensors[id(tensor)], view.output_structure)
    return Twin(tf_keras.Model(inputs, outputs, name=f"twin_{model.name}"), tuple(tracer.layers))


class Adapter(tf_keras.layers.Layer):
    """Runs an operation of Keras 3 in a tf_keras model, with its variables among those of the model.

    Example:
        >>> x = inputs = keras.Input((4,))
        >>> x = keras.layers.GroupNormalization(2, name="groups")(keras.layers.Dense(4, name="dense")(x))
        >>> twin = kopt.graph.adapted_twin(keras.Model(inputs, x))
        >>> [type(layer.twin).__name__ for layer in twin.layers]  # tf_keras has a Dense, but no such normalization
        ['Dense', 'Adapter']
    """

    def __init__(self, operation: keras.Operation, arguments: Any, name: str):
        """Stand for one call.

        Args:
            operation: a copy that belongs to this layer.
            arguments: positional and keyword ones, with a `keras.KerasTensor` wherever a tensor belongs.
            name: of this layer.
        """
        super().__init__(name=name)
        # Past tf_keras, which would take lists of tensors for layers to track.
        object.__setattr__(self, "operation", operation)
        object.__setattr__(self, "_arguments", arguments)
        self.supports_masking = getattr(operation, "supports_masking", False)
        self._values = [variable.value for variable in getattr(operation, "variables", [])]

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Run the operation on the tensors of one call, in their order."""
        tensors = iter(keras.tree.flatten(inputs))  # A list of one comes without the list where a model is cloned.
        args, kwargs = keras.tree.map_structure(
            lambda value: next(tensors) if isinstance(value, keras.KerasTensor) else value, self._arguments
        )
        if isinstance(self.operation, keras.layers.Layer) and takes_training(self.operation):
            kwargs = {**kwargs, "training": training}
        return self.operation(*args, **kwargs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Ask the layer what becomes of the masks of its first argument, as Keras 3 does."""
        values = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        masks = list(mask) if isinstance(mask, (list, tuple)) else [mask] * len(values)
        if not self.supports_masking or all(one is None for one in masks):
            return None
        taken, masked = (self._first(given) for given in (values, masks))
        return (
            None
            if all(one is None for one in keras.tree.flatten(masked))
            else self.operation.compute_mask(taken, masked)
        )

    def _first(self, given: list[Any]) -> Any:
        """Return the first argument of a call whose tensors, in their order, have these in their places."""
        tensors = iter(given)
        args, kwargs = keras.tree.map_structure(
            lambda value: next(tensors) if isinstance(value, keras.KerasTensor) else value, self._arguments
        )
        return args[0] if args else next(iter(kwargs.values()))


class _Tracer:
    """Calls the twin of every layer, and makes each once."""

    def __init__(self, paths: Mapping[int, str], adapt: bool = False) -> None:
        self.layers: list[TwinLayer] = []
        self._paths = paths
        self._adapt = adapt
        self._twins: dict[int, Any] = {}
        self._copies: dict[int, Any] = {}
        self._names: set[str] = set()

    def trace(self, view: GraphView, tensors: dict[int, Any], prefix: str) -> None:
        """Add the outputs of every call of `view` to `tensors`, which holds its inputs."""
        adapted = self._without_twin(view, prefix) if self._adapt else set()
        for call in _needed(view, adapted):
            path = f"{prefix}{call.operation.name}"
            if id(call.operation) in adapted:
                given = [tensors[id(value)] for value in _tensors_of(call)]
                outputs = keras.tree.flatten(self._adapter(call, path)(given))
            else:
                _require_same_masks(call, path)
                inputs = keras.tree.map_structure(lambda tensor: tensors[id(tensor)], _positional(call, path))
                if call.nested is None:
                    outputs = keras.tree.flatten(self._twin(call.operation, inputs, path)(inputs))
                else:
                    inside = dict(zip(map(id, call.nested.inputs), keras.tree.flatten(inputs), strict=True))
                    self.trace(call.nested, inside, f"{path}/")
                    outputs = [inside[id(tensor)] for tensor in call.nested.outputs]
            tensors.update(zip(map(id, call.outputs), outputs, strict=True))

    def _twin(self, operation: keras.Operation, inputs: Any, path: str) -> Any:
        if id(operation) not in self._twins:
            twin = _make_twin(operation, path, self._named(path))
            twin(inputs)
            twin.set_weights([variable.numpy() for variable in operation.weights])
            self._remember(path, operation, twin)
            self._twins[id(operation)] = twin
        return self._twins[id(operation)]

    def _adapter(self, call: Call, path: str) -> Adapter:
        """Return an adapter for one call; all calls of a layer share one copy of it."""
        operation = call.operation
        args, kwargs = call.arguments
        settings = {key: value for key, value in kwargs.items() if key != "training"}
        is_new = id(operation) not in self._copies
        if is_new:
            self._copies[id(operation)] = self._copy(operation, path, args, settings)
        adapter = Adapter(self._copies[id(operation)], (args, settings), self._named(path))
        if is_new:
            self._remember(path, operation, adapter)
        return adapter

    def _copy(self, operation: keras.Operation, path: str, args: Any, settings: Any) -> keras.Operation:
        if not isinstance(operation, keras.layers.Layer):
            return copy_stateless(operation)
        copy = clone_layer(operation, path)
        copy(*args, **settings)
        copy_weights(operation, copy)
        return copy

    def _remember(self, path: str, operation: keras.Operation, twin: Any) -> None:
        if getattr(operation, "variables", None):
            self.layers.append(TwinLayer(self._paths.get(id(operation), path), operation, twin))

    def _without_twin(self, view: GraphView, prefix: str) -> set[int]:
        """Return the ids of the operations that no layer of tf_keras stands for, in every one of their calls."""
        found = set()
        for call in view.calls:
            path = f"{prefix}{call.operation.name}"
            try:
                _positional(call, path)
                _require_same_masks(call, path)
                if call.nested is None and id(call.operation) not in self._twins:
                    _make_twin(call.operation, path, path)
            except UnsupportedModelError:
                found.add(id(call.operation))
        return found

    def _named(self, path: str) -> str:
        """Return a name that no other layer has; tfmot would not end over two of one name."""
        name = wanted = f"twin_{path}".replace("/", "_")
        number = 1
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
        self._names.add(name)
        return name


def _new_input(tensor: keras.KerasTensor, batch_size: int | None) -> Any:
    name = node_of(tensor).operation.name
    return tf_keras.Input(tensor.shape[1:], batch_size or tensor.shape[0], name=name, dtype=tensor.dtype)


def _needed(view: GraphView, adapted: set[int]) -> list[Call]:
    """Return the calls that data flows through; tf_keras makes its own masks, but for the operations in `adapted`."""
    needed = {id(tensor) for tensor in view.outputs}
    calls = []
    for call in reversed(view.calls):
        if any(id(tensor) in needed for tensor in call.outputs):
            calls.append(call)
            taken = _tensors_of(call) if id(call.operation) in adapted else keras.tree.flatten(call.arguments[0])
            needed.update(id(tensor) for tensor in taken)
    return calls[::-1]


def _tensors_of(call: Call) -> list[keras.KerasTensor]:
    args, kwargs = call.arguments
    settings = {key: value for key, value in kwargs.items() if key != "training"}
    return [value for value in keras.tree.flatten((args, settings)) if isinstance(value, keras.KerasTensor)]


def _positional(call: Call, path: str) -> Any:
    args, kwargs = call.arguments
    if len(args) != 1:
        raise UnsupportedModelError(f"Layer {path!r} is called with {len(args)} positional arguments; one has a twin.")
    own_masks = keras.tree.map_structure(mask_of, args[0])
    for name, value in kwargs.items():
        implied = name == "training" or (name == "mask" and _identical(value, own_masks))
        if not implied and any(item is not None for item in keras.tree.flatten(value)):
            raise UnsupportedModelError(f"Layer {path!r} is called with `{name}={value!r}`, which has no twin.")
    return args[0]


def _require_same_masks(call: Call, path: str) -> None:
    """Raise if tf_keras would make another mask: of several tensors Keras 3 merges theirs in its own way.

    Raises:
        UnsupportedModelError: names the layer.
    """
    masks = {id(mask) for mask in map(mask_of, keras.tree.flatten(call.arguments[0]))}
    masked = masks != {id(None)}
    merges = type(call.operation).__name__ in _MERGING and len(masks) > 1
    if masked and (merges or type(call.operation) is keras.layers.Rescaling):
        raise UnsupportedModelError(
            f"Layer {path!r} ({type(call.operation).__name__}) takes tensors with masks, of which tf_keras makes "
            f"another mask than Keras 3, so that it has no twin."
        )


def _identical(a: Any, b: Any) -> bool:
    return [id(item) for item in keras.tree.flatten(a)] == [id(item) for item in keras.tree.flatten(b)]


def _make_twin(operation: keras.Operation, path: str, name: str) -> Any:
    class_name = type(operation).__name__
    if not isinstance(operation, getattr(keras.layers, class_name, ())) or class_name not in _LAYERS:
        raise UnsupportedModelError(
            f"Layer {path!r} ({type(operation).__module__}.{class_name}) has no tf_keras twin. Layers that have one: "
            f"{', '.join(sorted(_LAYERS))}."
        )
    config = _config(operation, path, name)
    try:
        return getattr(tf_keras.layers, class_name)(**config)
    except (TypeError, ValueError) as error:
        raise UnsupportedModelError(f"Layer {path!r} ({class_name}) has a setting without twin: {error}.") from error


def _config(layer: keras.layers.Layer, path: str, name: str) -> dict[str, Any]:
    class_name = type(layer).__name__
    renamed = _RENAMED.get(class_name, {})
    config = {
        renamed.get(key, key): value
        for key, value in layer.get_config().items()
        if key not in _DROPPED and not key.endswith(_DROPPED_ENDINGS) and _NEUTRAL.get((class_name, key), _ANY) != value
    }
    for key in ("activation", "recurrent_activation"):
        if key in config:
            config[key] = _activation(getattr(layer, key), path)
    for key in ("layer", "backward_layer"):
        if key in config:
            inner = getattr(layer, "forward_layer" if key == "layer" and hasattr(layer, "forward_layer") else key)
            inside = f"{path}/{inner.name}"
            config[key] = _make_twin(inner, inside, f"twin_{inside}".replace("/", "_"))
    return {**config, "name": name, "dtype": layer.dtype_policy.name}


def _activation(function: Any, path: str) -> str:
    function = keras_activation(function)
    if function not in _ACTIVATIONS:
        name = getattr(function, "__name__", type(function).__name__)
        known = sorted(known.__name__ for known in _ACTIVATIONS if known is not hard_sigmoid)
        raise UnsupportedModelError(
            f"Layer {path!r} has the activation {name!r}, which tf_keras does not have with the same mathematics. "
            f"Activations that it has: {', '.join(known)}."
        )
    return _ACTIVATIONS[function]
