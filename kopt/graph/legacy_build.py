"""A Keras 3 model built from the architecture that Keras 2 stored in a file."""

from collections.abc import Callable
from typing import Any

import keras

from kopt.core.errors import LoadError
from kopt.graph.internals import node_of
from kopt.graph.legacy_layers import MODELS, Config, batch_shape, layer_class, translate_layer
from kopt.graph.legacy_ops import get_operation
from kopt.graph.legacy_weights import Rebuilt

_WRAPPERS = ("Bidirectional", "TimeDistributed")
_RECURRENT = ("Bidirectional", "ConvLSTM2D", "CuDNNGRU", "CuDNNLSTM", "GRU", "LSTM", "RNN", "SimpleRNN")
_OP_LAYERS = ("TFOpLambda", "SlicingOpLambda")


def build_model(class_name: str, config: Any) -> Rebuilt:
    """Return the model that a Keras 2 `model_config` describes, with fresh weights.

    Raises:
        LoadError: a layer or function has no counterpart in Keras 3, or the graph is not whole.
    """
    if class_name == "Sequential":
        return _build_sequential(config)
    if class_name in MODELS:
        return _build_functional(config)
    raise LoadError(
        f"The model is of the class {class_name!r}, which is not one of Keras'. A subclassed model cannot be rebuilt "
        f"from an `.h5` file: build it in Python and call `load_weights`."
    )


def _build_sequential(config: Any) -> Rebuilt:
    # Up to Keras 2.2.2 the config of a Sequential was the list of its layers.
    settings: Config = {"layers": config} if isinstance(config, list) else config
    children = tuple(_build_layer(entry) for entry in settings["layers"])
    model = keras.Sequential([child.layer for child in children], name=_legal(settings.get("name")))
    shape = batch_shape(settings["layers"][0]["config"]) or settings.get("build_input_shape")
    if not model.built and shape:
        model.build(tuple(shape))
    return Rebuilt(settings.get("name", model.name), "Sequential", model, children)


def _build_functional(config: Config) -> Rebuilt:
    children = {entry["config"]["name"]: _build_layer(entry) for entry in config["layers"]}
    graph = _Graph(children)
    graph.connect([(entry["config"]["name"], node) for entry in config["layers"] for node in entry["inbound_nodes"]])
    inputs, outputs = graph.tensors(config["input_layers"]), graph.tensors(config["output_layers"])
    model = keras.Model(_unpacked(inputs), _unpacked(outputs), name=_legal(config.get("name")))
    return Rebuilt(config.get("name", model.name), "Functional", model, tuple(children.values()))


def _build_layer(entry: Config) -> Rebuilt:
    class_name, config = entry["class_name"], entry["config"]
    if class_name in MODELS:
        return build_model(class_name, {**config, "name": entry.get("name", config["name"])})
    name = config["name"]
    if class_name in _OP_LAYERS:
        return Rebuilt(name, class_name, _named_operation(config["function"], name))
    if class_name in _WRAPPERS:
        return _build_wrapper(class_name, config)
    new_class, new_config = translate_layer(class_name, {**config, "name": _legal(name)})
    if class_name == "InputLayer":
        return Rebuilt(name, class_name, keras.layers.InputLayer(batch_shape=batch_shape(config), **new_config))
    return Rebuilt(name, class_name, layer_class(new_class, name).from_config(new_config))


def _build_wrapper(class_name: str, config: Config) -> Rebuilt:
    inner = {key: _build_layer(config[key]) for key in ("layer", "backward_layer") if config.get(key) is not None}
    _, settings = translate_layer(class_name, {**config, "name": _legal(config["name"])})
    settings = {key: value for key, value in settings.items() if key not in inner}
    layers = {key: child.layer for key, child in inner.items()}
    layer = getattr(keras.layers, class_name)(**layers, **settings)
    return Rebuilt(config["name"], class_name, layer, inside=inner["layer"].class_name)


def _named_operation(function: str, name: str) -> Callable[..., Any]:
    operation = get_operation(function, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("name", None)
        output = operation(*args, **kwargs)
        node_of(output).operation.name = _legal(name)
        return output

    return call


class _Graph:
    """The tensors of a Functional model while its layers are called."""

    def __init__(self, children: dict[str, Rebuilt]):
        self._children = children
        # Keras 2 counts the own inputs and outputs of a nested model as its first call.
        self._calls: dict[str, list[Any]] = {
            name: [None] if child.class_name in MODELS else [] for name, child in children.items()
        }
        for name, child in children.items():
            if child.class_name == "InputLayer":
                self._calls[name] = [[child.layer.output]]

    def connect(self, pending: list[tuple[str, Any]]) -> None:
        """Call the layers, each as soon as what it takes is there, and the calls of one layer in their order."""
        while pending:
            waiting: list[tuple[str, Any]] = []
            for name, node in pending:
                blocked = any(name == other for other, _ in waiting)
                if blocked or not self._ready(node):
                    waiting.append((name, node))
                else:
                    self._call(name, node)
            if len(waiting) == len(pending):
                raise LoadError(f"The graph in the file is not whole: the inputs of {waiting[0][0]!r} are missing.")
            pending = waiting

    def tensors(self, structure: Any) -> Any:
        """Return `structure` with every reference `[layer, call, output, ...]` replaced by its tensor."""
        if self._is_reference(structure):
            return self._calls[structure[0]][structure[1]][structure[2]]
        if isinstance(structure, dict):
            return {key: self.tensors(value) for key, value in structure.items()}
        if isinstance(structure, list):
            return [self.tensors(value) for value in structure]
        return structure

    def _call(self, name: str, node: Any) -> None:
        kwargs = self.tensors(_keyword_arguments(node))
        kwargs = {key: value for key, value in kwargs.items() if key != "training"}
        inputs = _unpacked(self.tensors(node))
        if isinstance(inputs, list) and inputs and isinstance(inputs[0], str):
            # ["_CONSTANT_VALUE", -1, 2.0, {...}]: the first argument of a TensorFlow function is a number.
            inputs = inputs[2]
        if isinstance(inputs, list) and self._children[name].class_name in _RECURRENT:
            # Keras 2 passed the initial states behind the sequence.
            inputs, kwargs = inputs[0], {"initial_state": inputs[1:], **kwargs}
        self._calls[name].append(keras.tree.flatten(self._children[name].layer(inputs, **kwargs)))

    def _ready(self, structure: Any) -> bool:
        if self._is_reference(structure):
            there = len(self._calls[structure[0]]) > structure[1]
            return there and all(self._ready(value) for value in structure[3:])
        if isinstance(structure, dict):
            return all(self._ready(value) for value in structure.values())
        return not isinstance(structure, list) or all(self._ready(value) for value in structure)

    def _is_reference(self, value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) in (3, 4)
            and isinstance(value[0], str)
            and value[0] in self._calls
            and isinstance(value[1], int)
            and isinstance(value[2], int)
        )


def _keyword_arguments(node: Any) -> Config:
    """Return the keyword arguments of a call, which Keras 2 stored behind every tensor it takes."""
    if isinstance(node, dict):
        node = list(node.values())
    while isinstance(node, list) and node and isinstance(node[0], list):
        node = node[0]
    return node[3] if isinstance(node, list) and len(node) == 4 and isinstance(node[3], dict) else {}


def _unpacked(structure: Any) -> Any:
    return structure[0] if isinstance(structure, list) and len(structure) == 1 else structure


def _legal(name: str | None) -> str | None:
    return name.replace("/", "_") if name else None
