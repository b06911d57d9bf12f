"""Which layer an operation belongs to: told by scopes that are put round every layer while a step is traced.

Keras' own scopes do not tell it: TensorFlow numbers a scope that is opened twice, so that `conv_1` may be the layer of
that name or the second call of `conv`. A scope whose name ends with a slash is entered as it is. The gradient of an
operation is recorded under `gradient_tape/` and the scope of the operation.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from kopt.graph import layer_paths
from kopt.graph.internals import flatten_layers
from kopt.profile.timing.internals import inside_scopes
from kopt.train.interception import replaced

_GRADIENT = "gradient_tape/"
_UPDATE = "kopt.update/"
_LAYER = re.compile(r"kopt\.layer\.(\d+)/")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in a step an operation stands; the attributes are those of `OpTime`."""

    name: str
    layer: str | None
    phase: str


@contextlib.contextmanager
def layer_scopes(model: keras.Model) -> Iterator[None]:
    """Let everything that is traced inside the block carry the layer it comes from, and the optimizer, in its name."""
    with contextlib.ExitStack() as stack:
        for number, layer in enumerate(flatten_layers(model)):
            stack.enter_context(inside_scopes(layer, functools.partial(_layer_scope, number)))
        if getattr(model, "optimizer", None) is not None:
            apply = _in_update_scope(model.optimizer.apply)
            stack.enter_context(replaced(model.optimizer, "apply", apply))
        yield


def numbered_paths(model: keras.Model) -> list[str]:
    """Return the paths of the layers by the number that their scopes carry."""
    paths = layer_paths(model)
    return [paths[id(layer)] for layer in flatten_layers(model)]


def place_of(name: str, paths: list[str]) -> Place:
    """Read the name of an operation that was traced inside `layer_scopes`.

    Args:
        name: as the profiler or the graph has it, e.g. `"gradient_tape/kopt.layer.2/MatMul"`. In loops the scopes of
            the caller come before those of the body, so that the last layer is the innermost.
        paths: see `numbered_paths`.
    """
    found = list(_LAYER.finditer(name))
    if _UPDATE in name:
        return Place(name.rpartition(_UPDATE)[2], None, "update")
    if not found:
        return Place(name.removeprefix(_GRADIENT), None, "backward" if _GRADIENT in name else "other")
    layer = paths[int(found[-1][1])]
    return Place(f"{layer}/{name[found[-1].end() :]}", layer, "backward" if _GRADIENT in name else "forward")


def _layer_scope(number: int) -> Any:
    return tf.name_scope(f"kopt.layer.{number}/")


def _in_update_scope(apply: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(apply)
    def scoped(*args: Any, **kwargs: Any) -> Any:
        with tf.name_scope(_UPDATE):
            return apply(*args, **kwargs)

    return scoped
