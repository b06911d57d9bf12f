"""The one way a model is rewritten: its graph is called again on new inputs, with some layers replaced."""

import inspect
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import keras

from kopt.core.errors import InputError, UnsupportedModelError
from kopt.core.randomness import preserved_random_state
from kopt.core.records.actions import LayerAction, TransformReport
from kopt.graph.additions import require_no_additions_inside
from kopt.graph.checks import require_keras_training
from kopt.graph.configs import rebuilding
from kopt.graph.internals import copy_stateless, flatten_layers, graph_of, mark_called, node_of, own_training
from kopt.graph.view import Call, GraphView

# A layer, or a function of the layer's inputs.
Replacement = Callable[..., Any]


@preserved_random_state()
def rewrite(
    model: keras.Model,
    replace: Callable[[keras.layers.Layer], Replacement | None],
    *,
    name: str | None = None,
    inner_dtypes: Mapping[str, str] | None = None,
    for_inference: bool = False,
) -> tuple[keras.Model, TransformReport]:
    """Return a copy of `model` in which some layers are replaced, and the list of them.

    The copy is a plain, uncompiled Functional model that shares nothing with `model`. Layers that are kept are cloned
    through their config, with weights, vocabularies, seed states, dtype policies and trainable flags; names, order and
    structure of inputs and outputs are kept. A shared layer is replaced once, nested models are rewritten inside.

    Args:
        model: Functional or Sequential model; not changed.
        replace: called once with every layer, also those inside nested models. Returns `None` to keep the layer, or
            what is called in its place: a new layer, or a function of the layer's inputs. New layers bring their own
            weights.
        name: of the new model; that of `model` by default.
        inner_dtypes: what types of the inputs of nested models become, e.g. `{"float16": "float32"}`.
        for_inference: nobody trains the copy, so that layers which share a variable may get one each, and nested models
            may lose their masks.

    Raises:
        UnsupportedModelError: a subclassed model, a layer that cannot be cloned, layers that share variables, or a
            nested model with masks and the like.
        InputError: a replacement shares variables with `model`, or gives another number of outputs.

    Example:
        >>> def replace(layer):
        ...     if isinstance(layer, keras.layers.ReLU):
        ...         return keras.layers.Activation("gelu", name=layer.name)
        >>> smooth, report = kopt.graph.rewrite(model, replace)
        >>> [(action.layer, action.detail) for action in report.applied]
        [('relu1', "replaced by Activation 'relu1'")]
    """
    rewriter = _Rewriter(replace, inner_dtypes or {})
    view = GraphView.of(model)
    if not for_inference:
        view.require_untied()
        require_no_additions_inside(view)
    twin = rewriter.copy(model, view, name or model.name, "")
    shared = {id(variable) for variable in model.variables} & {id(variable) for variable in twin.variables}
    if shared:
        paths = [variable.path for variable in model.variables if id(variable) in shared]
        raise InputError(f"A replacement shares variables with the given model: {', '.join(paths)}. Make a new layer.")
    return twin, TransformReport("rewrite", tuple(rewriter.applied), ())


@preserved_random_state()
def copy_model(
    model: keras.Model,
    *,
    functional: Callable[..., Any] | None = None,
    sequential: Callable[..., Any] | None = None,
) -> Any:
    """Return a copy of a Functional or Sequential model of the same kind, uncompiled; see `rewrite` for what is kept.

    Models inside it become Functional.

    Args:
        model: not changed.
        functional: called with inputs, outputs and `name` for a Functional model; by default `keras.Model`, or the
            model's own class where that says how it is trained, e.g. by a `train_step`.
        sequential: called with a list of layers and `name` for a Sequential one, with a default in the same way.

    Raises:
        UnsupportedModelError: a subclassed model, or a layer that cannot be cloned; a class with a training of its own
            that is not made of inputs and outputs, or that `functional` or `sequential` would take the place of.

    Example:
        >>> copy = kopt.graph.copy_model(model)
        >>> kopt.profile.compare(model, copy).identical, copy.compiled
        (True, False)
    """
    twin, _ = rewrite(model, lambda layer: None)
    is_sequence = isinstance(model, keras.Sequential)
    make: Any = sequential if is_sequence else functional
    if make is not None:
        require_keras_training(model)
    elif own_training(model):
        make = type(model)
    else:
        make = keras.Sequential if is_sequence else keras.Model
    view = GraphView.of(twin)
    parts: Any = view.input_structure, view.output_structure
    if is_sequence:
        parts = ([_new_input(twin.inputs[0], {}), *twin.layers[1:]],)
    with rebuilding(model):
        copy = make(*parts, name=model.name)
    copy_model_settings(twin, copy)
    return copy


@preserved_random_state()
def copy_subclassed(model: keras.Model) -> keras.Model:
    """Return a copy of a model whose `call` is Python code, uncompiled, with the same names of layers.

    Args:
        model: built, with a `get_config` that rebuilds it; not changed.

    Raises:
        UnsupportedModelError: it does not rebuild from its config and the shapes that it was built with.

    Example:
        >>> @keras.saving.register_keras_serializable()
        ... class Two(keras.Model):
        ...     def __init__(self, **kwargs):
        ...         super().__init__(**kwargs)
        ...         self.dense = keras.layers.Dense(2)
        ...     def call(self, inputs):
        ...         return self.dense(inputs)
        >>> original = Two()
        >>> y = original(np.ones((1, 3), "float32"))
        >>> copy = kopt.graph.copy_subclassed(original)
        >>> bool(np.all(copy(np.ones((1, 3), "float32")) == y))
        True
    """
    twin = clone_layer(model, model.name)
    with rebuilding(model):
        twin.build_from_config(model.get_build_config())
    copy_weights(model, twin)
    twin.name = model.name
    mark_called(twin)
    return twin


@preserved_random_state()
def as_functional(model: keras.Model) -> keras.Model:
    """Return `model` as a Functional model with the same layers: a Sequential is wrapped, a Functional given back.

    For readers that know Functional models only. The layers are shared, nothing is copied.

    Raises:
        UnsupportedModelError: a subclassed model.

    Example:
        >>> functional = kopt.graph.as_functional(model)
        >>> type(functional).__name__, functional.get_layer("conv1") is model.get_layer("conv1")
        ('Functional', True)
    """
    view = GraphView.of(model)
    if graph_of(model) is model:
        return model
    return keras.Model(view.input_structure, view.output_structure, name=model.name)


def copy_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Copy variables, vocabularies, derived state and trainable flags between two built layers of one config.

    Raises:
        UnsupportedModelError: the two hold different variables.

    Example:
        >>> layer = model.get_layer("classes")
        >>> copy = kopt.graph.clone_layer(layer, "classes")
        >>> copy.build(layer.input.shape)
        >>> kopt.graph.copy_weights(layer, copy)
        >>> bool(np.all(copy.kernel == layer.kernel))
        True
    """
    ours, theirs = source.variables, target.variables
    if [variable.shape for variable in ours] != [variable.shape for variable in theirs]:
        raise UnsupportedModelError(
            f"Layer {source.name!r} ({type(source).__qualname__}) does not rebuild the same variables from its config: "
            f"{[v.shape for v in ours]} became {[v.shape for v in theirs]}. Its `get_config` must give everything that "
            f"its `__init__` needs."
        )
    for variable, value in zip(theirs, ours, strict=True):
        variable.assign(value)
    copy_state(source, target)


def copy_state(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Copy vocabularies, derived state, trainable flags and names of inner layers between two built layers of a kind.

    Keras gives layers that `__init__` makes without a name another number each time.
    """
    for one, other in zip(flatten_layers(source), flatten_layers(target), strict=True):
        _copy_vocabulary(one, other)
        if hasattr(other, "finalize_state") and not hasattr(other, "save_assets") and other.variables:
            other.finalize_state()  # what follows from variables; bins of a `Discretization` are in its config
        if one is not source and other.name != one.name:
            other.name = one.name
        if other.trainable != one.trainable:
            other.trainable = one.trainable


class _Rewriter:
    """Holds what one rewrite knows: the twin of every operation, and the replacements made."""

    def __init__(self, replace: Callable[[keras.layers.Layer], Replacement | None], inner_dtypes: Mapping[str, str]):
        self.applied: list[LayerAction] = []
        self._replace = replace
        self._inner_dtypes = inner_dtypes
        self._twins: dict[int, Any] = {}
        self._clones: set[int] = set()

    def copy(self, model: keras.Model, view: GraphView, name: str, prefix: str) -> keras.Model:
        dtypes = self._inner_dtypes if prefix else {}
        tensors: dict[int, Any] = {id(tensor): _new_input(tensor, dtypes) for tensor in view.inputs}
        for call in view.calls:
            self._retrace(call, tensors, prefix)
        inputs = keras.tree.map_structure(lambda tensor: tensors[id(tensor)], view.input_structure)
        named = {id(tensor): self._named_output(tensor, tensors[id(tensor)]) for tensor in _distinct(view.outputs)}
        outputs = keras.tree.map_structure(lambda tensor: named[id(tensor)], view.output_structure)
        twin = keras.Model(inputs, outputs, name=name)
        copy_model_settings(model, twin)
        copy_output_names(model, twin)
        return twin

    def _retrace(self, call: Call, tensors: dict[int, Any], prefix: str) -> None:
        def current(value: Any) -> Any:
            return tensors[id(value)] if isinstance(value, keras.KerasTensor) else value

        args, kwargs = keras.tree.map_structure(current, call.arguments)
        known = id(call.operation) in self._twins
        twin = self._twin(call, prefix)
        outputs = keras.tree.flatten(twin(*args, **_accepted(twin, call.operation, kwargs)))
        if len(outputs) != len(call.outputs):
            raise InputError(
                f"The replacement of layer {prefix + call.operation.name!r} gives {len(outputs)} output(s); the layer "
                f"gives {len(call.outputs)}."
            )
        if not known and id(twin) in self._clones and call.nested is None:
            copy_weights(call.operation, twin)
        tensors.update({id(old): new for old, new in zip(call.outputs, outputs, strict=True)})

    def _twin(self, call: Call, prefix: str) -> Any:
        key = id(call.operation)
        if key not in self._twins:
            self._twins[key] = self._make_twin(call, prefix)
        return self._twins[key]

    def _make_twin(self, call: Call, prefix: str) -> Any:
        operation, path = call.operation, f"{prefix}{call.operation.name}"
        if call.nested is not None:
            twin = self.copy(operation, call.nested, operation.name, f"{path}/")
        elif isinstance(operation, keras.layers.Layer):
            replacement = self._replace(operation)
            if replacement is not None:
                described = getattr(replacement, "name", getattr(replacement, "__qualname__", ""))
                detail = f"replaced by {type(replacement).__name__} {described!r}"
                self.applied.append(LayerAction(path, type(operation).__name__, detail))
                return replacement
            twin = clone_layer(operation, path)
        elif isinstance(operation, keras.Function):
            raise UnsupportedModelError(f"{path!r} is a `keras.Function`; call a `keras.Model` in its place.")
        else:
            return copy_stateless(operation)
        self._clones.add(id(twin))
        return twin

    def _named_output(self, old: keras.KerasTensor, new: keras.KerasTensor) -> keras.KerasTensor:
        """Make sure that the output keeps its name, which in Keras is that of the operation that gives it."""
        wanted, operation = node_of(old).operation.name, node_of(new).operation
        if operation.name == wanted:
            return new
        ours = id(operation) in self._clones or isinstance(operation, keras.layers.InputLayer)
        is_shared = sum(twin is operation for twin in self._twins.values()) > 1
        if not ours and not is_shared:
            operation.name = wanted
            self._clones.add(id(operation))
            return new
        dtype = new.dtype if "float" in new.dtype else None  # others are passed on whatever the policy
        return keras.layers.Identity(name=wanted, dtype=dtype)(new)


def _distinct(tensors: tuple[keras.KerasTensor, ...]) -> list[keras.KerasTensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _new_input(tensor: keras.KerasTensor, dtypes: Mapping[str, str]) -> keras.KerasTensor:
    config = node_of(tensor).operation.get_config()
    return keras.layers.InputLayer.from_config({**config, "dtype": dtypes.get(tensor.dtype, config["dtype"])}).output


def clone_layer(layer: keras.layers.Layer, path: str) -> keras.layers.Layer:
    """Return a layer of the same class and config, without variables.

    Args:
        layer: any layer, or a model whose `call` is Python code.
        path: what the layer is called in an error message.

    Raises:
        UnsupportedModelError: the layer does not rebuild from its config.

    Example:
        >>> copy = kopt.graph.clone_layer(model.get_layer("conv1"), "conv1")
        >>> copy.name, copy.filters, copy.built
        ('conv1', 8, False)
    """
    classes = {type(inner).__name__: type(inner) for inner in flatten_layers(layer)}
    with rebuilding(layer, path), keras.saving.custom_object_scope(classes):
        copy = type(layer).from_config(layer.get_config())
    for one, other in zip(flatten_layers(layer), flatten_layers(copy), strict=False):
        if type(one) is type(other):  # layers that `build` makes are not there yet; `copy_state` comes after it
            _copy_vocabulary(one, other)  # without one some cannot be called
    if copy.name != layer.name:  # a config that Keras derives from `__init__(self, ..., **kwargs)` has no name
        copy.name = layer.name
    return copy


def _accepted(twin: Any, operation: keras.Operation, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Leave out a mask and a mode that the replacement has no use for, as Keras itself does; the rest is passed.

    Keras records the default of `training` as if it had been given; only another mode is one that was asked for.
    """
    if isinstance(twin, type(operation)):
        return kwargs
    call = inspect.signature(operation.call).parameters
    if "training" in kwargs and kwargs["training"] in (None, call["training"].default):
        kwargs = {key: value for key, value in kwargs.items() if key != "training"}
    if isinstance(twin, keras.Model):
        return kwargs
    function = twin.call if isinstance(twin, keras.Operation) else twin
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return kwargs
    unused = {key for key in kwargs if key not in parameters and (key.endswith("mask") or key == "training")}
    return {key: value for key, value in kwargs.items() if key not in unused}


def _copy_vocabulary(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    if not hasattr(source, "save_assets"):
        return
    store: dict[str, Any] = {}
    if not source.variables:  # weights of `"tf_idf"`, which are none of Keras' variables
        source.save_own_variables(store)
    if store:
        target.load_own_variables(store)
    with tempfile.TemporaryDirectory() as directory:
        source.save_assets(directory)
        target.load_assets(directory)


def copy_output_names(source: keras.Model, target: keras.Model) -> None:
    """Give the outputs of a Functional model the names of another's, if the layers that make them have others."""
    graph = graph_of(source)
    if graph is not None and list(graph.output_names) != list(target.output_names):
        target.output_names = list(graph.output_names)


def copy_model_settings(source: keras.Model, target: keras.Model) -> None:
    """Copy the dtype policy and the trainable flag of a model; the flags of its layers stay."""
    # Without the policy, `compile` adds no loss scaling to the copy of a mixed_float16 model.
    if target.dtype_policy.name != source.dtype_policy.name:
        target.dtype_policy = source.dtype_policy
    if target.trainable != source.trainable:
        # The setter of a model overwrites the flags of its layers, which were copied one by one.
        flags = [(layer, layer.trainable) for layer in flatten_layers(target)[1:]]
        target.trainable = source.trainable
        for layer, flag in flags:
            if layer.trainable != flag:
                layer.trainable = flag
