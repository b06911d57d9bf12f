"""SavedModel to `.tflite`. Runs in the conversion child process only."""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from tensorflow.lite.python import convert as tf_convert

from kopt.export import arrays_file
from kopt.export.layout import KERNELS, builtin_of, builtin_of_code, input_at, packed
from kopt.export.narrow_kernels import with_narrow_kernels

_IO_TYPES = {"float32": tf.float32, "int8": tf.int8, "uint8": tf.uint8, "int16": tf.int16}
_OPS = tf.lite.OpsSet


def convert(
    saved_model: str,
    signature: str,
    output: str,
    scheme: str,
    io_dtype: str,
    calibration: str | None,
    keep_float: list[str],
    select_ops: bool,
    fused_rnn: bool,
    trained: bool,
    batch_size: int = 1,
    float_outputs: dict[str, list[str]] | None = None,
    half_weights: bool = False,
    narrow_kernels: Sequence[str] = (),
) -> None:
    """Write the file.

    Args:
        saved_model: directory.
        signature: key of the signature to convert.
        output: path to write.
        scheme: one of `kopt.core.schemes`, but those of weights alone, which start from a finished `.tflite`.
        io_dtype: type of inputs and outputs that are float in the model.
        calibration: `.npz` of arrays by input name, first axis the samples; `None` if the scheme needs none.
        keep_float: regular expressions; operators whose output tensor matches one stay in float.
        select_ops: allow operators of the TensorFlow runtime in the file.
        trained: the model holds the ranges of its activations.
        batch_size: of the signature; 1 where it is free.
        fused_rnn: the model holds a fused LSTM: only the converter's older quantizer treats it right.
        float_outputs: by an expression of `keep_float`, outputs of the signature whose operators stay in float with it;
            `None` if that is not known, so that it is told by the operators before.
        half_weights: what stays in float gets weights of 16 bits.
        narrow_kernels: regular expressions; kernels of operators whose output tensor matches one get 4 bits.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=[signature])
    _configure(converter, scheme, io_dtype, select_ops, trained)
    if calibration is not None:
        converter.representative_dataset = _representative_dataset(calibration, batch_size)
    if fused_rnn and calibration is not None:
        converter.experimental_new_quantizer = False
    content = (
        _convert_with_fallback(converter, scheme, keep_float, float_outputs, trained)
        if keep_float or float_outputs
        else converter.convert()
    )
    if narrow_kernels:
        content = with_narrow_kernels(content, narrow_kernels)
    if half_weights:
        content = with_half_weights(content)
    if trained and scheme == "int16x8":
        content = _for_kernels_of_16_bits(content)
    Path(output).write_bytes(content)


# Operators whose first input meets a kernel, the second one.
_WITH_KERNELS = (
    schema.BuiltinOperator.FULLY_CONNECTED,
    schema.BuiltinOperator.CONV_2D,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D,
)


def _configure(converter: Any, scheme: str, io_dtype: str, select_ops: bool, trained: bool) -> None:
    operators = [_OPS.TFLITE_BUILTINS]
    if scheme != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif scheme == "int8" and not trained:  # without a data set, the converter refuses operators of integers only
        operators = [_OPS.TFLITE_BUILTINS_INT8]
    elif scheme == "int16x8":
        operators = [_OPS.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8]
    if io_dtype != "float32":
        converter.inference_input_type = converter.inference_output_type = _IO_TYPES[io_dtype]
    converter.target_spec.supported_ops = operators + ([_OPS.SELECT_TF_OPS] if select_ops else [])


def _representative_dataset(path: str, batch_size: int) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
    arrays = arrays_file.read(path)
    count = len(next(iter(arrays.values())))

    def samples() -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, count, batch_size):
            rows = np.minimum(np.arange(start, start + batch_size), count - 1)  # the last batch is filled up
            yield {name: array[rows] for name, array in arrays.items()}

    return samples


def _convert_with_fallback(
    converter: Any, scheme: str, keep_float: list[str], float_outputs: dict[str, list[str]] | None, trained: bool
) -> bytes:
    """Quantize all operators but those whose output tensor matches `keep_float`.

    The converter's public interface has no such switch; finding ranges and quantization are its two own steps. The
    first gives a model in float with its ranges: measured ones, or those that training put between the operators.
    """
    input_type, output_type = converter.inference_input_type, converter.inference_output_type
    if trained:
        converter.optimizations = []
        converter.inference_input_type = converter.inference_output_type = tf.float32
    else:
        converter._experimental_calibrate_only = True
    ranged = converter.convert()
    names = output_names(ranged)
    kept = {name for name in names if any(re.search(pattern, name) for pattern in keep_float)}
    if float_outputs is None:
        kept |= _last_operators_after(ranged, kept)
    else:
        kept |= _signature_tensors(ranged, {name for found in float_outputs.values() for name in found})
    for pattern in keep_float:
        is_known = pattern in (float_outputs or ()) or any(re.search(pattern, name) for name in names)
        if not trained and not is_known:
            raise ValueError(f"no operator of the converted model matches {pattern!r}; it has {names}")
    content = tf_convert.mlir_quantize(
        ranged,
        inference_type=_types_pb2(tf.int16 if scheme == "int16x8" else tf.int8),
        input_data_type=input_type,
        output_data_type=output_type,
        denylisted_nodes=sorted(kept),
    )
    return _with_float_inputs(content)


def _with_float_inputs(content: bytes) -> bytes:
    """Return the file with numbers made of the integers that float operators with a kernel are given.

    The converter leaves that out in front of some, such as a projection of an attention, and LiteRT refuses the file.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    mended = 0
    for graph in model.subgraphs:
        operators = []
        for operator in graph.operators:
            if builtin_of(model, operator) in _WITH_KERNELS and _meets_float(graph, operator):
                operators.append(_dequantizing(model, graph, operator))
                mended += 1
            operators.append(operator)
        graph.operators = operators
    return packed(model, len(content)) if mended else content


def _meets_float(graph: Any, operator: Any) -> bool:
    taken, kernel = (input_at(graph, operator, place) for place in (0, 1))
    return kernel.type == schema.TensorType.FLOAT32 and taken.type in (schema.TensorType.INT8, schema.TensorType.INT16)


def _dequantizing(model: Any, graph: Any, operator: Any) -> Any:
    """Return an operator that makes numbers of the first input of another one, which takes these from then on."""
    integers = graph.tensors[operator.inputs[0]]
    numbers = copy.copy(integers)
    numbers.type, numbers.quantization, numbers.buffer = schema.TensorType.FLOAT32, None, 0
    numbers.name = integers.name + b"_numbers"
    graph.tensors.append(numbers)
    made = schema.OperatorT()
    made.inputs, made.outputs = [operator.inputs[0]], [len(graph.tensors) - 1]
    made.opcodeIndex = _code_of_dequantize(model)
    operator.inputs = [len(graph.tensors) - 1, *list(operator.inputs)[1:]]
    return made


def _code_of_dequantize(model: Any) -> int:
    kind = schema.BuiltinOperator.DEQUANTIZE
    for place, code in enumerate(model.operatorCodes):
        if builtin_of_code(code) == kind:
            return place
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind
    code.version = 3  # takes 8 and 16 bits
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _for_kernels_of_16_bits(content: bytes) -> bytes:
    """Return the file with biases of 64 bits and sigmoids in steps of 1 / 32,768, which the kernels of 16 bits want.

    From trained ranges the converter makes biases of 32 bits, and its setting for others is for calibrated ones. To a
    sigmoid it gives steps of 1 / 65,536, which LiteRT refuses, and behind it the trained ones.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    widened: set[int] = set()
    for graph in model.subgraphs:
        for operator in graph.operators:
            kind = builtin_of(model, operator)
            _, place = KERNELS.get(kind, (0, 0))
            bias = input_at(graph, operator, place)
            if place and bias is not None and bias.type == schema.TensorType.INT32:
                buffer = model.buffers[bias.buffer]
                if bias.buffer not in widened:  # equal biases share one
                    buffer.data = np.asarray(buffer.data, np.uint8).view(np.int32).astype(np.int64).view(np.uint8)
                bias.type = schema.TensorType.INT64
                widened.add(bias.buffer)
            if kind == schema.BuiltinOperator.LOGISTIC:
                grid = graph.tensors[operator.outputs[0]].quantization
                grid.scale, grid.zeroPoint = np.asarray([2**-15], np.float32), np.asarray([0], np.int64)
    return packed(model, len(content))


def with_half_weights(content: bytes) -> bytes:
    """Return the file with the float32 matrices and kernels in it stored in 16 bits, and converted when it is loaded.

    Raises:
        ValueError: a weight is larger than 65,504, the largest number of 16 bits.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.operatorCodes.append(_code(schema.BuiltinOperator.DEQUANTIZE, version=3))
    for graph in model.subgraphs:
        made = []
        for index, tensor in enumerate(list(graph.tensors)):
            data = model.buffers[tensor.buffer].data
            if tensor.type != schema.TensorType.FLOAT32 or data is None or len(tensor.shape) < 2:
                continue
            weights = np.asarray(data, np.uint8).view(np.float32)
            half = weights.astype(np.float16)
            if not np.isfinite(half).all():
                raise ValueError(
                    f"weights of {tensor.name.decode()!r} reach {np.abs(weights).max():.3g}; 65504 is most"
                )
            made.append(_dequantized(model, graph, index, half))
        graph.operators = [*made, *graph.operators]
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {one.buffer for one in model.metadata or ()}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
    return packed(model, len(content))


def _dequantized(model: Any, graph: Any, index: int, half: np.ndarray) -> Any:
    """Move a constant of 16 bits in front of a tensor, and return the operator that converts it."""
    tensor = graph.tensors[index]
    buffer = schema.BufferT()
    buffer.data = half.view(np.uint8)
    stored = schema.TensorT()
    stored.name, stored.shape, stored.type = tensor.name + b"_half", tensor.shape, schema.TensorType.FLOAT16
    stored.buffer = len(model.buffers)
    model.buffers.append(buffer)
    tensor.buffer = 0
    graph.tensors.append(stored)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = [len(graph.tensors) - 1], [index]
    return operator


def _code(builtin: int, version: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
    return code


def _types_pb2(dtype: tf.DType) -> int:
    return tf_convert.convert_inference_tf_type_to_tflite_type(dtype, "inference_type")


def _last_operators_after(content: bytes, kept: set[str]) -> set[str]:
    """Return the outputs of the graph that are computed right from a kept tensor.

    The activation of an output layer writes the graph's output, whose name is not the layer's.
    """
    graph = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
    names = [tensor.name.decode() for tensor in graph.tensors]
    ends = [o for o in graph.operators if set(o.outputs) & set(graph.outputs) and kept & {names[i] for i in o.inputs}]
    return {names[index] for operator in ends for index in operator.outputs}


def _signature_tensors(content: bytes, outputs: set[str]) -> set[str]:
    """Return the names of the tensors that are these outputs of the signature."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    tensors = model.subgraphs[0].tensors
    maps = [one for signature in model.signatureDefs or () for one in signature.outputs]
    return {tensors[one.tensorIndex].name.decode() for one in maps if one.name.decode() in outputs}


def output_names(content: bytes) -> list[str]:
    """Return the names of the tensors that the operators of a `.tflite` file write, in order."""
    graph = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
    return [graph.tensors[index].name.decode() for operator in graph.operators for index in operator.outputs]
