"""Layers whose weights are rounded as TFLite rounds them, with the normalization behind them folded in."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import UnsupportedModelError
from kopt.graph.internals import mask_of
from kopt.quantize import grids, modes
from kopt.quantize.kernels import KERNELS, kind_of
from kopt.quantize.preserved import CODEBOOKS, Preserved


@keras.saving.register_keras_serializable("kopt")
class QuantizedWeights(keras.layers.Layer):
    """A layer with a kernel, and the BatchNormalization behind it, computed with rounded weights.

    Inference, and training once the statistics are frozen, folds the normalization into kernel and bias and rounds what
    comes out. Training before that normalizes with the statistics of the batch: the kernel is rounded as it is. That is
    the same, because every output channel has a grid of its own: a channel times a number is on its grid times that
    number. So one convolution is enough where folding with batch statistics would take two.
    """

    def __init__(
        self,
        layer: Any,
        norm: Any = None,
        bits: int = 8,
        compute_dtype: str = "float32",
        freeze_norm: int | None = None,
        preserved: str = "",
        factor: float = 1.0,
        passes_mask: bool = True,
        **settings: Any,
    ):
        """Take the parts.

        Args:
            layer: with a row in `kernels`, without activation; or its config.
            norm: BatchNormalization or its config; `None` if there is none.
            bits: of a weight.
            compute_dtype: in which the kernel is applied; everything else is in float32.
            freeze_norm: batches after which the normalization uses its moving statistics in training, too; `None`:
                never.
            preserved: what updates of the kernel leave as it is, see `kopt.quantize.preserved.what_to_keep`.
            factor: by which the output is multiplied, as part of the kernel.
            passes_mask: whether a mask of the input is one of the output; convolutions of Keras drop it.
            settings: see `keras.layers.Layer`.
        """
        super().__init__(**{**settings, "dtype": "float32"})
        self.factor = factor
        self.layer, self.norm = (_layer(part) for part in (layer, norm))
        self.bits, self.precision, self.freeze_norm, self.preserved = bits, compute_dtype, freeze_norm, preserved
        self.layer.name = self.name  # that of the plain layer which converters get
        self.kind = kind_of(self.layer) or _no_row(self.layer)
        self.passes_mask, self.supports_masking = passes_mask, True

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Return the mask of the output, as the layer in its place did."""
        return previous_mask if self.passes_mask else None

    def build(self, input_shape: Any) -> None:
        """Build the parts."""
        if not self.layer.built:
            self.layer.build(input_shape)
        if self.norm is not None and not self.norm.built:
            self.norm.build(self.layer.compute_output_shape(input_shape))
        if self.preserved:
            self.record = Preserved(self.layer.kernel, self.preserved)
        if self.freeze_norm is not None:
            self.seen = self.add_weight(
                name="seen", shape=(), dtype="int64", trainable=False, aggregation="only_first_replica"
            )
        self.built = True

    def call(self, inputs: Any, step: Any = None, training: bool | None = None) -> Any:
        """Return the output before its activation.

        Args:
            inputs: on a grid.
            step: of that grid, for the grid of the bias; `None` leaves the bias as it is.
            training: see `keras.layers.Layer`.
        """
        if self.norm is not None and training and self.norm.trainable:
            return self._normalized(inputs)
        return self.apply(inputs, *self.rounded_weights(step))

    def exact_weights(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Return kernel and bias as they are applied, the normalization in them, not rounded."""
        return self._folded()

    def rounded_weights(self, step: Any, bits: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Return kernel and bias as they are applied, rounded.

        Args:
            step: of the grid of the input, for the grid of the bias; `None` leaves the bias as it is.
            bits: of a weight, a number or a tensor; `None` for those of the layer.
        """
        kernel, bias = self._folded()
        if modes.floats():
            return kernel, bias
        steps = grids.kernel_steps(kernel, self.channels, self.bits if bits is None else bits)
        if step is not None:
            bias = grids.quantize_bias(bias, tf.stop_gradient(step) * tf.reshape(steps, bias.shape))
        return grids.quantize_kernel(kernel, steps), bias

    def apply(self, inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """Return what the layer computes with these weights."""
        return self.product(inputs, kernel, self.precision) + bias

    def product(self, inputs: Any, kernel: Any, dtype: str = "float32") -> tf.Tensor:
        """Return what the layer computes of inputs and a kernel in this type, without bias, as float32."""
        outputs = self.kind.apply(self.layer, tf.cast(inputs, dtype), tf.cast(kernel, dtype))
        return tf.cast(outputs, tf.float32)

    def compute_output_spec(self, inputs: Any, step: Any = None, training: bool | None = None) -> Any:
        """Return the spec of the output."""
        if isinstance(self.layer, keras.layers.EinsumDense):  # It says `None` where its settings do.
            kernel = keras.KerasTensor(self.layer.kernel.shape)
            shape = keras.ops.einsum(self.layer.equation, keras.KerasTensor(inputs.shape), kernel).shape
        else:
            shape = self.layer.compute_output_shape(inputs.shape)
        return keras.KerasTensor(shape, "float32")

    def for_converter(self) -> Any:
        """Return what stands here in a model for a converter: a plain layer with the rounded weights."""
        made: dict[tuple[int | None, ...], Any] = {}

        def plain(inputs: Any, step: Any = None) -> Any:
            shape = tuple(inputs.shape[1:])  # which differs where a layer is shared
            if shape not in made:
                kernel, bias = self._folded()
                kernel = grids.quantize_kernel(kernel, grids.kernel_steps(kernel, self.channels, self.bits))
                twin: Any = self.kind.twin(self.layer, inputs.shape, np.asarray(kernel), _varied(np.asarray(bias)))
                if made:
                    twin.name = f"{twin.name}_{len(made)}"
                made[shape] = twin
            drops = not self.passes_mask and mask_of(inputs) is not None
            return made[shape](_WithoutMask()(inputs) if drops else inputs)

        return plain

    def fold(self, norm: Any, factor: float) -> None:
        """Put a normalization and a factor into kernel and bias for good.

        Args:
            norm: a built BatchNormalization; `None`: there is none.
            factor: by which the output is multiplied.
        """
        kernel, bias = self._with_norm(norm, factor)
        self.layer.kernel.assign(kernel)
        self.layer.bias.assign(bias)

    def get_config(self) -> dict[str, Any]:
        """Return what `__init__` takes."""
        own = {
            "layer": keras.saving.serialize_keras_object(self.layer),
            "norm": None if self.norm is None else keras.saving.serialize_keras_object(self.norm),
            "bits": self.bits,
            "compute_dtype": self.precision,
            "freeze_norm": self.freeze_norm,
            "preserved": self.preserved,
            "factor": self.factor,
            "passes_mask": self.passes_mask,
        }
        return {**super().get_config(), **own}

    @property
    def kernel_bits(self) -> int:
        """Bits in which a file stores a weight."""
        return self.bits

    @property
    def has_codebooks(self) -> bool:
        """Whether weights are one value, and have to stay so."""
        return self.preserved in CODEBOOKS

    @property
    def channels(self) -> tuple[int, ...]:
        """The axes of the kernel that number the output channels."""
        return self.kind.channels(self.layer, len(self.layer.kernel.shape))

    def _normalized(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the output under batch statistics, and move the moving ones."""
        norm, kernel = self.norm, tf.convert_to_tensor(self.layer.kernel.value)
        rounded = grids.quantize_kernel(kernel, grids.kernel_steps(kernel, self.channels, self.bits))
        outputs = self.product(inputs, rounded, self.precision)
        if self.layer.bias is not None:
            outputs += self.layer.bias
        mean, variance = tf.nn.moments(outputs, list(range(len(outputs.shape) - 1)))
        frozen = False
        if self.freeze_norm is not None:
            frozen = self.seen >= self.freeze_norm
            self.seen.assign_add(1)
        mean = self._moved(norm.moving_mean, mean, frozen)
        variance = self._moved(norm.moving_variance, variance, frozen)
        return tf.nn.batch_normalization(outputs, mean, variance, norm.beta, norm.gamma, norm.epsilon)

    def _moved(self, moving: Any, value: tf.Tensor, frozen: Any) -> tf.Tensor:
        """Move a statistic towards that of the batch and return the one to normalize with; the moving if `frozen`."""
        old = tf.convert_to_tensor(moving.value)
        new = old * self.norm.momentum + tf.stop_gradient(value) * (1.0 - self.norm.momentum)
        moving.assign(tf.where(frozen, old, new))
        return tf.where(frozen, old, value)

    def _folded(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Return kernel and bias with the normalization in them."""
        return self._with_norm(self.norm, self.factor)

    def _with_norm(self, norm: Any, factor: float) -> tuple[tf.Tensor, tf.Tensor]:
        kernel = tf.convert_to_tensor(self.layer.kernel.value)
        channels = [kernel.shape[axis] for axis in self.channels]
        bias = self._bias(channels)
        if norm is None:
            return kernel * factor, bias * factor
        scale = tf.math.rsqrt(_float32(norm.moving_variance) + norm.epsilon)
        scale = scale if norm.gamma is None else scale * _float32(norm.gamma)
        bias = (bias - _float32(norm.moving_mean)) * scale
        bias = bias if norm.beta is None else bias + _float32(norm.beta)
        shape = [size if axis in self.channels else 1 for axis, size in enumerate(kernel.shape)]
        return kernel * tf.reshape(scale, shape), bias

    def _bias(self, channels: list[int]) -> tf.Tensor:
        is_einsum = isinstance(self.layer, keras.layers.EinsumDense)
        shape = channels if is_einsum else [int(np.prod(channels))]
        return tf.zeros(shape) if self.layer.bias is None else tf.broadcast_to(self.layer.bias.value, shape)


def _float32(variable: Any) -> tf.Tensor:
    return tf.cast(variable.value, tf.float32)


class _WithoutMask(keras.layers.Layer):
    """Gives what comes in, without its mask."""

    def __init__(self) -> None:
        super().__init__(dtype="float32")
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        return tf.identity(inputs)  # the mask is an attribute of the tensor

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        return None


def _layer(part: Any) -> Any:
    return keras.saving.deserialize_keras_object(part) if isinstance(part, dict) else part


def _no_row(layer: Any) -> Any:
    raise UnsupportedModelError(
        f"Layer {layer.name!r} ({type(layer).__module__}.{type(layer).__qualname__}) has no kernel that is known. "
        f"Layers that have one: {', '.join(sorted(kind.__name__ for kind in KERNELS))}."
    )


def _varied(bias: np.ndarray) -> np.ndarray:
    """Return a bias of which one number is the next float32, if all are alike.

    The converter keeps equal numbers as one, and gives it the step of the first channel for all.
    """
    first = bias.flat[0] if bias.size else 0
    if bias.size < 2 or not first or np.any(bias != first):
        return bias
    varied = bias.copy()
    varied.flat[-1] = np.nextafter(first, np.float32(0))
    return varied
