"""Layers that call a layer which they hold in their config."""

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kopt.graph.channels.ledger import Visit
from kopt.graph.channels.maps import ChannelMap, Channels, UnfollowedError
from kopt.graph.channels.projections import recurrent
from kopt.graph.view import Call


def time_distributed(visit: Visit, rule: Callable[[Visit], Any] | None) -> list[Channels]:
    """The layer inside sees every step by itself.

    Args:
        visit: of the wrapper.
        rule: of the layer inside; `None` if there is none.
    """
    given, layer = visit.main(), visit.operation.layer
    channels = visit.of(given)
    if rule is None or (isinstance(channels, ChannelMap) and channels.axis == 1):
        raise UnfollowedError("the layer inside is not known to kopt, or the channels are the steps")
    inside = dataclasses.replace(channels, axis=channels.axis - 1) if isinstance(channels, ChannelMap) else channels
    step = keras.KerasTensor((given.shape[0], *given.shape[2:]), given.dtype)
    found = rule(_inner(visit, layer, step, inside, "layer.config."))
    outputs = found if isinstance(found, list) else [found]
    return [dataclasses.replace(one, axis=one.axis + 1) if isinstance(one, ChannelMap) else one for one in outputs]


def bidirectional(visit: Visit) -> Channels:
    """Two recurrent layers, side by side or put together entry by entry."""
    layer = visit.operation
    given, parts = visit.main(), (layer.forward_layer, layer.backward_layer)
    kinds = {type(part).__name__ for part in parts}
    if len(visit.call.outputs) > 1 or layer.merge_mode is None or not kinds <= {"LSTM", "GRU", "SimpleRNN"}:
        raise UnfollowedError("it gives more than one output, or holds a layer that kopt does not know")
    keys = ("layer.config.", "backward_layer.config.")
    forward, backward = (
        recurrent(_inner(visit, part, given, visit.of(given), key))[0] for part, key in zip(parts, keys, strict=True)
    )
    visit.ledger.space.tie(forward.ids, backward.ids)  # Keras takes both for as wide as the forward layer
    if layer.merge_mode == "concat":
        return ChannelMap(forward.axis, np.concatenate([forward.ids, backward.ids]))
    return forward


def _inner(visit: Visit, layer: Any, given: keras.KerasTensor, channels: Channels, prefix: str) -> Visit:
    """Return a call of the layer inside, as if it stood in the graph."""
    output = layer.compute_output_spec(given)
    node = types.SimpleNamespace(arguments=types.SimpleNamespace(args=(given,), kwargs={}))
    call = Call(layer, node, (given,), tuple(keras.tree.flatten(output)))
    return Visit(visit.path, call, (channels,), visit.ledger, f"{visit.prefix}{prefix}")
