"""The one way to an integer LSTM: a tf_keras twin, whose LSTM the converter fuses into a single operator.

The loop that a Keras 3 RNN becomes crashes the int8 calibrator of the TFLite converter
(https://github.com/tensorflow/tensorflow/issues/75140). tf_keras marks its LSTM in the graph, and the converter turns
the mark into UNIDIRECTIONAL_SEQUENCE_LSTM, which it quantizes. There is no such operator for the other RNN layers.
"""

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import UnsupportedModelError
from kopt.core.schemes import Scheme
from kopt.export.source import Source, trace_function
from kopt.graph import GraphView, to_tf_keras

_UNROLLED = "Over a fixed number of steps, `kopt.quantize.post_training` and `kopt.quantize.aware` unroll RNNs."
_ACCEPTED = "Accepted for such a model: the schemes float32, float16, dynamic, weight_only and int4."


def fused_source(source: Source, scheme: Scheme) -> Source:
    """Return `source` with its trace made from a tf_keras twin with fused LSTMs, one example a call.

    Raises:
        UnsupportedModelError: the model has an RNN for which there is no integer operator; the message names it.
    """
    if scheme.name != "int8":
        raise UnsupportedModelError(
            f"{source.name} holds an RNN, and TFLite has no {scheme.name} operator for RNNs. {_ACCEPTED} An LSTM also "
            f"goes in int8."
        )
    if source.model is None:
        raise UnsupportedModelError(
            f"{source.name} holds a loop, which crashes the int8 calibrator (tensorflow#75140). {_ACCEPTED}"
        )
    if source.batch_size not in (None, 1):
        raise UnsupportedModelError(
            f"{source.name} holds an LSTM, whose integer operator takes one example a call here. Received a batch of "
            f"{source.batch_size}. Leave `batch_size` out, build the model with an open batch, or unroll the LSTM."
        )
    _require_fusible(source)
    try:
        twin = to_tf_keras(source.model, batch_size=1)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"{source.name} holds an LSTM, which becomes integers by way of tf_keras: {error} {_UNROLLED}"
        ) from error
    names, outputs = [info.name for info in source.inputs], [info.name for info in source.outputs]

    def serve(**tensors: Any) -> dict[str, Any]:
        result = twin([tensors[name] for name in names], training=False)
        return dict(zip(outputs, map(tf.identity, tf.nest.flatten(result)), strict=True))

    inputs = tuple(dataclasses.replace(info, shape=(1, *info.shape[1:])) for info in source.inputs)
    function, concrete = trace_function(serve, inputs)
    return dataclasses.replace(
        source, inputs=inputs, function=function, concrete=concrete, freeze=False, owner=(source.owner, twin)
    )


def _require_fusible(source: Source) -> None:
    for path, layer in GraphView.of(source.model).walk():
        reason = _why_not(layer)
        if reason:
            raise UnsupportedModelError(
                f"Layer {path!r} ({type(layer).__name__}) cannot be quantized to int8 so: {reason}. {_ACCEPTED} "
                f"{_UNROLLED}"
            )


def _why_not(layer: Any) -> str | None:
    if isinstance(layer, keras.layers.LSTM):
        standard = layer.activation is keras.activations.tanh
        standard = standard and layer.recurrent_activation is keras.activations.sigmoid
        if not standard:
            return "only an LSTM with tanh and sigmoid is fused into an integer operator"
        crashing = {
            "use_bias=False": not layer.use_bias,
            "return_state": layer.return_state,
            "recurrent_dropout": layer.recurrent_dropout > 0,
        }
        setting = next((name for name, is_set in crashing.items() if is_set), None)
        return f"the converter crashes over an LSTM with `{setting}`" if setting else None
    if isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional, keras.layers.TimeDistributed)):
        return "its loop crashes the TFLite calibrator (tensorflow#75140), and only LSTM has an integer operator"
    if isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False):
        return (
            "a masked recurrent layer is not fused into an integer operator, and its loop crashes the TFLite calibrator"
        )
    return None
