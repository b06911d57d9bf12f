"""Arithmetic without weights as layers: the parts of larger layers that TFLite computes one after the other."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

# No square is smaller than that, or than what the layer adds to it, of which rounding may have made 0: a reciprocal
# root of 0 and its gradient are infinite.
_LEAST = 1e-12


def _mean(x: Any, setting: Any) -> Any:
    return tf.reduce_mean(x, axis=-1, keepdims=True)


def _subtract(inputs: Any, setting: Any) -> Any:
    return inputs[0] - inputs[1]


def _multiply(inputs: Any, setting: Any) -> Any:
    return inputs[0] * inputs[1]


def _square(x: Any, setting: Any) -> Any:
    return x * x


def _add(x: Any, setting: float) -> Any:
    return x + setting


def _reciprocal_root(x: Any, setting: Any) -> Any:
    return tf.math.rsqrt(tf.maximum(x, _LEAST if setting is None else setting))


def _plain_reciprocal_root(x: Any, setting: Any) -> Any:
    return tf.math.rsqrt(x)


def _einsum(inputs: Any, equation: str) -> Any:
    return tf.einsum(equation, *inputs)


def _sum(inputs: Any, setting: Any) -> Any:
    return inputs[0] + inputs[1]


def _step(x: Any, number: int) -> Any:
    return x[:, number]


def _columns(x: Any, ends: Any) -> Any:
    return x[..., ends[0] : ends[1]]


def _stack(inputs: Any, setting: Any) -> Any:
    return tf.stack(inputs, axis=1)


FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "mean": _mean,
    "subtract": _subtract,
    "multiply": _multiply,
    "square": _square,
    "add": _add,
    "rsqrt": _reciprocal_root,
    "plain_rsqrt": _plain_reciprocal_root,
    "einsum": _einsum,
    "sum": _sum,
    "step": _step,
    "columns": _columns,
    "stack": _stack,
}
# Functions that converters get in the place of others: the integer operator for 1 / sqrt takes 0 by itself.
_FOR_CONVERTER = {"rsqrt": "plain_rsqrt"}


@keras.saving.register_keras_serializable("kopt")
class Operation(keras.layers.Layer):
    """One of `FUNCTIONS`, of a tensor or a list of them."""

    def __init__(self, function: str, setting: Any = None, **settings: Any):
        """Take the name of the function and its setting, numbers or an equation."""
        super().__init__(**{**settings, "dtype": "float32"})
        self.function, self.setting = function, setting
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return the function of `inputs`."""
        return FUNCTIONS[self.function](inputs, self.setting)

    def for_converter(self) -> Any:
        """Return what stands here in a model for a converter."""
        function = _FOR_CONVERTER.get(self.function, self.function)
        return Plain(function, self.setting, name=self.name)

    def get_config(self) -> dict[str, Any]:
        """Return what `__init__` takes."""
        return {**super().get_config(), "function": self.function, "setting": self.setting}


class Plain(keras.layers.Layer):
    """A function in a model for a converter."""

    def __init__(self, function: str, setting: Any, **settings: Any):
        super().__init__(**{**settings, "dtype": "float32"})
        self.supports_masking = True
        self._function, self._setting = function, setting

    def call(self, inputs: Any) -> Any:
        """Return the function of `inputs`."""
        return FUNCTIONS[self._function](inputs, self._setting)

    def get_config(self) -> dict[str, Any]:
        """Return what `__init__` takes."""
        return {**super().get_config(), "function": self._function, "setting": self._setting}
