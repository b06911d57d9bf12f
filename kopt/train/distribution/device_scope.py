"""A layer whose variables, forward and backward pass are on one device."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kopt.train.internals import copy_mask, in_stateless_scope


def on_device(layer: keras.layers.Layer, device: str) -> keras.layers.Layer:
    """Make `layer`, which is not built yet, build and run on `device`, and give it back.

    It stays a layer of its class: the config, and so a saved file, knows nothing of the device. XLA compiles for one
    device only, so the layer says that it does not support it.

    Args:
        layer: changed.
        device: e.g. `"GPU:1"`.
    """
    build, call = layer.build, layer.call

    @functools.wraps(build)
    def placed_build(*args: Any, **kwargs: Any) -> None:
        with tf.device(device):
            build(*args, **kwargs)

    @functools.wraps(call)
    def placed_call(*args: Any, **kwargs: Any) -> Any:
        return run_on(device, functools.partial(call, **kwargs), args)

    # Past `__setattr__`: TensorFlow would look for variables in them. `wraps` keeps the signatures that Keras reads.
    object.__setattr__(layer, "build", placed_build)
    object.__setattr__(layer, "call", placed_call)
    layer.supports_jit = False
    return layer


def run_on(device: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Return `function(*arguments)`, computed on `device`, whose gradient is computed there, too.

    `tf.device` alone places the forward pass: operations of the gradient are made later, outside of it, and TensorFlow
    would run all of them on the first device, with the activations copied there.

    Args:
        device: e.g. `"GPU:1"`.
        function: reads other tensors through variables only.
        arguments: nested tensors.
    """
    leaves = tf.nest.flatten(arguments)
    if in_stateless_scope():
        # Variables are tensors here, which a custom gradient would lose. This is shape inference, or somebody else's
        # gradient.
        with tf.device(device):
            return function(*arguments)
    structure: list[Any] = []

    def forward(*inputs: Any) -> tuple[list[Any], Callable[..., Any]]:
        with tf.device(device), tf.GradientTape() as tape:
            # One tensor may be given as several arguments (queries and values); each has a gradient of its own.
            inputs = tuple(tf.identity(one) for one in inputs)
            tape.watch([one for one in inputs if one.dtype.is_floating])
            outputs = function(*_replaced(arguments, leaves, inputs))
        structure.append(outputs)
        results = tf.nest.flatten(outputs)

        def backward(*upstream: Any, variables: list[Any] | None = None) -> Any:
            sources = [*inputs, *(variables or [])]
            with tf.device(device):
                gradients = tape.gradient(results, sources, output_gradients=list(upstream))
            split = len(inputs)
            return gradients[:split] if variables is None else (gradients[:split], gradients[split:])

        return [tf.identity(result) for result in results], backward

    tracked = tf.custom_gradient(forward)(*[leaf for leaf in leaves if tf.is_tensor(leaf)])
    (outputs,) = structure
    return _replaced(outputs, tf.nest.flatten(outputs), tracked)


def _replaced(structure: Any, leaves: list[Any], tensors: Any) -> Any:
    """Return `structure` with its tensors, in order, replaced, each with the Keras mask of the former one."""
    fresh = iter(tensors)
    replaced = []
    for leaf in leaves:
        new = next(fresh) if tf.is_tensor(leaf) else leaf
        if new is not leaf:
            copy_mask(leaf, new)
        replaced.append(new)
    return tf.nest.pack_sequence_as(structure, replaced)
