"""Where channels can be scaled between layers: a kernel, what passes positive numbers on, and all kernels behind it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from kopt.graph import Call, GraphView
from kopt.quantize.affine import Affine
from kopt.quantize.preserved import VALUES
from kopt.quantize.ranges import Quantizer
from kopt.quantize.rules import activation_of
from kopt.quantize.weights import QuantizedWeights

L = keras.layers
# Layers that move, repeat, pick or average values of one channel.
_PASSING = (
    *(L.MaxPooling1D, L.MaxPooling2D, L.AveragePooling1D, L.AveragePooling2D, L.Flatten, L.Identity, L.Dropout),
    *(L.GlobalMaxPooling1D, L.GlobalMaxPooling2D, L.GlobalAveragePooling1D, L.GlobalAveragePooling2D),
    *(L.SpatialDropout1D, L.SpatialDropout2D, L.UpSampling1D, L.UpSampling2D, L.Cropping1D, L.Cropping2D, L.LeakyReLU),
)
_PADDING = (L.ZeroPadding1D, L.ZeroPadding2D)
CAP = 6.0


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """Channels between a kernel and the kernels that take them.

    Attributes:
        first: makes the channels, along the last axis of its output.
        behind: take them; where there is a Flatten between, each channel several times.
        caps: whether a ReLU6 stands between.
        rectified: nothing but one ReLU, and what also passes sums on, stands between, and nothing pads with zeros: a
            number that every value of a channel exceeds can go from the bias of one kernel to those of the others.
    """

    first: QuantizedWeights
    behind: tuple[QuantizedWeights, ...]
    caps: bool
    rectified: bool

    @property
    def width(self) -> int:
        """How many channels there are."""
        return int(keras.ops.size(self.first.layer.bias))


@dataclasses.dataclass
class _Walk:
    behind: list[QuantizedWeights]
    caps: bool = False
    rectified: int = 0
    padded: bool = False


def scaling_sites(view: GraphView) -> tuple[list[Site], dict[str, str]]:
    """Return the sites of a quantized model in order, and why other kernels are none, by the name of the layer."""
    sites, reasons = [], {}
    for call in view.calls:
        if not isinstance(call.operation, QuantizedWeights):
            continue
        walk = _Walk([])
        reason = _unfit_first(view, call) or _follow(view, call.outputs[0], walk)
        if reason:
            reasons[call.operation.name] = reason
        else:
            padded = walk.padded or any(map(_pads, walk.behind))
            rectified = walk.rectified == 1 and not walk.caps and not padded
            sites.append(Site(call.operation, tuple(walk.behind), walk.caps, rectified))
    return sites, reasons


def _unfit_first(view: GraphView, call: Call) -> str:
    layer = call.operation.layer
    if layer.bias is None or isinstance(layer, L.EinsumDense):
        return "its outputs have several axes of channels" if layer.bias is not None else "it has no bias"
    if call.operation.preserved == VALUES:
        return "its weights share values, which scales would part"
    return "it is called several times" if len(view.calls_of(call.operation)) > 1 else ""


def _follow(view: GraphView, tensor: Any, walk: _Walk) -> str:
    """Note what takes a tensor, and return why it cannot be scaled; empty if it can."""
    if any(tensor is output for output in view.outputs):
        return "it gives an output of the model"
    for call in view.consumers(tensor):
        operation = call.operation
        if isinstance(operation, QuantizedWeights):
            reason = _unfit_behind(view, operation)
            walk.behind.append(operation)
        elif isinstance(operation, Quantizer) or _passes(operation, walk):
            reason = _follow(view, call.outputs[0], walk)
        else:
            reason = f"{operation.name} ({type(operation).__name__}) behind it does not pass scaled channels on"
        if reason:
            return reason
    return ""


def _passes(operation: Any, walk: _Walk) -> bool:
    function = activation_of(operation)
    if function is keras.activations.linear:
        return True
    if function in (keras.activations.relu, keras.activations.relu6):
        walk.rectified += 1
        walk.caps = walk.caps or function is keras.activations.relu6
        return True
    if isinstance(operation, _PADDING):
        walk.padded = True
        return True
    if isinstance(operation, L.LeakyReLU):
        walk.rectified += 2
        return True
    if isinstance(operation, L.UpSampling2D) and operation.interpolation != "nearest":
        return False
    return type(operation) in _PASSING


def _unfit_behind(view: GraphView, operation: QuantizedWeights) -> str:
    name = operation.name
    if operation.layer.bias is None or operation.kind.inputs(operation.layer) is None:
        return f"{name} behind it takes several axes of channels"
    if operation.has_codebooks:
        return f"weights of {name} behind it share values, which scales would part"
    return f"{name} behind it is called several times" if len(view.calls_of(operation)) > 1 else ""


def _pads(operation: QuantizedWeights) -> bool:
    layer = operation.layer
    sizes: Sequence[int] = getattr(layer, "kernel_size", ())
    transposed = isinstance(layer, L.Conv2DTranspose)
    return transposed or (max(sizes, default=1) > 1 and layer.padding != "valid" and not isinstance(layer, Affine))
