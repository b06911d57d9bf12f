"""Where the layers of a model stand: their paths and all their calls, also inside nested models."""

import dataclasses
from collections.abc import Iterator

import keras

from kopt.graph import Call, GraphView


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """A layer with its calls.

    Attributes:
        path: e.g. `"backbone/conv"`; of a layer in several places the first.
        layer: no nested model.
        calls: every call with the view it stands in; those inside a nested model once, however often that is called.
    """

    path: str
    layer: keras.layers.Layer
    calls: tuple[tuple[GraphView, Call], ...]

    @property
    def input_shapes(self) -> tuple[tuple[int | None, ...], ...]:
        """Shape of the first input of every call, batch axis first."""
        return tuple(tuple(call.inputs[0].shape) for _, call in self.calls)

    @property
    def output_shapes(self) -> tuple[tuple[int | None, ...], ...]:
        """Shape of the first output of every call, batch axis first."""
        return tuple(tuple(call.outputs[0].shape) for _, call in self.calls)


def sites_of(view: GraphView) -> tuple[Site, ...]:
    """Return the layers of a model in the order of their first call; operations and nested models are no sites."""
    paths: dict[int, str] = {}
    layers: dict[int, keras.layers.Layer] = {}
    calls: dict[int, list[tuple[GraphView, Call]]] = {}
    for inner, prefix in views_of(view):
        for call in inner.calls:
            if call.nested is None and isinstance(call.operation, keras.layers.Layer):
                key = id(call.operation)
                paths.setdefault(key, f"{prefix}{call.operation.name}")
                layers[key] = call.operation
                calls.setdefault(key, []).append((inner, call))
    return tuple(Site(path, layers[key], tuple(calls[key])) for key, path in paths.items())


def views_of(view: GraphView) -> tuple[tuple[GraphView, str], ...]:
    """Return the view and those of all nested models, each model once, with the prefix of the paths in it."""
    found: dict[int, tuple[GraphView, str]] = {id(view): (view, "")}
    found.update({id(operation): pair for operation, pair in _nested(view, "")})
    return tuple(found.values())


def _nested(view: GraphView, prefix: str) -> Iterator[tuple[keras.Operation, tuple[GraphView, str]]]:
    for operation in view.operations:
        inner = view.calls_of(operation)[0].nested
        if inner is not None:
            path = f"{prefix}{operation.name}/"
            yield operation, (inner, path)
            yield from _nested(inner, path)
