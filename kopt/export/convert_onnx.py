"""SavedModel to `.onnx`. Runs in the conversion child process only."""

import sys
from typing import Any
from unittest import mock

import numpy as np
import tf2onnx.convert
from tf2onnx.handler import tf_op
from tf2onnx.utils import map_onnx_to_numpy_type


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
    arguments = ["--saved-model", saved_model, "--signature_def", signature, "--tag", "serve"]
    arguments += ["--output", output, "--opset", str(opset)]
    with mock.patch.object(sys, "argv", ["tf2onnx", *arguments]):
        tf2onnx.convert.main()
