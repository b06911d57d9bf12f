"""Keras' linear layers, by how their weights lie."""

import keras

L = keras.layers

# What a layer's weights are like; all have a "bias" besides, or none.
CONV = "conv"  # "kernel" (*size, inputs of a group, outputs)
DEPTHWISE = "depthwise"  # "kernel" (*size, inputs, outputs of an input)
SEPARABLE = "separable"  # "depthwise_kernel" as above and "pointwise_kernel" (1.., inputs, outputs)
TRANSPOSE = "transpose"  # "kernel" (*size, outputs, inputs)
DENSE = "dense"  # "kernel" (inputs, outputs)

# Exactly these classes: a subclass may compute something else.
KINDS: dict[type, str] = {
    L.Conv1D: CONV,
    L.Conv2D: CONV,
    L.Conv3D: CONV,
    L.DepthwiseConv1D: DEPTHWISE,
    L.DepthwiseConv2D: DEPTHWISE,
    L.SeparableConv1D: SEPARABLE,
    L.SeparableConv2D: SEPARABLE,
    L.Conv1DTranspose: TRANSPOSE,
    L.Conv2DTranspose: TRANSPOSE,
    L.Conv3DTranspose: TRANSPOSE,
    L.Dense: DENSE,
}


def kernel_names(kind: str) -> tuple[str, ...]:
    """Return the attributes that hold the kernels of a layer of this kind."""
    return ("depthwise_kernel", "pointwise_kernel") if kind == SEPARABLE else ("kernel",)


def altered(layer: keras.layers.Layer) -> str:
    """Return why the kernel of a linear layer is not what it computes with; empty if it is."""
    if getattr(layer, "quantization_mode", None):
        return "it is quantized"
    return "it has LoRA weights" if getattr(layer, "lora_enabled", False) else ""
