"""Claim: networks of `keras.applications` have the multiply-accumulates that were published and TensorFlow counts."""

import gc

import keras
import tensorflow as tf
from claims import Claim, publish
from tensorflow.python.framework import ops

from kopt import profile
from kopt.profile.cost.internals import function_graph

# Multiply-accumulates in millions at the default size of the images, with the source. "FLOPs" of these papers and of
# torchvision's table of weights (`GFLOPS`) are multiply-accumulates. MobileNetV3 is taken at 224 x 224.
PUBLISHED: dict[str, tuple[float, str]] = {
    "ConvNeXtTiny": (4460, "torchvision"),
    "ConvNeXtSmall": (8680, "torchvision"),
    "ConvNeXtBase": (15360, "torchvision"),
    "ConvNeXtLarge": (34360, "torchvision"),
    "ConvNeXtXLarge": (60900, "Liu et al. 2022, table 1"),
    "DenseNet121": (2830, "torchvision"),
    "DenseNet169": (3360, "torchvision"),
    "DenseNet201": (4290, "torchvision"),
    "EfficientNetB0": (390, "Tan and Le 2019, table 2; torchvision"),
    "EfficientNetB1": (690, "torchvision"),
    "EfficientNetB2": (1000, "Tan and Le 2019, table 2; torchvision takes larger images"),
    "EfficientNetB3": (1830, "torchvision; in Tan and Le 2019 1800"),
    "EfficientNetB4": (4390, "torchvision; in Tan and Le 2019 4200"),
    "EfficientNetB5": (10270, "torchvision; in Tan and Le 2019 9900"),
    "EfficientNetB6": (19070, "torchvision; in Tan and Le 2019 19000"),
    "EfficientNetB7": (37750, "torchvision; in Tan and Le 2019 37000"),
    "EfficientNetV2B0": (730, "timm, tf_efficientnetv2_b0"),
    "EfficientNetV2B1": (1210, "timm, tf_efficientnetv2_b1"),
    "EfficientNetV2B2": (1720, "timm, tf_efficientnetv2_b2"),
    "EfficientNetV2B3": (3040, "timm, tf_efficientnetv2_b3"),
    "EfficientNetV2S": (8370, "torchvision"),
    "EfficientNetV2M": (24580, "torchvision"),
    "EfficientNetV2L": (56080, "torchvision"),
    "InceptionV3": (5710, "torchvision"),
    "InceptionResNetV2": (13180, "timm, inception_resnet_v2"),
    "MobileNet": (569, "Howard et al. 2017, table 8"),
    "MobileNetV2": (300.8, "Sandler et al. 2018, table 4, says 300; 300.8 by its table 2"),
    "MobileNetV3Large": (219, "Howard et al. 2019, table 3"),
    "MobileNetV3Small": (56, "Howard et al. 2019, table 4"),
    "NASNetLarge": (23800, "Zoph et al. 2018, table 2"),
    "NASNetMobile": (564, "Zoph et al. 2018, table 3"),
    # Strides as in the paper; torchvision's are in the 3 x 3 convolutions, which makes its ResNet-50 4090.
    "ResNet50": (3800, "He et al. 2016, table 1"),
    "ResNet101": (7600, "He et al. 2016, table 1"),
    "ResNet152": (11300, "He et al. 2016, table 1"),
    "VGG16": (15470, "torchvision"),
    "VGG19": (19630, "torchvision"),
    "Xception": (8400, "timm, legacy_xception"),
}
# No number is published for Keras' placing of the strides: ResNet50V2, ResNet101V2, ResNet152V2.


PRODUCTS = ("Conv2D", "DepthwiseConv2dNative", "MatMul")


def names() -> list[str]:
    """Return the constructors of `keras.applications`."""
    return [
        name for name in dir(keras.applications) if name[0].isupper() and callable(getattr(keras.applications, name))
    ]


def build(name: str) -> keras.Model:
    """Return a network with random weights; nothing of the ones before stays in memory."""
    keras.utils.clear_session()
    gc.collect()
    sizes = {"input_shape": (224, 224, 3)} if name.startswith("MobileNetV3") else {}
    return getattr(keras.applications, name)(weights=None, **sizes)


def counted_by_tensorflow(model: keras.Model) -> int:
    """Return the floating-point operations of convolutions and matrix products in the graph of a forward pass.

    By the statistics that `tf.compat.v1.profiler` adds up, which counts two for a multiply-accumulate. They need shapes
    only, so the weights stay out of the graph.
    """
    spec = tf.TensorSpec((1, *model.inputs[0].shape[1:]), "float32")
    pending = [tf.function(lambda x: model(x, training=False)).get_concrete_function(spec).graph]
    total = 0
    while pending:
        graph = pending.pop()
        for node in graph.get_operations():
            if node.type in PRODUCTS:
                total += int(ops.get_stats_for_node_def(graph, node.node_def, "flops").value)
            elif node.type == "StatefulPartitionedCall":
                # Keras compiles convolutions of groups, which ConvNeXt has, as functions of their own.
                pending.append(function_graph(node))
    return total


def main() -> int:
    """Compare every network."""
    numbers: dict[str, object] = {}
    from_published, from_tensorflow, unknown = {}, {}, 0
    for name in names():
        model = build(name)
        costs = profile.model(model)
        unknown += len(costs.unknown)
        counted = counted_by_tensorflow(model)
        from_tensorflow[name] = abs(2 * costs.macs / counted - 1)
        published, source = PUBLISHED.get(name, (None, "none"))
        if published is not None:
            from_published[name] = abs(costs.macs / 1e6 / published - 1)
        numbers[name] = {
            "macs, millions": round(costs.macs / 1e6, 1),
            "published, millions": published,
            "source": source,
            "TensorFlow's flops / 2, millions": round(counted / 2e6, 1),
            "flops, millions": round(costs.flops / 1e6, 1),
            "peak activations, MiB": round((costs.peak_activation_bytes or 0) / 2**20, 1),
        }
    return publish(
        "costs_applications",
        f"{len(numbers)} networks with random weights: multiply-accumulates by kopt's formulas, as published "
        f"({len(from_published)} of them), and by TensorFlow's statistics of the graph.",
        numbers,
        [
            Claim("largest deviation from a published number", max(from_published.values()), 0.02),
            Claim("largest deviation from TensorFlow's count", max(from_tensorflow.values()), 0.001),
            Claim("MobileNetV2: deviation from 2 x 300.8 million", from_published["MobileNetV2"], 0.01),
            Claim("layers without a count", unknown, 0),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
