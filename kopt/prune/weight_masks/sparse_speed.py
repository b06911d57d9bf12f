"""What zeros do for speed, worked out from the model and the machine: which conditions of XNNPACK are not met.

XNNPACK, LiteRT's kernels on processors, computes a part of a network sparsely as a whole or not at all. The part begins
with a 3 x 3 convolution of stride 2 that reads an image of 3 channels, ends with a mean over the positions, and has
only operators that run with the channels in front.

These are the conditions as documented. A network that meets them, its weights stored sparse by the converter's
experimental flag, was timed in LiteRT 2.3 on an x86-64 processor with one thread: with 85 % of zeros it took 0.97 ms
where the dense file took 0.99, with 98 % 0.98 ms where that took 1.12.

Source: "Sparse inference" in the README of TensorFlow Lite's XNNPACK delegate; Elsen et al., "Fast sparse ConvNets",
2020.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from kopt.core.records.actions import LayerAction
from kopt.graph import Call, GraphView
from kopt.graph.internals import graph_of

# Of all weights of the 1 x 1 convolutions together.
LEAST_ZEROS = 2 / 3
# The first with sparse tensor cores: Ampere.
_SPARSE_CORES = (8, 0)

_ACTIVATIONS = ("linear", "relu", "relu6", "elu", "leaky_relu", "sigmoid", "silu", "hard_silu")
# What becomes one of the operators or vanishes: dropout at inference, normalization into the convolution before it.
_FREE = (
    *("BatchNormalization", "Rescaling", "ZeroPadding2D", "GlobalAveragePooling2D", "Dropout", "SpatialDropout2D"),
    *("GaussianNoise", "GaussianDropout", "AlphaDropout", "Identity", "ActivityRegularization", "StochasticDepth"),
    *("ReLU", "LeakyReLU", "ELU", "Relu", "Relu6", "LeakyRelu", "Elu", "Sigmoid", "Silu", "HardSilu"),
    *("Abs", "Absolute", "Ceil", "Floor", "Negative", "Round", "Square"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Placed:
    """A call with its path and the padding, `((top, bottom), (left, right))`, that is put round its input before."""

    path: str
    call: Call
    padding: tuple[tuple[int, int], tuple[int, int]]

    @property
    def kind(self) -> str:
        return type(self.call.operation).__name__


def obstacles(model: keras.Model, zeros: Mapping[str, float]) -> tuple[LayerAction, ...]:
    """Return what keeps XNNPACK from computing a model sparsely, layer by layer; nothing if nothing does.

    Args:
        model: built.
        zeros: share of zeros of the kernels that have some, by path of the layer.
    """
    if graph_of(model) is None:
        return (_of_model(model, "its `call` is Python code, so that its order of layers is not known"),)
    calls = list(_placed(GraphView.of(model), ""))
    start = next((place for place, one in enumerate(calls) if one.kind == "Conv2D"), None)
    ends = [place for place, one in enumerate(calls) if one.kind == "GlobalAveragePooling2D"]
    if start is None:
        return (_of_model(model, "no 2D convolution, with which a sparse part begins"),)
    found = [] if ends else [_of_model(model, "no GlobalAveragePooling2D, with which a sparse part ends")]
    part = calls[start : ends[-1] if ends else None]
    for place, one in enumerate(part):
        reason = _not_a_start(one) if place == 0 else _reason(one)
        if reason:
            found.append(LayerAction(one.path, one.kind, reason))
    share = _share(part, zeros)
    if share < LEAST_ZEROS:
        found.append(
            _of_model(model, f"{share:.1%} of the weights of 1 x 1 convolutions are zero; {LEAST_ZEROS:.1%} have to be")
        )
    return tuple(found)


def speed_note(granularity: str, obstacles: tuple[LayerAction, ...]) -> str:
    """Return what zeros of a granularity do for speed, here."""
    if granularity == "channel":
        return "Zero channels are still computed: `kopt.prune.channels` takes them out of the model."
    if granularity == "n:m":
        return f"N:M zeros make a compressed file smaller. {_sparse_cores()}"
    met = "this model meets its conditions" if not obstacles else f"{len(obstacles)} condition(s) are not met (below)"
    return (
        f"Zeros make a compressed file smaller. `kopt.export.tflite` writes them like other weights, and LiteRT "
        f"multiplies by them. For files with sparse weights XNNPACK has kernels for 1 x 1 convolutions: {met}. On "
        f"x86-64 they were not faster in LiteRT 2.3."
    )


def _sparse_cores() -> str:
    """Return whether a GPU here computes 2:4 sparsity."""
    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    able = [one.get("device_name", "GPU") for one in details if one.get("compute_capability", (0, 0)) >= _SPARSE_CORES]
    if able:
        return f"{able[0]} computes 2:4 faster, through TensorRT; TensorFlow and LiteRT do not."
    return "Nothing on this machine computes 2:4 faster: that takes an NVIDIA GPU since Ampere, and TensorRT."


def _of_model(model: keras.Model, detail: str) -> LayerAction:
    return LayerAction(model.name, "the model", detail)


def _placed(view: GraphView, prefix: str) -> Iterator[_Placed]:
    """Yield all calls in order, those of nested models in place."""
    for call in view.calls:
        path = f"{prefix}{call.operation.name}"
        if call.nested is not None:
            yield from _placed(call.nested, f"{path}/")
            continue
        before = view.producer(call.inputs[0]) if call.inputs else None
        around = before.operation.padding if before and type(before.operation).__name__ == "ZeroPadding2D" else None
        yield _Placed(path, call, _padding(call, around or ((0, 0), (0, 0))))


def _padding(call: Call, around: Any) -> Any:
    """Return the padding of a convolution, its own or that of the layer before it."""
    layer = call.operation
    if getattr(layer, "padding", None) != "same" or not hasattr(layer, "kernel_size"):
        return around
    sizes = call.inputs[0].shape[1:3]
    return tuple(map(_same, sizes, layer.kernel_size, layer.strides))


def _same(size: int | None, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding before and after that `padding="same"` means; with an open size, as for an even one."""
    total = max((kernel - stride) if (size or stride) % stride == 0 else kernel - (size or 0) % stride, 0)
    return total // 2, total - total // 2


def _not_a_start(one: _Placed) -> str:
    """Return why a part cannot begin with this convolution; empty if it can."""
    layer, channels = one.call.operation, one.call.inputs[0].shape[-1]
    if _sizes(layer) != (3, 2, 1) or channels != 3:
        return (
            f"a sparse part begins with a 3 x 3 convolution of stride 2 on 3 channels; this is "
            f"{_words(layer)} on {channels}"
        )
    return _uneven(one, 1) or _fused(layer)


def _reason(one: _Placed) -> str:
    """Return why a call cannot be inside of a sparse part; empty if it can."""
    rule = _RULES.get(one.kind)
    if rule is not None:
        return rule(one)
    return "" if one.kind in _FREE else "XNNPACK has no sparse form of it"


def _pointwise(one: _Placed) -> str:
    layer = one.call.operation
    if _sizes(layer) != (1, 1, 1) or layer.groups != 1:
        return f"{_words(layer)}: only 1 x 1 of stride 1 is computed sparsely"
    return _fused(layer)


def _depthwise(one: _Placed) -> str:
    layer = one.call.operation
    kernel, stride, dilation = _sizes(layer)
    if kernel not in (3, 5) or stride not in (1, 2) or dilation != 1 or layer.depth_multiplier != 1:
        return f"{_words(layer)}: depthwise ones are 3 x 3 or 5 x 5 of stride 1 or 2, with a multiplier of 1"
    return _uneven(one, kernel // 2) or _fused(layer)


def _merge(one: _Placed) -> str:
    flat = [tensor for tensor in one.call.inputs if len(tensor.shape) != 4]
    return "it takes tensors that are no images" if flat else ""


def _activation(one: _Placed) -> str:
    return _fused(one.call.operation)


def _resize(one: _Placed) -> str:
    return "" if one.call.operation.interpolation == "bilinear" else "only bilinear resizing is computed sparsely"


_RULES: dict[str, Callable[[_Placed], str]] = {
    "Conv2D": _pointwise,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _depthwise,
    "Add": _merge,
    "Multiply": _merge,
    "Activation": _activation,
    "UpSampling2D": _resize,
}


def _uneven(one: _Placed, wanted: int) -> str:
    """Return why a padding will not do; empty if it is `wanted` on each side."""
    if one.padding == ((wanted, wanted), (wanted, wanted)):
        return ""
    (top, bottom), (left, right) = one.padding
    return f"padded by {top}, {bottom}, {left}, {right} (top, bottom, left, right), not by {wanted} on each side"


def _fused(layer: Any) -> str:
    name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
    return "" if name in _ACTIVATIONS else f"the activation {name!r} has no sparse form"


def _sizes(layer: Any) -> tuple[int, int, int]:
    """Return kernel, stride and dilation; 0 where the two axes differ."""
    pairs = (layer.kernel_size, layer.strides, layer.dilation_rate)
    kernel, stride, dilation = (a if a == b else 0 for a, b in pairs)
    return kernel, stride, dilation


def _words(layer: Any) -> str:
    (height, width), stride = layer.kernel_size, max(layer.strides)
    groups = f", {layer.groups} groups" if getattr(layer, "groups", 1) != 1 else ""
    dilated = f", dilated by {max(layer.dilation_rate)}" if max(layer.dilation_rate) > 1 else ""
    return f"{height} x {width} of stride {stride}{dilated}{groups}"


def _share(part: list[_Placed], zeros: Mapping[str, float]) -> float:
    """Return the share of zeros among the weights of the 1 x 1 convolutions."""
    kernels = {one.path: one.call.operation.kernel for one in part[1:] if one.kind == "Conv2D" and not _pointwise(one)}
    sizes = {path: int(keras.ops.size(kernel)) for path, kernel in kernels.items()}
    total = sum(sizes.values())
    return sum(size * zeros.get(path, 0.0) for path, size in sizes.items()) / total if total else 0.0
