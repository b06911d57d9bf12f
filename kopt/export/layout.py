"""Where the parts of an operator lie in a `.tflite` file."""

from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

_OPERATORS = schema.BuiltinOperator
_NAMES = {code: name for name, code in vars(_OPERATORS).items() if isinstance(code, int)}
# From operators with a kernel to the places of kernel and bias among their inputs.
KERNELS = {
    _OPERATORS.CONV_2D: (1, 2),
    _OPERATORS.DEPTHWISE_CONV_2D: (1, 2),
    _OPERATORS.FULLY_CONNECTED: (1, 2),
    _OPERATORS.TRANSPOSE_CONV: (1, 3),
}


def builtin_of(model: Any, operator: Any) -> int:
    """Return the code of an operator."""
    return builtin_of_code(model.operatorCodes[operator.opcodeIndex])


def operator_name(model: Any, operator: Any) -> str:
    """Return the name of an operator in the schema, or the one that its maker gave it."""
    code = model.operatorCodes[operator.opcodeIndex]
    return code.customCode.decode() if code.customCode else _NAMES[builtin_of_code(code)]


def builtin_of_code(code: Any) -> int:
    """Return what an entry of the list of codes stands for; files of old converters fill only the second field."""
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def input_at(graph: Any, operator: Any, place: int) -> Any:
    """Return the tensor at a place among the inputs of an operator; `None` if there is none."""
    index = operator.inputs[place] if len(operator.inputs) > place else -1
    return graph.tensors[index] if index >= 0 else None


def packed(model: Any, size: int) -> bytes:
    """Return a model as the bytes of a file; `size` is about that of the file."""
    builder = flatbuffers.Builder(size)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
