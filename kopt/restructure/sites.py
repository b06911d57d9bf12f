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

    @property
    def in_training_mode(self) -> bool:
        """Whether the model calls it with `training=True`."""
        return any(call.arguments[1].get("training") is True for _, call in self.calls)


def sites_of(view: GraphView) -> tuple[Site, ...]:
    """Return the layers of a model in the order of their first call; operations and nested models are no sites."""
    paths: dict[int, str] = {}
    calls: dict[int, list[tuple[GraphView, Call]]] = {}
    for path, inner, call in _calls(view, "", set()):
        paths.setdefault(id(call.operation), path)
        calls.setdefault(id(call.operation), []).append((inner, call))
    return tuple(Site(path, calls[key][0][1].operation, tuple(calls[key])) for key, path in paths.items())


def _calls(view: GraphView, prefix: str, seen: set[int]) -> Iterator[tuple[str, GraphView, Call]]:
    """Yield the calls of layers with their paths; nested models are entered at their first call."""
    for call in view.calls:
        path = f"{prefix}{call.operation.name}"
        if call.nested is None:
            if isinstance(call.operation, keras.layers.Layer):
                yield path, view, call
        elif id(call.operation) not in seen:
            seen.add(id(call.operation))
            yield from _calls(call.nested, f"{path}/", seen)
