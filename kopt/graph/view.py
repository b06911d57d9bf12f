"""A Keras 3 model as a graph of calls."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from kopt.core.errors import UnsupportedModelError
from kopt.graph.checks import require_built
from kopt.graph.internals import call_arguments, graph_of, node_of


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or of a `keras.ops` operation.

    Attributes:
        operation: what is called: a layer, a nested model or a `keras.ops` operation.
        node: Keras' record of the call.
        inputs: tensors among the arguments, masks included, in the order of the arguments.
        outputs: tensors it gives, flattened.
        nested: the view of the inside, if a Functional or Sequential model is called.

    Example:
        >>> call = kopt.graph.GraphView.of(model).calls[0]
        >>> call.operation.name, call.inputs[0].shape, call.outputs[0].shape
        ('conv1', (None, 8, 8, 1), (None, 8, 8, 8))
    """

    operation: keras.Operation
    node: Any
    inputs: tuple[keras.KerasTensor, ...]
    outputs: tuple[keras.KerasTensor, ...]
    nested: "GraphView | None" = None

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of the call, with symbolic tensors where data flows in."""
        return call_arguments(self.node)


@dataclasses.dataclass(frozen=True, eq=False)
class GraphView:
    """The calls a Functional or Sequential model makes, in topological order; foreign calls of shared layers left out.

    Make one with `GraphView.of(model)`. It is a snapshot: it refers to the model's layers and does not change them.

    Attributes:
        name: of the model.
        inputs: symbolic tensors, flattened as Keras does.
        outputs: the same of what it gives.
        calls: every call but those of the input layers.
        input_structure: the inputs as the model takes them: one, a list or a dict.
        output_structure: the outputs as the model gives them.

    Example:
        >>> view = kopt.graph.GraphView.of(model)
        >>> [call.operation.name for call in view.calls]
        ['conv1', 'norm1', 'relu1', 'conv2', 'flat', 'classes']
        >>> [consumer.operation.name for consumer in view.consumers(view.calls[0].outputs[0])]
        ['norm1']
    """

    name: str
    inputs: tuple[keras.KerasTensor, ...]
    outputs: tuple[keras.KerasTensor, ...]
    calls: tuple[Call, ...]
    input_structure: Any
    output_structure: Any

    @classmethod
    def of(cls, model: keras.Model) -> "GraphView":
        """Return the view of `model`.

        Raises:
            InputError: the model is not built.
            UnsupportedModelError: a subclassed model: its graph exists only as Python code.
        """
        require_built(model)
        graph = graph_of(model)
        if graph is None:
            raise UnsupportedModelError(
                f"Model {model.name!r} is of the class {type(model).__module__}.{type(model).__qualname__}, whose "
                f"`call` is Python code: there is no graph of layers to rewrite. Exporting, measuring and loading work "
                f"with it; graph rewriting, batch normalization folding and keeping single layers in float do not. "
                f"Build it as `keras.Model(inputs, outputs)` to use those."
            )
        calls = tuple(_call(node) for node in _sorted_nodes(graph))
        return cls(model.name, tuple(graph.inputs), tuple(graph.outputs), calls, graph.input, graph.output)

    @property
    def layers(self) -> tuple[keras.layers.Layer, ...]:
        """Layers and nested models that are called, each once, in order of their first call; no input layers."""
        return tuple(operation for operation in self.operations if isinstance(operation, keras.layers.Layer))

    @property
    def operations(self) -> tuple[keras.Operation, ...]:
        """Everything that is called, each once, in order of the first call."""
        return tuple(dict.fromkeys(call.operation for call in self.calls))

    def producer(self, tensor: keras.KerasTensor) -> Call | None:
        """Return the call that gives `tensor`; `None` for an input of the model."""
        return next((call for call in self.calls if _contains(call.outputs, tensor)), None)

    def consumers(self, tensor: keras.KerasTensor) -> tuple[Call, ...]:
        """Return the calls that take `tensor`; being an output of the model is no call."""
        return tuple(call for call in self.calls if _contains(call.inputs, tensor))

    def calls_of(self, operation: keras.Operation) -> tuple[Call, ...]:
        """Return the calls of `operation`: several if it is shared."""
        return tuple(call for call in self.calls if call.operation is operation)

    def walk(self, prefix: str = "") -> Iterator[tuple[str, keras.Operation]]:
        """Yield `(path, operation)` for everything that is called, once each; nested models are entered, not yielded.

        Args:
            prefix: put before every path; the path of a layer inside a nested model is `"<model>/<layer>"`.
        """
        for operation in self.operations:
            nested = self.calls_of(operation)[0].nested
            if nested is None:
                yield f"{prefix}{operation.name}", operation
            else:
                yield from nested.walk(f"{prefix}{operation.name}/")

    def require_untied(self) -> None:
        """Refuse layers that share variables, as nothing in their configs says: copies of them would be trained apart.

        Raises:
            UnsupportedModelError: there are some.
        """
        first: dict[int, tuple[keras.Operation, str]] = {}
        for path, operation in self.walk():
            for variable in operation.weights if isinstance(operation, keras.layers.Layer) else ():
                known, name = first.setdefault(id(variable), (operation, path))
                if known is not operation:
                    raise UnsupportedModelError(
                        f"Layers {name!r} and {path!r} share the variable {variable.path!r}, which their configs do "
                        f"not say: in a copy, as in a `.keras` file, each has its own, and training would part them. "
                        f"Call one layer twice, or make one layer of the two."
                    )


def _call(node: Any) -> Call:
    nested = GraphView.of(node.operation) if graph_of(node.operation) is not None else None
    return Call(node.operation, node, tuple(node.input_tensors), tuple(node.outputs), nested)


def _sorted_nodes(graph: keras.Model) -> list[Any]:
    """Return the nodes between the model's inputs and outputs, each after those it depends on."""
    done = {id(node_of(tensor)) for tensor in graph.inputs}
    ordered = []
    pending = [node_of(tensor) for tensor in reversed(graph.outputs)]
    while pending:
        node = pending[-1]
        missing = [parent for parent in map(node_of, node.input_tensors) if id(parent) not in done]
        if missing:
            pending.extend(reversed(missing))
            continue
        pending.pop()
        if id(node) not in done:
            done.add(id(node))
            ordered.append(node)
    return ordered


def _contains(tensors: tuple[keras.KerasTensor, ...], tensor: keras.KerasTensor) -> bool:
    # `in` would compare symbolic tensors with `==`, which adds an operation to the graph.
    return any(candidate is tensor for candidate in tensors)
