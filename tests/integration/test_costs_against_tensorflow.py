"""Costs against TensorFlow's own profiler of graphs, and against published numbers."""

import keras
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from kopt import profile

pytestmark = pytest.mark.slow

# Multiply-accumulates in millions, as published. Sandler et al. 2018, table 4; He et al. 2016, table 1 (their FLOPs are
# multiply-adds; Keras has their strides, in the first convolution of a block); Huang et al. 2017 as counted by
# torchvision; Tan and Le 2019, table 2; Liu et al. 2022 as counted by torchvision. The whole of `keras.applications` is
# in `benchmarks/costs_applications.py`.
PUBLISHED = {
    "MobileNetV2": 300.8,
    "ResNet50": 3800.0,
    "DenseNet121": 2834.0,
    "EfficientNetB0": 390.0,
    "ConvNeXtTiny": 4460.0,
}


def build(name):
    keras.utils.clear_session()
    sizes = {"input_shape": (224, 224, 3)} if name.startswith("MobileNetV3") else {}
    return getattr(keras.applications, name)(weights=None, **sizes)


def tensorflow_graph(model):
    spec = tf.TensorSpec((1, *model.inputs[0].shape[1:]), "float32")
    concrete = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    return convert_variables_to_constants_v2(concrete, lower_control_flow=False).graph


def products(graph):
    """Return the operations of convolutions and matrix products, by the statistics that TensorFlow's profiler reads."""
    kinds = ("Conv2D", "DepthwiseConv2dNative", "MatMul")
    nodes = [node for node in graph.get_operations() if node.type in kinds]
    return sum(int(ops.get_stats_for_node_def(graph, node.node_def, "flops").value) for node in nodes)


def everything(graph):
    """Return what TensorFlow's profiler counts in all: products, additions, normalization, pooling."""
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    with graph.as_default():
        counted = tf.compat.v1.profiler.profile(graph, options={**options, "output": "none"})
    return counted.total_float_ops


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_multiply_accumulates(name):
    # 2 %: what is published is rounded to two or three digits.
    assert profile.model(build(name)).macs / 1e6 == pytest.approx(PUBLISHED[name], rel=0.02)


@pytest.mark.parametrize("name", ["MobileNetV3Small", "ResNet50", "Xception"])
def test_tensorflow_counts_the_same(name):
    model = build(name)
    costs, graph = profile.model(model), tensorflow_graph(model)
    assert products(graph) == pytest.approx(2 * costs.macs, rel=1e-4)
    # Activations are kopt's alone, constants that normalization works out anew are TensorFlow's alone.
    assert everything(graph) == pytest.approx(costs.flops, rel=0.03)


def test_mobilenet_within_a_percent():
    model = build("MobileNetV2")
    assert 2 * profile.model(model).macs == pytest.approx(2 * 300.8e6, rel=0.001)
    assert products(tensorflow_graph(model)) == pytest.approx(2 * 300.8e6, rel=0.001)
