"""Which layers are perturbed, in which variables, and how an exporter would quantize those."""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kopt.core.records.profiles.sensitivity import Perturbation
from kopt.graph import OwnedVariable, owned_variables
from kopt.profile.layer_sensitivity.perturbations import Granularity, perturb

# Variables of two and more axes that shift, scale or describe data: biases of attention and GRU layers, for example.
_NO_KERNELS = frozenset(
    ("bias", "gamma", "beta", "alpha", "scale", "mean", "variance", "moving_mean", "moving_variance")
)
_L = keras.layers
_TRANSPOSED = (_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose)
_DEPTHWISE = (_L.DepthwiseConv1D, _L.DepthwiseConv2D)


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """A variable that is perturbed.

    Attributes:
        path: as `owned_variables` names it.
        variable: `keras.Variable`.
        granularity: with which it is quantized.
    """

    path: str
    variable: Any
    granularity: Granularity

    def value(self) -> np.ndarray:
        """Return its value, float32 or what it is stored in."""
        return np.asarray(self.variable.numpy())

    def perturbed(self, perturbations: Sequence[Perturbation], seed: int) -> np.ndarray:
        """Return its value after perturbations, one after the other; noise depends on the seed and the path alone."""
        value = self.value()
        for perturbation in perturbations:
            value = perturb(value, perturbation, self.granularity, [seed, zlib.crc32(self.path.encode())])
        return value


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A layer with the kernels that it holds itself."""

    path: str
    layer: keras.layers.Layer
    kernels: tuple[Kernel, ...]

    @property
    def parameters(self) -> int:
        """Weights in its kernels."""
        return sum(int(np.prod(kernel.variable.shape)) for kernel in self.kernels)

    def perturbed(self, perturbation: Perturbation, seed: int) -> list[np.ndarray]:
        """Return the perturbed value of every kernel."""
        return [kernel.perturbed((perturbation,), seed) for kernel in self.kernels]


def targets_of(model: keras.Model) -> tuple[list[Target], dict[str, str]]:
    """Return the layers to perturb, and those left out with the reason, by path.

    A kernel is a floating-point variable of two or more axes that is no bias, scale or statistic.
    """
    held: dict[str, list[OwnedVariable]] = {}
    for owned in owned_variables(model):
        held.setdefault(owned.layer_path, []).append(owned)
    targets, skipped = [], {}
    for path, variables in held.items():
        layer = variables[0].layer
        kernels = [
            Kernel(one.path, one.variable, granularity_of(layer, one.variable)) for one in variables if _is_kernel(one)
        ]
        if kernels:
            targets.append(Target(path, layer, tuple(kernels)))
        else:
            skipped[path] = _reason(layer, variables)
    return targets, skipped


def granularity_of(layer: keras.layers.Layer, variable: Any) -> Granularity:
    """Return which weights share a scale in an exported TFLite file.

    Output channels have scales of their own in convolutions and dense layers; an embedding has one scale, an LSTM one
    for every gate. A layer that is not known is taken to have its output channels last.
    """
    if isinstance(layer, _L.Embedding):
        return Granularity()
    if isinstance(layer, (_L.LSTMCell, _L.GRUCell)):
        return Granularity(gates=4 if isinstance(layer, _L.LSTMCell) else 3)
    if isinstance(layer, _L.SimpleRNNCell):
        return Granularity()
    if isinstance(layer, _TRANSPOSED):
        return Granularity((-2,))
    if isinstance(layer, _DEPTHWISE) or variable.name == "depthwise_kernel":
        return Granularity((-2, -1))
    if isinstance(layer, _L.EinsumDense):
        inputs, result = layer.equation.replace(" ", "").split("->")
        kernel = inputs.split(",")[1]
        return Granularity(tuple(axis for axis, letter in enumerate(kernel) if letter in result))
    return Granularity((-1,))


def _is_kernel(owned: OwnedVariable) -> bool:
    variable = owned.variable
    return _is_floating(variable) and len(variable.shape) >= 2 and variable.name not in _NO_KERNELS


def _is_floating(variable: Any) -> bool:
    return keras.backend.is_float_dtype(str(variable.dtype))


def _reason(layer: keras.layers.Layer, variables: list[OwnedVariable]) -> str:
    if any(len(one.variable.shape) >= 2 and not _is_floating(one.variable) for one in variables):
        dtypes = sorted({str(one.variable.dtype) for one in variables if not _is_floating(one.variable)})
        return f"its weights are {', '.join(dtypes)} already"
    if isinstance(layer, keras.layers.BatchNormalization):
        return "no kernel: exporters fold its scales and statistics into the layer before"
    names = ", ".join(one.variable.name for one in variables)
    return f"no kernel among its variables ({names})"
