"""The activations of a model as its layers compute them: dead and saturated units, counted in the graph."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kopt.core.records.profiles.gradients import ActivationStatistics
from kopt.graph import layer_paths
from kopt.graph.internals import flatten_layers, graph_of
from kopt.graph.view import GraphView
from kopt.train.interception import replaced

# Lower and upper limit, where there is one. Leaky ReLU, ELU, GELU and SiLU have a slope everywhere: they do not die.
_LIMITS: dict[str, tuple[float | None, float | None]] = {
    "relu": (0.0, None),
    "relu6": (0.0, 6.0),
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
}
_NODES = {"Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid", "HardSigmoid": "hard_sigmoid", "Tanh": "tanh"}


class Watched(NamedTuple):
    """An activation in the graph of a step: the layer's path, the name of the function, its output."""

    layer: str
    activation: str
    output: tf.Tensor
    channel_axis: int


@contextlib.contextmanager
def watching(model: keras.Model) -> Iterator[list[Watched]]:
    """Collect the outputs of activations while `model` is called inside the block, in the order of the calls.

    What is computed in loops, as the cells of recurrent layers are, cannot be seen from outside and is left out.
    """
    found: list[Watched] = []
    with contextlib.ExitStack() as stack:
        for path, operation, activation in _activations(model):
            stack.enter_context(replaced(operation, "call", _watched(operation, path, activation, found)))
        yield found


class Counts:
    """Running counts of one activation: units that were ever above 0, zeros, and outputs near a limit."""

    def __init__(self, watched: Watched, width: float):
        self.layer, self.activation = watched.layer, watched.activation
        self._axis, self._width = watched.channel_axis, width
        self._low, self._high = _LIMITS[watched.activation]
        self.units = int(watched.output.shape[watched.channel_axis])
        self._alive = tf.Variable(tf.zeros([self.units], tf.bool))
        self._sums = tf.Variable(tf.zeros([3], tf.float64))  # outputs, zeros, near a limit

    def add(self, output: tf.Tensor) -> None:
        """Count one output, in the graph."""
        others = [axis for axis in range(output.shape.rank) if axis != self._axis % output.shape.rank]
        zero = tf.equal(output, 0)
        self._alive.assign(self._alive | tf.reduce_any(~zero, axis=others))
        counts = [tf.size(output), tf.math.count_nonzero(zero), tf.math.count_nonzero(self._near(output))]
        self._sums.assign_add([tf.cast(count, tf.float64) for count in counts])

    def statistics(self) -> ActivationStatistics:
        """Return what was counted."""
        total, zeros, near = self._sums.numpy()
        dies, saturates = self._low == 0.0 and self.activation.startswith("relu"), self._high is not None
        return ActivationStatistics(
            layer=self.layer,
            activation=self.activation,
            units=self.units,
            dead_units=self.units - int(self._alive.numpy().sum()) if dies else None,
            zero_fraction=float(zeros / total),
            saturated_fraction=float(near / total) if saturates else None,
        )

    def _near(self, output: tf.Tensor) -> tf.Tensor:
        if self._low is None or self._high is None:
            return tf.zeros_like(output, tf.bool)
        room = self._width * (self._high - self._low)
        upper = output > self._high - room
        # Below, a ReLU6 is zero for a purpose; that counts as dead, not as saturated.
        return upper if self.activation == "relu6" else upper | (output < self._low + room)


def _watched(operation: Any, path: str, activation: str, found: list[Watched]) -> Callable[..., Any]:
    plain = operation.call
    axis = 1 if getattr(operation, "data_format", None) == "channels_first" else -1
    graph = tf.compat.v1.get_default_graph() if not tf.executing_eagerly() else None

    def call(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        is_seen = isinstance(output, tf.Tensor) and (graph is None or output.graph is graph)
        if is_seen and output.shape.rank and output.shape[axis] is not None and output.dtype.is_floating:
            found.append(Watched(path, activation, output, axis))
        return output

    return call


def _activations(model: keras.Model) -> Iterator[tuple[str, Any, str]]:
    """Yield path, operation and activation of everything that ends with an activation of a known kind."""
    paths = layer_paths(model)
    for layer in flatten_layers(model):
        name = _activation_of(layer)
        if name in _LIMITS:
            yield paths[id(layer)], layer, name
    graphs = [model, *(layer for layer in flatten_layers(model) if layer is not model)]
    seen: set[int] = set()
    for graph in graphs:
        if graph_of(graph) is None:
            continue
        for node in GraphView.of(graph).calls:
            name = _NODES.get(type(node.operation).__name__, "")
            if name and not isinstance(node.operation, keras.layers.Layer) and id(node.operation) not in seen:
                seen.add(id(node.operation))
                yield node.operation.name, node.operation, name


def _activation_of(layer: keras.layers.Layer) -> str:
    if isinstance(layer, keras.layers.ReLU):
        plain = not layer.negative_slope and not layer.threshold
        return ("relu" if layer.max_value is None else "relu6" if layer.max_value == 6 else "") if plain else ""
    if isinstance(layer, (keras.layers.RNN, keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)):
        return ""  # Its activation is not what it returns.
    if len(flatten_layers(layer)) > 1:
        return ""  # The layers inside are looked at themselves.
    return str(getattr(getattr(layer, "activation", None), "__name__", ""))
