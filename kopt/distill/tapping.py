"""Inner tensors of a model from the very forward pass that gives its outputs."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError, nearest
from kopt.graph import layer_paths
from kopt.graph.checks import input_structure
from kopt.graph.internals import flatten_layers
from kopt.train.interception import opened, replaced
from kopt.train.steps.engine import call


class Tap:
    """Notes what some layers of a model give while the model is called; works with any model, nested layers included.

    A layer that is called several times counts with its last call; one that gives several tensors with the first, or
    with the one that a number after a colon names: `"attention:1"`.

    Attributes:
        paths: of the layers, in the order of the names; the keys of what `recording` gives.
    """

    def __init__(self, model: keras.Model, names: Sequence[str], whose: str = "model"):
        """Find the layers.

        Args:
            model: built.
            names: names or paths of layers, e.g. `"conv"`, `"backbone/conv"`.
            whose: `"student"` or `"teacher"`, for messages.

        Raises:
            ConfigError: no such layer, or several of that name.
        """
        self.paths = tuple(names)
        found = [_find(model, name, whose) for name in names]
        self._layers = {id(layer): layer for layer, _ in found}
        self._wanted: dict[int, list[tuple[str, int]]] = {}
        for name, (layer, position) in zip(names, found, strict=True):
            self._wanted.setdefault(id(layer), []).append((name, position))
        self._lock, self._thread, self._entered = threading.Lock(), threading.local(), 0
        self._replaced = contextlib.ExitStack()

    @contextlib.contextmanager
    def recording(self) -> Iterator[dict[str, Any]]:
        """Yield a dict that fills with tensors by name while the model is called in this thread, inside the block."""
        with self._lock:
            if self._entered == 0:
                self._install()
            self._entered += 1
        found: dict[str, Any] = {}
        outer = getattr(self._thread, "found", None)
        self._thread.found = found
        try:
            with opened(self, found):
                yield found
        finally:
            self._thread.found = outer
            with self._lock:
                self._entered -= 1
                if self._entered == 0:
                    self._replaced.close()

    def _install(self) -> None:
        for layer in self._layers.values():
            self._replaced.enter_context(replaced(layer, "call", self._noting(layer)))

    def _noting(self, layer: keras.layers.Layer) -> Any:
        plain = layer.call

        def noting(*args: Any, **kwargs: Any) -> Any:
            outputs = plain(*args, **kwargs)
            found = getattr(self._thread, "found", None)
            if found is not None:
                leaves = keras.tree.flatten(outputs)
                for name, position in self._wanted[id(layer)]:
                    if position >= len(leaves):
                        raise ConfigError(
                            f"{name!r} names tensor {position} of a layer that gives {len(leaves)}, counted from 0."
                        )
                    found[name] = leaves[position]
            return outputs

        return noting


def tapped_shapes(model: keras.Model, tap: Tap) -> dict[str, tuple[int | None, ...]]:
    """Return the shape of each tensor that `tap` notes, `None` for open sizes; the model is traced, not run.

    Raises:
        ConfigError: a layer is not called by the model.
    """
    specs = keras.tree.map_structure(lambda one: tf.TensorSpec(one.shape, one.dtype), input_structure(model))
    shapes: dict[str, tuple[int | None, ...]] = {}

    def trace(inputs: Any) -> Any:
        with tap.recording() as found:
            outputs = call(model, inputs, False)
        shapes.update({name: tuple(tensor.shape) for name, tensor in found.items()})
        return outputs

    tf.function(trace, autograph=False).get_concrete_function(specs)
    silent = [name for name in tap.paths if name not in shapes]
    if silent:
        raise ConfigError(f"Layer {silent[0]!r} is not called when {model.name!r} is. Name one that is.")
    return shapes


def _find(model: keras.Model, name: str, whose: str) -> tuple[keras.layers.Layer, int]:
    path, _, position = name.partition(":")
    if position and not position.isdecimal():
        raise ConfigError(f"Behind the colon of {name!r} stands which tensor of the layer is meant, from 0.")
    paths = layer_paths(model)
    layers = {paths[id(layer)]: layer for layer in flatten_layers(model) if layer is not model}
    # In a copy that rounds, an activation stands behind its layer: what the layer gave is what its last part gives.
    path = ([part for part, source in getattr(model, "sources", {}).items() if source == path] or [path])[-1]
    if path in layers:
        return layers[path], int(position or 0)
    named = [one for one, layer in layers.items() if layer.name == path]
    if len(named) == 1:
        return layers[named[0]], int(position or 0)
    if named:
        raise ConfigError(f"The {whose} {model.name!r} has several layers {path!r}: {', '.join(named)}. Give the path.")
    raise ConfigError(
        f"The {whose} {model.name!r} has no layer {path!r}.{nearest(path, layers)} Layers: "
        f"{', '.join(list(layers)[:20])}{', ...' if len(layers) > 20 else ''}."
    )
