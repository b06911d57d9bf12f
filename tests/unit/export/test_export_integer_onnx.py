import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kopt.export.integer_onnx import (
    grid_steps,
    symmetric_step,
    with_adjacent_pairs,
    with_integer_kernels,
    with_symmetric_activations,
)


def constant(name, values):
    return numpy_helper.from_array(values, name)


def model(kernel, *, scale=0.5, zero_point=-128, bias=(1.0, -0.3)):
    """`x` on a grid, then a dense layer: `DQ(Q(x)) @ kernel + bias`."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Gemm", ["d", "kernel", "bias"], ["y"], name="dense"),
    ]
    constants = [
        constant("scale", np.float32(scale)),
        constant("zero", np.int8(zero_point)),
        constant("kernel", np.asarray(kernel, np.float32)),
        constant("bias", np.asarray(bias, np.float32)),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def run(made, x):
    made.ir_version = 9
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def constants(made):
    return {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}


def test_the_step_of_a_channel_is_its_largest_weight_over_the_last_integer():
    # Columns on grids of 8 bits with steps 0.01 and 0.5; 127 steps each.
    kernel = np.array([[1.27, 63.5], [-0.02, 0.5], [0.35, -10.5]], np.float32)
    np.testing.assert_allclose(grid_steps(kernel, -1), [[0.01, 0.5]], rtol=1e-6)


def test_the_coarsest_grid_is_found_first():
    # 7 steps of 0.2 on a grid of 4 bits. It lies on the one of 8 bits too coarsely: 0.2 * 127 / 1.4 = 18.14.
    np.testing.assert_allclose(grid_steps(np.array([[1.4], [-0.2], [0.6]], np.float32), -1), [[0.2]], rtol=1e-6)


def test_weights_on_no_grid_and_empty_channels():
    assert grid_steps(np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), -1) is None
    np.testing.assert_array_equal(grid_steps(np.zeros((3, 2), np.float32), -1), [[1, 1]])


@pytest.mark.parametrize(
    ("zero_point", "step"),
    [(-128, 0.5 * 255 / 127), (0, 0.5 * 128 / 127), (127, 0.5 * 255 / 127), (-28, 0.5 * 155 / 127)],
)
def test_a_symmetric_grid_holds_the_larger_end_of_the_range(zero_point, step):
    assert symmetric_step(0.5, zero_point) == pytest.approx(step)


def test_kernels_and_biases_become_integers():
    made = model([[1.27, 63.5], [-0.02, 0.5]])
    assert with_integer_kernels(made, integer_biases=True) == 1
    onnx.checker.check_model(made, full_check=True)
    values = constants(made)
    np.testing.assert_array_equal(values["dense/kernel_integers"], [[127, 127], [-2, 1]])
    # Steps of the input times steps of the kernel: 0.5 * 0.01 and 0.5 * 0.5; so 1.0 is 200 and -0.3 is -1.2.
    np.testing.assert_array_equal(values["dense/bias_integers"], [200, -1])
    np.testing.assert_allclose(values["dense/bias_step"], [0.005, 0.25], rtol=1e-6)
    assert values["dense/bias_integers"].dtype == np.int32
    assert "kernel" not in values


def test_biases_stay_in_float_for_tensorrt():
    made = model([[1.27, 63.5], [-0.02, 0.5]])
    with_symmetric_activations(made)
    assert with_integer_kernels(made, integer_biases=False) == 1
    onnx.checker.check_model(made, full_check=True)
    values = constants(made)
    np.testing.assert_array_equal(values["bias"], np.float32([1.0, -0.3]))
    zeros = {name: value for name, value in values.items() if name.endswith("_zero")}
    assert all((value == 0).all() for value in zeros.values())
    assert values["symmetric_0_step"] == np.float32(0.5 * 255 / 127)


def test_tensors_that_share_a_zero_have_steps_of_their_own():
    made = model([[1.27, 63.5], [-0.02, 0.5]])
    del made.graph.node[2:]
    made.graph.initializer.append(constant("other", np.float32(2.0)))
    made.graph.node.append(helper.make_node("QuantizeLinear", ["d", "other", "zero"], ["q2"]))
    made.graph.node.append(helper.make_node("DequantizeLinear", ["q2", "other", "zero"], ["y"]))
    with_symmetric_activations(made)
    steps = [constants(made)[node.input[1]] for node in made.graph.node]
    np.testing.assert_allclose(steps, np.float32([0.5, 0.5, 2, 2]) * 255 / 127, rtol=1e-6)


def test_a_kernel_on_no_grid_stays_as_it_is():
    kernel = np.float32([[1.0, 1.0], [0.1234, 0.777]])
    made = model(kernel)
    assert with_integer_kernels(made, integer_biases=True) == 0
    np.testing.assert_array_equal(constants(made)["kernel"], kernel)


def test_reshapes_leave_the_middle_of_a_pair():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("Transpose", ["q"], ["t"], perm=[1, 0]),
        helper.make_node("DequantizeLinear", ["t", "scale", "zero"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 2])]
    values = [constant("scale", np.float32(0.5)), constant("zero", np.int8(3))]
    made = helper.make_model(
        helper.make_graph(nodes, "g", ends, outputs, values), opset_imports=[helper.make_opsetid("", 17)]
    )
    x = np.float32([[0.2, 0.8, 1.3], [-4.9, 2.0, 70.0]])
    before = run(made, x)
    with_adjacent_pairs(made)
    onnx.checker.check_model(made, full_check=True)
    assert [node.op_type for node in made.graph.node] == ["Transpose", "QuantizeLinear", "DequantizeLinear"]
    np.testing.assert_array_equal(run(made, x), before)
    np.testing.assert_array_equal(before, np.float32([[0, -5], [1, 2], [1.5, 62]]))
