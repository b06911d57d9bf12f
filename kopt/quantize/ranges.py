"""Quantizers of activations: layers that follow the range of what passes through them and round it to that range."""

from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import InputError
from kopt.core.records.changes.aware_training import RangeRule
from kopt.quantize import grids, modes

# A percentile is taken of so many entries at most, evenly spread over the batch: sorting all would cost more than the
# convolution before it.
_SORTED = 1 << 14


@keras.saving.register_keras_serializable("kopt")
class Quantizer(keras.layers.Layer):
    """Rounds tensors to one grid of 256 (or 65,535) values, whose range it learns from them.

    It is called once for every tensor that has the range: tensors that are concatenated share one, and the range holds
    them all. Before it has seen anything it passes tensors on.

    Attributes:
        calibrates: it follows ranges outside training, too, as all do inside `modes.observing`; for an export that has
            examples.
    """

    calibrates = False

    def __init__(self, rule: RangeRule | str, bits: int = 8, sites: int = 1, **settings: Any):
        """Take the way in which ranges are found.

        Args:
            rule: a record or its JSON.
            bits: 8 or 16.
            sites: how many tensors are observed, each with a range of its own of which this takes the union.
            settings: see `keras.layers.Layer`.
        """
        super().__init__(**{**settings, "dtype": "float32"})
        self.rule = RangeRule.from_json(rule) if isinstance(rule, str) else rule
        self.bits, self.sites = bits, sites
        self.hold: _Hold | None = None
        self.supports_masking = True

    def build(self, input_shape: Any = None) -> None:
        """Create one range and one count of batches for each site.

        The count is of batches of training; below 0, of batches of calibration without training since.
        """
        learned = self.rule.kind == "learned"
        self.ranges = self.add_weight(
            name="ranges",
            shape=(self.sites, 2),
            initializer="zeros",
            trainable=learned,
            aggregation="mean",
            autocast=False,
        )
        self.seen = self.add_weight(
            name="seen",
            shape=(self.sites,),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )
        if learned and self.rule.freeze is not None:
            self.hold = self.ranges.constraint = _Hold(self.seen, self.rule.freeze)
        self.built = True

    @property
    def is_ready(self) -> bool:
        """Whether anything has passed through."""
        return bool(self.seen.numpy().any())

    @property
    def grid(self) -> grids.Grid:
        """The grid of the range as it is now.

        Raises:
            InputError: nothing has passed through, so that there is no range.
        """
        if not self.is_ready:
            raise InputError(
                f"The quantizer {self.name!r} has no range yet: nothing has passed through it in training. Train the "
                f"model (one step of `fit` is enough), or give examples as `calibration` to `kopt.quantize.aware` or "
                f"`kopt.export.tflite`."
            )
        low, high = (float(value) for value in self._range())
        return grids.grid_of(low, high, self.bits)

    def call(
        self, inputs: Any, site: int = -1, ties: str = "", positive: bool = False, training: bool | None = None
    ) -> tuple[Any, Any]:
        """Return the rounded tensor and the step of its grid.

        Args:
            inputs: any shape.
            site: whose range is observed in training; -1: none.
            ties: how means of values on the grid are rounded, see `grids.quantize_means`; empty for other tensors.
            positive: nothing in the tensor is below 0, as behind a ReLU.
            training: see `keras.layers.Layer`.
        """
        if modes.floats():
            return inputs, tf.ones(())
        if site >= 0 and (self._is_calibrating or (training and self.rule.kind != "learned")):
            self._observe(inputs, site, positive)
        elif site >= 0 and training:
            self._count(site)
        low, high = self._range()
        rounded = self._round(inputs, low, high, ties)
        active = self._active(bool(training))
        if active is not None:
            rounded = tf.where(active, rounded, inputs)
        return rounded, grids.step_of(low, high, self.bits)

    def compute_output_spec(self, inputs: Any, **settings: Any) -> Any:
        """Return the specs of the tensor and of the step."""
        return keras.KerasTensor(inputs.shape, "float32"), keras.KerasTensor((), "float32")

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Pass the mask of the tensor on."""
        return mask, None

    def for_converter(self) -> Any:
        """Return what stands here in a model for a converter: the same grid, fixed."""
        grid = self.grid
        fixed = FixedQuantizer(grid.low, grid.high, self.bits, name=self.name)
        return lambda inputs, **_: (fixed(inputs), keras.ops.full((), grid.scale))

    def get_config(self) -> dict[str, Any]:
        """Return what `__init__` takes."""
        own = {"rule": self.rule.to_json(indent=None), "bits": self.bits, "sites": self.sites}
        return {**super().get_config(), **own}

    def _round(self, inputs: tf.Tensor, low: tf.Tensor, high: tf.Tensor, ties: str) -> tf.Tensor:
        if ties:
            return grids.quantize_means(inputs, low, high, self.bits, ties)
        if self.rule.kind == "learned":
            return grids.quantize_with_learned_range(inputs, low, high, self.bits)
        return grids.quantize_activations(inputs, low, high, self.bits)

    def _range(self) -> tuple[tf.Tensor, tf.Tensor]:
        ranges = tf.convert_to_tensor(self.ranges.value)
        ranges = ranges if self.hold is None else self.hold.without_gradient(ranges)
        return tf.reduce_min(ranges[:, 0]), tf.reduce_max(ranges[:, 1])

    def _active(self, training: bool) -> tf.Tensor | None:
        """Return whether tensors are rounded; `None` if they certainly are."""
        if training and self.rule.start == 0 and self.rule.kind != "learned":
            return None
        seen = tf.convert_to_tensor(self.seen.value)
        return tf.reduce_max(seen) > self.rule.start if training else tf.reduce_any(seen != 0)

    @property
    def _is_calibrating(self) -> bool:
        return self.calibrates or modes.observes()

    def _observe(self, inputs: tf.Tensor, site: int, positive: bool) -> None:
        low, high = self._extremes(inputs, positive)
        old = tf.convert_to_tensor(self.ranges.value)
        seen = tf.convert_to_tensor(self.seen.value)
        found = tf.stack([low, high])
        new = tf.where(seen[site] == 0, found, self._joined(old[site], found, seen[site]))
        if self.rule.freeze is not None:
            new = tf.where(seen[site] >= self.rule.freeze, old[site], new)
        here = tf.range(self.sites) == site
        self.ranges.assign(tf.where(here[:, None], new[None], old))
        self._count(site)

    def _count(self, site: int) -> None:
        seen = tf.convert_to_tensor(self.seen.value)
        counted = _calibrated(seen) if self._is_calibrating else tf.maximum(seen, 0) + 1
        self.seen.assign(tf.where(tf.range(self.sites) == site, counted, seen))
        if self.hold is not None:
            self.hold.see(self.ranges)

    def _joined(self, old: tf.Tensor, found: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
        """Return the range after another batch: of calibration as much as of those before, in training a little."""
        if not self._is_calibrating:
            return old + (found - old) * (1.0 - self.rule.momentum)
        if self.rule.kind == "percentile":
            return old + (found - old) / tf.cast(tf.abs(seen) + 1, tf.float32)
        return tf.stack([tf.minimum(old[0], found[0]), tf.maximum(old[1], found[1])])

    def _extremes(self, inputs: tf.Tensor, positive: bool) -> tuple[tf.Tensor, tf.Tensor]:
        if self.rule.kind != "percentile":
            return 0.0 if positive else tf.reduce_min(inputs), tf.reduce_max(inputs)
        flat = tf.reshape(inputs, [-1])
        every = tf.maximum(tf.size(flat) // _SORTED, 1)
        ordered = tf.ensure_shape(tf.sort(flat[::every]), [None])  # a stride that is a tensor loses the rank
        last = tf.cast(tf.size(ordered) - 1, tf.float32)
        outside = tf.cast(tf.floor(last * (1.0 - self.rule.percentile / 100.0)), tf.int32)
        return ordered[outside], ordered[tf.size(ordered) - 1 - outside]


class _Hold(keras.constraints.Constraint):
    """Takes back what an optimizer does to learned ranges that are frozen: momentum moves them without a gradient.

    It is no part of what is saved: every batch of training shows it the ranges before they can move.
    """

    def __init__(self, seen: Any, freeze: int):
        """Take the counts of batches, a variable, and the batches after which ranges stay."""
        self.seen, self.freeze = seen, freeze
        self.held = keras.Variable(
            "zeros",
            shape=(*seen.shape, 2),
            trainable=False,
            dtype="float32",
            autocast=False,
            aggregation="only_first_replica",
        )

    def see(self, ranges: Any) -> None:
        """Remember the ranges, a variable, as they are now."""
        self.held.assign(tf.convert_to_tensor(ranges.value))

    def without_gradient(self, ranges: tf.Tensor) -> tf.Tensor:
        """Return the ranges, those that are frozen without a gradient."""
        return tf.where(self._frozen(), tf.stop_gradient(ranges), ranges)

    def __call__(self, value: Any) -> Any:
        """Return the updated ranges, those that are frozen as they were."""
        return tf.where(self._frozen(), tf.convert_to_tensor(self.held.value), tf.convert_to_tensor(value))

    def _frozen(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.seen.value)[:, None] > self.freeze


def _calibrated(seen: tf.Tensor) -> tf.Tensor:
    """Return the counts of a quantizer after a batch of calibration, see `Quantizer.build`."""
    return tf.where(seen > 0, seen, seen - 1)


@keras.saving.register_keras_serializable("kopt")
class OutputRange(Quantizer):
    """Follows the range of an output that is computed in float, for files that give integers there.

    Attributes:
        rounds_output: it rounds, too; off but while such a file is made.
    """

    rounds_output = False

    def call(
        self, inputs: Any, site: int = -1, ties: str = "", positive: bool = False, training: bool | None = None
    ) -> tuple[Any, Any]:
        """Return the tensor and the step of its grid; see `Quantizer`."""
        rounded, step = super().call(inputs, site, ties, positive, training)
        return rounded if self.rounds_output else inputs, step

    def for_converter(self) -> Any:
        """Return what stands here in a model for a converter: nothing, or the grid if it rounds."""
        return super().for_converter() if self.rounds_output else lambda inputs, **_: (inputs, keras.ops.ones(()))


@keras.saving.register_keras_serializable("kopt")
class FixedQuantizer(keras.layers.Layer):
    """Rounds a tensor to a grid that does not change, such as that of a softmax."""

    def __init__(self, low: float, high: float, bits: int = 8, **settings: Any):
        """Take the ends of the range and the bits of a number."""
        super().__init__(**{**settings, "dtype": "float32"})
        self.low, self.high, self.bits = low, high, bits
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return the rounded tensor."""
        if modes.floats():
            return inputs
        return tf.quantization.fake_quant_with_min_max_args(
            inputs, self.low, self.high, num_bits=self.bits, narrow_range=self.bits != 8
        )

    def compute_output_spec(self, inputs: Any) -> Any:
        """Return the spec of the tensor."""
        return keras.KerasTensor(inputs.shape, "float32")

    def get_config(self) -> dict[str, Any]:
        """Return what `__init__` takes."""
        return {**super().get_config(), "low": self.low, "high": self.high, "bits": self.bits}
