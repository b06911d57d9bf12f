import numpy as np
from onnx import TensorProto, helper, numpy_helper

from kopt.export.calibrate_onnx import names_in_float


def graph(nodes, **constants):
    """A graph of `x` and named constants; nodes are `(name, operator, inputs)`, each with an output of its name."""
    made = [helper.make_node(operator, inputs.split(), [name], name=name) for name, operator, inputs in nodes]
    known = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", nodes[-1][0])]
    return helper.make_graph(made, "g", ends[:1], ends[1:], known)


def test_scores_under_a_mask_stay_in_float():
    nodes = [("masked", "Mul", "x huge"), ("scores", "Add", "x masked"), ("biased", "Add", "scores bias")]
    made = graph(nodes, huge=np.float32(-1e9), bias=np.float32([1.0, -300.0]))
    assert names_in_float(made) == ["scores"]


def test_a_constant_mask_is_one_too():
    made = graph([("scores", "Add", "x causal")], causal=np.float32([[0, -3e4], [0, 0]]))
    assert names_in_float(made) == ["scores"]


def test_moments_of_a_normalization_stay_in_float_and_what_is_normalized_does_not():
    nodes = [
        ("residual", "Add", "x x"),
        ("mean", "GlobalAveragePool", "residual"),
        ("centered", "Sub", "residual mean"),
        ("squares", "Mul", "centered centered"),
        ("moved", "Transpose", "squares"),
        ("variance", "GlobalAveragePool", "moved"),
        ("padded", "Add", "variance epsilon"),
        ("deviation", "Sqrt", "padded"),
        ("scaled", "Div", "centered deviation"),
        ("shifted", "Add", "scaled beta"),
    ]
    made = graph(nodes, epsilon=np.float32(1e-3), beta=np.float32([0.0, 1.0]))
    assert set(names_in_float(made)) == {"padded", "variance", "moved", "squares", "mean"}
