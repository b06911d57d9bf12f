"""Activations as TFLite computes them: which are part of the operator before them, and what grid the others write."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kopt.graph.activation_functions import keras_activation
from kopt.quantize import grids, modes

A = keras.activations


@dataclasses.dataclass(frozen=True)
class Ending:
    """How an activation ends an operator.

    Attributes:
        fuses: it is part of the operator before it: nothing is rounded between the two.
        range: ends of the grid that TFLite fixes for its output; `None`: the range is observed.
        computed: how it is computed in integers, if not as one operator.
        unfit: why it is not computed in integers; empty if it is.
    """

    fuses: bool = False
    range: tuple[float, float] | None = None
    computed: str = ""
    unfit: str = ""


def _unit_range(bits: int) -> tuple[float, float]:
    return (0.0, 255 / 256) if bits == 8 else (-32767 / 32768, 32767 / 32768)


def _symmetric_range(bits: int) -> tuple[float, float]:
    return (-1.0, 127 / 128) if bits == 8 else (-32767 / 32768, 32767 / 32768)


_NOT_OF_16 = "the TFLite converter has no such activation of 16 bits"
_ENDINGS: dict[Any, Callable[[int], Ending]] = {
    A.relu: lambda bits: Ending(fuses=True),
    A.relu6: lambda bits: Ending(fuses=True),
    A.sigmoid: lambda bits: Ending(range=_unit_range(bits)),
    A.softmax: lambda bits: Ending(range=_unit_range(bits)),
    A.tanh: lambda bits: Ending(range=_symmetric_range(bits)),
    A.silu: lambda bits: Ending(computed="silu"),
    A.hard_sigmoid: lambda bits: Ending(computed="hard_sigmoid") if bits == 8 else Ending(unfit=_NOT_OF_16),
    A.hard_silu: lambda bits: Ending() if bits == 8 else Ending(unfit=_NOT_OF_16),
    A.gelu: lambda bits: Ending() if bits == 8 else Ending(unfit=_NOT_OF_16),
    A.leaky_relu: lambda bits: Ending(),
    A.elu: lambda bits: Ending(unfit="TFLite has no integer ELU"),
    A.selu: lambda bits: Ending(unfit="TFLite has no integer SELU"),
}


def ending_of(activation: Any, bits: int) -> Ending:
    """Return how an activation is computed; of one that is not known only the output is rounded."""
    known = _ENDINGS.get(keras_activation(activation))
    name = getattr(activation, "__name__", type(activation).__name__)
    return Ending(unfit=f"its activation {name!r} has no integer operator") if known is None else known(bits)


@keras.saving.register_keras_serializable("kopt")
class Composite(keras.layers.Layer):
    """An activation of several TFLite operators, with what lies between them rounded as they round it."""

    def __init__(self, function: str, bits: int = 8, **settings: Any):
        """Take `"silu"` or `"hard_sigmoid"`, and the bits of a number."""
        super().__init__(**{**settings, "dtype": "float32"})
        self.function, self.bits = function, bits
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return the activation of `inputs`; its own output is not rounded."""
        if self.function == "silu":
            return inputs * self._rounded(tf.sigmoid(inputs), *_unit_range(self.bits))
        return self._rounded(tf.nn.relu6(inputs + 3.0), 0.0, 6.0) * (1.0 / 6.0)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Return the spec of the output."""
        return keras.KerasTensor(inputs.shape, "float32")

    def get_config(self) -> dict[str, Any]:
        """Return what `__init__` takes."""
        return {**super().get_config(), "function": self.function, "bits": self.bits}

    def _rounded(self, x: tf.Tensor, low: float, high: float) -> tf.Tensor:
        if modes.floats():
            return x
        grid = grids.grid_of(low, high, self.bits)
        return tf.quantization.fake_quant_with_min_max_args(
            x, grid.low, grid.high, num_bits=self.bits, narrow_range=self.bits != 8
        )
