"""SavedModel to `.onnx`. Runs in the conversion child process only."""

import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import tf2onnx.convert
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from tensorflow.core.protobuf import saved_model_pb2
from tf2onnx.handler import tf_op
from tf2onnx.utils import map_onnx_to_numpy_type

from kopt.export.calibrate_onnx import calibrate
from kopt.export.integer_onnx import (
    with_adjacent_pairs,
    with_integer_kernels,
    with_pairs_before_loops,
    with_symmetric_activations,
)

_GRAPH = "saved_model.pb"
_COMPILED = "_XlaMustCompile"
_LARGE_GRAPH = "__MODEL_PROTO.onnx"  # in the archive of tf2onnx


@tf_op("Erfc")
class Erfc:
    """The complement of the error function, which exact GELU uses: `Erfc(x) = 1 - Erf(x)`.

    tf2onnx 1.17 writes the TensorFlow operator into the file as it is, and no ONNX runtime opens it.
    """

    @classmethod
    def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
        """Rewrite one node for opset 9 and later."""
        source, output = node.input[0], node.output[0]
        dtype, shape = ctx.get_dtype(output), ctx.get_shape(output)
        ctx.remove_node(node.name)
        one = ctx.make_const(f"{node.name}_one", np.ones((), map_onnx_to_numpy_type(dtype)))
        erf = ctx.make_node("Erf", [source], name=f"{node.name}_erf", dtypes=[dtype], shapes=[shape])
        ctx.make_node(
            "Sub", [one.output[0], erf.output[0]], name=node.name, outputs=[output], dtypes=[dtype], shapes=[shape]
        )


@tf_op("Bucketize")
class Bucketize:
    """The number of boundaries that a number reaches, which `Discretization` uses; tf2onnx 1.17 leaves it as it is."""

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **_: Any) -> None:
        """Rewrite one node for opset 13 and later."""
        source, output = node.input[0], node.output[0]
        boundaries = np.array(node.get_attr("boundaries").floats, np.float32)
        shape = ctx.get_shape(output)
        ctx.remove_node(node.name)
        last = ctx.make_const(f"{node.name}_axis", np.array([-1]))
        number = ctx.make_node("Cast", [source], attr={"to": onnx.TensorProto.FLOAT}, name=f"{node.name}_float")
        column = ctx.make_node("Unsqueeze", [number.output[0], last.output[0]], name=f"{node.name}_column")
        edges = ctx.make_const(f"{node.name}_boundaries", boundaries)
        reached = ctx.make_node("GreaterOrEqual", [column.output[0], edges.output[0]], name=f"{node.name}_reached")
        ones = ctx.make_node("Cast", reached.output, attr={"to": onnx.TensorProto.INT32}, name=f"{node.name}_ones")
        ctx.make_node(
            "ReduceSum",
            [ones.output[0], last.output[0]],
            attr={"keepdims": 0},
            name=node.name,
            outputs=[output],
            dtypes=[onnx.TensorProto.INT32],
            shapes=[shape],
        )


@tf_op(["FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars"])
class FakeQuant:
    """Rounding to a grid of 256 values: a pair of QuantizeLinear and DequantizeLinear in int8, zero where kopt has it.

    tf2onnx 1.17 writes uint8, for which fewer runtimes have kernels, and rounds a half in the place of zero otherwise.
    """

    @classmethod
    def version_10(cls, ctx: Any, node: Any, **_: Any) -> None:
        """Rewrite one node for opset 10 and later."""
        low, high = _ends(node)
        scale = np.float32((high - low) / 255)
        zero_point = np.int8(np.floor(-128 - low / scale + np.float32(0.5)))
        source, output = node.input[0], node.output[0]
        dtype, shape = ctx.get_dtype(output), ctx.get_shape(output)
        ctx.remove_node(node.name)
        grid = [
            ctx.make_const(f"{node.name}_{part}", np.array(value)).output[0]
            for part, value in (("step", scale), ("zero", zero_point))
        ]
        integers = ctx.make_node(
            "QuantizeLinear",
            [source, *grid],
            name=f"{node.name}_quantize",
            dtypes=[onnx.TensorProto.INT8],
            shapes=[shape],
        )
        ctx.make_node(
            "DequantizeLinear",
            [integers.output[0], *grid],
            name=node.name,
            outputs=[output],
            dtypes=[dtype],
            shapes=[shape],
        )


def convert(
    saved_model: str,
    signature: str,
    output: str,
    opset: int,
    inputs: list[str],
    scheme: str = "float32",
    runtime: str = "onnxruntime",
    calibration: str | None = None,
    external: bool = False,
) -> None:
    """Write the file, checked and with the shapes of its inner tensors.

    Args:
        saved_model: directory. Only this path into tf2onnx keeps names and has no captured constants among the
            inputs of the graph.
        signature: key of the signature to convert.
        output: path to write.
        opset: ONNX operator set version.
        inputs: names of the signature's inputs, which TensorFlow hands over in small letters.
        scheme: `"float32"`, `"float16"` or `"int8"`.
        runtime: `"onnxruntime"` or `"tensorrt"`: whose form of int8.
        calibration: path of an `.npz` with arrays by input name, for int8 of a graph without ranges.
        external: write weights to `<output>.data`, because one message cannot hold them; for float32 alone.
    """
    with tempfile.TemporaryDirectory() as directory:
        _copy_without_xla(Path(saved_model), Path(directory))
        arguments = ["--saved-model", directory, "--signature_def", signature, "--tag", "serve"]
        arguments += ["--output", output, "--opset", str(opset), *(["--large_model"] if external else [])]
        # tf2onnx 1.17 calls a function that NumPy 2 has under another name, for large models alone.
        renamed = mock.patch.object(np, "product", np.prod, create=True)
        with renamed, mock.patch.object(sys, "argv", ["tf2onnx", *arguments]):
            tf2onnx.convert.main()
    if external:
        _write_weights_beside(Path(output), inputs)
        return
    model = onnx.load(output)
    _require_operators(model.graph)
    _name_inputs(model.graph, inputs)
    onnx.save(model, output)
    if scheme == "float16":
        halved = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
        halved.topological_sort()  # the casts of inputs are put at the end of the graph
        model = halved.model
    elif calibration is not None:
        calibrate(output, calibration, runtime)
        model = onnx.load(output)
    elif scheme == "int8":
        _use_trained_ranges(model, runtime)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, output)
    if scheme == "int8":  # ONNX Runtime 1.31 can end the process that opens such a file; here that is an error
        onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])


def _require_operators(graph: Any) -> None:
    """Raise if TensorFlow's operators are left: tf2onnx writes what it does not know as it is."""
    left = {node.op_type for node in graph.node if node.domain == "" and not onnx.defs.has(node.op_type)}
    if left:
        raise ValueError(f"TensorFlow operators without a counterpart: {', '.join(sorted(left))}")


def _name_inputs(graph: Any, names: list[str]) -> None:
    """Give the inputs of a graph their names."""
    wanted = {name.lower(): name for name in names}
    renamed = {value.name: wanted[value.name] for value in graph.input if value.name not in names}
    for value in graph.input:
        value.name = renamed.get(value.name, value.name)
    if renamed:
        _rename_uses(graph, renamed)


def _rename_uses(graph: Any, renamed: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        for attribute in node.attribute:  # branches and bodies of loops see the tensors around them
            for inner in (attribute.g, *attribute.graphs):
                _rename_uses(inner, renamed)


def _write_weights_beside(output: Path, inputs: list[str]) -> None:
    """Turn the archive that tf2onnx writes of a large model into a file and one with its weights beside it."""
    with tempfile.TemporaryDirectory(dir=output.parent) as directory:
        with zipfile.ZipFile(output) as archive:
            archive.extractall(directory)
        output.unlink()
        model = onnx.load(Path(directory, _LARGE_GRAPH), load_external_data=False)
        _name_inputs(model.graph, inputs)
        model = onnx.shape_inference.infer_shapes(model)  # by shapes alone: with the weights it could not be passed on
        onnx.load_external_data_for_model(model, directory)
        onnx.save(
            model, output, save_as_external_data=True, all_tensors_to_one_file=True, location=f"{output.name}.data"
        )
    onnx.checker.check_model(output)


def _use_trained_ranges(model: Any, runtime: str) -> None:
    with_adjacent_pairs(model)
    with_pairs_before_loops(model)
    if runtime == "tensorrt":
        with_symmetric_activations(model)
    if not with_integer_kernels(model, integer_biases=runtime == "onnxruntime"):
        raise ValueError("no kernel of the trained copy lies on a grid")


def _ends(node: Any) -> tuple[np.float32, np.float32]:
    """Return the ends of the range of a node, which are on its grid."""
    if node.get_attr("num_bits").i != 8 or node.get_attr("narrow_range").i:
        raise ValueError(f"{node.name} rounds to another grid than one of 256 values, which ONNX has no integers for")
    if node.type == "FakeQuantWithMinMaxVars":
        low, high = (one.get_tensor_value(as_list=False) for one in node.inputs[1:3])
    else:
        low, high = (node.get_attr(name).f for name in ("min", "max"))
    return np.float32(low), np.float32(high)


def _copy_without_xla(source: Path, target: Path) -> None:
    """Copy a SavedModel, in which no function asks to be compiled; variables are linked.

    Keras compiles convolutions of groups. TensorFlow does not inline such a function, and tf2onnx writes the call of
    it into the file as it is.
    """
    for path in source.iterdir():
        if path.name != _GRAPH:
            (target / path.name).symlink_to(path.absolute())
    saved = saved_model_pb2.SavedModel.FromString((source / _GRAPH).read_bytes())
    for graph in saved.meta_graphs:
        functions = graph.graph_def.library.function
        for holder in (*functions, *graph.graph_def.node, *(node for one in functions for node in one.node_def)):
            holder.attr.pop(_COMPILED, None)
    (target / _GRAPH).write_bytes(saved.SerializeToString())
