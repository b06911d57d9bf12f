"""What is inside an exported file: operators with counts and types, and the coarseness of its outputs."""

import collections
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import dtypes

from kopt.core.records.artifacts import OperatorCount, TensorQuantization
from kopt.export.layout import operator_name

_TYPES = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
_EDGE_OPERATORS = frozenset(("QUANTIZE", "DEQUANTIZE"))
_ONNX_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_LARGE_WEIGHTS = 1024
_PLUMBING = frozenset(("Const", "Identity", "NoOp", "Placeholder", "IdentityN", "ReadVariableOp"))


@dataclasses.dataclass(frozen=True)
class TFLiteContent:
    """What a `.tflite` file computes with.

    Attributes:
        operators: by name and compute type; constant inputs of another type than the result are named, e.g.
            `"float32, int8 weights"`.
        float_operators: output tensors of the operators that compute in floating point, converting at the edges aside;
            an output of the file has its name in the signature, e.g. `"SOFTMAX output 'probabilities'"`.
        output_step: largest quantization step among the file's outputs; 0 if none is quantized.
        quantization: grids of the tensors.
    """

    operators: tuple[OperatorCount, ...]
    float_operators: tuple[str, ...]
    output_step: float
    quantization: tuple[TensorQuantization, ...] = ()


def inspect_tflite(path: Path) -> TFLiteContent:
    """Read the operators of all subgraphs of a `.tflite` file."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    floats: list[str] = []
    for number, graph in enumerate(model.subgraphs):
        outputs = _output_names(model, number)
        for operator in graph.operators:
            name, dtype = _tflite_operator(model, graph, operator)
            counts[name, dtype] += 1
            is_edge = name in _EDGE_OPERATORS or (name == "CAST" and operator.inputs[0] in graph.inputs)
            if dtype.startswith(("float", "bfloat")) and not is_edge:
                made = operator.outputs[0]
                floats.append(f"{name} {outputs.get(made) or graph.tensors[made].name.decode()}")
    grids = tuple(
        _grid(tensor, _steps(model, graph, tensor))
        for graph in model.subgraphs
        for tensor in graph.tensors
        if len(_steps(model, graph, tensor))
    )
    return TFLiteContent(_counted(counts), tuple(floats), _output_step(model, model.subgraphs[0]), grids)


def _output_names(model: Any, graph: int) -> dict[int, str]:
    """Return the names of a graph's outputs in its signature, by the number of the tensor, before rounding, too."""
    maps = [one for known in model.signatureDefs or () if known.subgraphIndex == graph for one in known.outputs]
    names = {one.tensorIndex: output_named(one.name.decode()) for one in maps}
    for operator in model.subgraphs[graph].operators:
        if operator_name(model, operator) == "QUANTIZE" and operator.outputs[0] in names:
            names[operator.inputs[0]] = names[operator.outputs[0]]
    return names


def output_named(name: str) -> str:
    """Return how `float_operators` names an output of the signature."""
    return f"output {name!r}"


@dataclasses.dataclass(frozen=True)
class DenseOperator:
    """A dense operator of a `.tflite` with a constant kernel: the tensor that it writes, its kernel, and its inputs."""

    output: str
    kernel: str
    inputs: int


def dense_operators(path: Path) -> list[DenseOperator]:
    """Return the dense operators of a `.tflite` with constant kernels."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    tensors = [
        [graph.tensors[index] for index in (operator.outputs[0], operator.inputs[1])]
        for graph in model.subgraphs
        for operator in graph.operators
        if operator_name(model, operator) == "FULLY_CONNECTED"
    ]
    return [
        DenseOperator(output.name.decode(), kernel.name.decode(), int(kernel.shape[-1]))
        for output, kernel in tensors
        if model.buffers[kernel.buffer].data is not None
    ]


def inspect_onnx(path: Path) -> tuple[OperatorCount, ...]:
    """Read the operators of an `.onnx` file; their types are those that shape inference finds."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for node in graph.node:
        code = types.get(node.output[0], 0)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(code).name if code else "unknown"
        counts[node.op_type, dtype] += 1
    return _counted(counts)


def onnx_grids(path: Path) -> tuple[TensorQuantization, ...]:
    """Return the grids of an `.onnx` file: of every tensor that a DequantizeLinear reads, once."""
    graph = onnx.load(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found: dict[str, TensorQuantization] = {}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or not set(node.input[1:]) <= set(constants):
            continue
        steps = onnx.numpy_helper.to_array(constants[node.input[1]]).ravel()
        zero = np.zeros(1, np.uint8)  # where none is given
        if len(node.input) > 2:
            zero = onnx.numpy_helper.to_array(constants[node.input[2]]).ravel()
        stored = constants.get(node.input[0])
        dtype = zero.dtype.name if stored is None else onnx.numpy_helper.to_array(stored).dtype.name
        found[node.input[0]] = TensorQuantization(
            node.input[0], dtype, len(steps), float(steps.min()), float(steps.max()), int(zero[0])
        )
    return tuple(found.values())


def onnx_float_weights(path: Path) -> tuple[str, ...]:
    """Return the types of operators of an `.onnx` file that read weights in float, of 1,024 numbers or more."""
    graph = onnx.load(path).graph
    large = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type in _ONNX_FLOATS and math.prod(tensor.dims) >= _LARGE_WEIGHTS
    }
    return tuple(sorted({node.op_type for node in graph.node if large & set(node.input)}))


def inspect_saved_model(directory: Path) -> tuple[OperatorCount, ...]:
    """Read the operators that `serving_default` of a SavedModel runs, without those that only pass tensors on."""
    proto = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for meta_graph in proto.meta_graphs:
        library = {function.signature.name: function for function in meta_graph.graph_def.library.function}
        outputs = meta_graph.signature_def["serving_default"].outputs.values()
        ends = {tensor.name.partition(":")[0] for tensor in outputs}
        pending = [node for node in meta_graph.graph_def.node if node.name in ends and node.op != "NoOp"]
        while pending:
            node = pending.pop()
            called = [library[a.func.name] for a in node.attr.values() if a.func.name in library]
            pending.extend(inner for function in called for inner in function.node_def)
            if not called and node.op not in _PLUMBING:
                code = node.attr["T"].type or node.attr["dtype"].type
                counts[node.op, dtypes.as_dtype(code).name if code else ""] += 1
    return _counted(counts)


def _tflite_operator(model: Any, graph: Any, operator: Any) -> tuple[str, str]:
    name = operator_name(model, operator)
    tensors = [graph.tensors[index] for index in operator.outputs if index >= 0]
    result = _TYPES[tensors[0].type] if tensors else ""
    weights = {
        _TYPES[graph.tensors[index].type]
        for index in operator.inputs
        if index >= 0 and model.buffers[graph.tensors[index].buffer].data is not None
    }
    stored = sorted(weights - {result, "int32", "int64", "bool"}) if result.startswith("float") else []
    return name, f"{result}, {' and '.join(stored)} weights" if stored and name not in _EDGE_OPERATORS else result


def _steps(model: Any, graph: Any, tensor: Any) -> np.ndarray:
    """Return the steps of a tensor's grids, none where it has no grid; those of blocks are a tensor of their own."""
    quantization = tensor.quantization
    if quantization is None:
        return np.zeros(0)
    if quantization.detailsType == schema.QuantizationDetails.BlockwiseQuantization:
        stored = graph.tensors[quantization.details.scales]
        return np.frombuffer(bytes(model.buffers[stored.buffer].data), _TYPES[stored.type])
    return np.zeros(0) if quantization.scale is None else np.asarray(quantization.scale)


def _grid(tensor: Any, steps: np.ndarray) -> TensorQuantization:
    zeros = tensor.quantization.zeroPoint
    return TensorQuantization(
        name=tensor.name.decode(),
        dtype=_TYPES[tensor.type],
        grids=len(steps),
        smallest_step=float(steps.min()),
        largest_step=float(steps.max()),
        zero_point=int(zeros[0]) if zeros is not None and len(zeros) else 0,
    )


def _output_step(model: Any, graph: Any) -> float:
    # A float output of an integer file comes from a DEQUANTIZE, whose input carries the step.
    dequantized = {o.outputs[0]: o.inputs[0] for o in graph.operators if operator_name(model, o) == "DEQUANTIZE"}
    tensors = [graph.tensors[dequantized.get(index, index)] for index in graph.outputs]
    scales = [t.quantization.scale for t in tensors if t.quantization is not None and t.quantization.scale is not None]
    return max((float(max(scale)) for scale in scales), default=0.0)


def _counted(counts: collections.Counter[tuple[str, str]]) -> tuple[OperatorCount, ...]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(OperatorCount(name, dtype, count) for (name, dtype), count in ordered)
