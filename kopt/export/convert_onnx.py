"""SavedModel to `.onnx`. Runs in the conversion child process only."""

import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tf2onnx.convert
from tensorflow.core.protobuf import saved_model_pb2
from tf2onnx.handler import tf_op
from tf2onnx.utils import map_onnx_to_numpy_type

_GRAPH = "saved_model.pb"
_COMPILED = "_XlaMustCompile"


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


def convert(saved_model: str, signature: str, output: str, opset: int) -> None:
    """Write the file.

    Args:
        saved_model: directory. Only this path into tf2onnx keeps names and has no captured constants among the
            inputs of the graph.
        signature: key of the signature to convert.
        output: path to write.
        opset: ONNX operator set version.
    """
    with tempfile.TemporaryDirectory() as directory:
        _copy_without_xla(Path(saved_model), Path(directory))
        arguments = ["--saved-model", directory, "--signature_def", signature, "--tag", "serve"]
        arguments += ["--output", output, "--opset", str(opset)]
        with mock.patch.object(sys, "argv", ["tf2onnx", *arguments]):
            tf2onnx.convert.main()


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
