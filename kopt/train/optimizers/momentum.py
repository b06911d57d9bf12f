"""Momentum that follows a schedule."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kopt.core.errors import ConfigError
from kopt.train.optimizers.wrapper import OptimizerWrapper, chain

# Where the update of a class reads its momentum with operators only. RMSprop and Nadam hand it to `keras.ops`, which
# does not know a number that changes.
_ATTRIBUTES: dict[type, str] = {
    keras.optimizers.SGD: "momentum",
    keras.optimizers.Adam: "beta_1",
    keras.optimizers.Adamax: "beta_1",
    keras.optimizers.Lamb: "beta_1",
    keras.optimizers.Lion: "beta_1",
}


class LiveFloat(float):
    """A number that a traced graph reads anew in every step, where a plain one would be baked in.

    It is a float for everything but arithmetic: it compares, prints and serializes as the number it was made with, so
    that a model saved meanwhile gets that number. In arithmetic and where TensorFlow wants a tensor, it is what `read`
    returns. A layer or optimizer that holds one has no more variables than before.
    """

    def __new__(cls, value: float, read: Callable[[], Any]) -> "LiveFloat":
        """Make a number that is `value` in a config and `read()`, a scalar tensor, in a graph."""
        self = super().__new__(cls, value)
        self._read = read
        self.traced = 0
        return self

    _read: Callable[[], Any]
    traced: int

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        """Return the present value as a tensor; TensorFlow calls this."""
        self.traced += 1
        value = tf.convert_to_tensor(self._read())
        return tf.cast(value, dtype) if dtype is not None else value

    def __reduce__(self) -> tuple[type, tuple[float]]:
        return float, (float(self),)

    def __deepcopy__(self, memo: Any) -> float:
        return float(self)

    def __mul__(self, other: Any) -> Any:
        return tf.multiply(*self._pair(other))

    def __add__(self, other: Any) -> Any:
        return tf.add(*self._pair(other))

    def __sub__(self, other: Any) -> Any:
        return tf.subtract(*self._pair(other))

    def __rsub__(self, other: Any) -> Any:
        return tf.subtract(*reversed(self._pair(other)))

    def __truediv__(self, other: Any) -> Any:
        return tf.divide(*self._pair(other))

    def __rtruediv__(self, other: Any) -> Any:
        return tf.divide(*reversed(self._pair(other)))

    def __pow__(self, other: Any) -> Any:  # type: ignore[override]
        return tf.pow(*self._pair(other))

    def __rpow__(self, other: Any) -> Any:  # type: ignore[override]
        return tf.pow(*reversed(self._pair(other)))

    def __neg__(self) -> Any:
        return tf.negative(self.__tf_tensor__())

    __rmul__ = __mul__
    __radd__ = __add__

    def _pair(self, other: Any) -> tuple[Any, Any]:
        if isinstance(other, (int, float)) and not isinstance(other, LiveFloat):
            value = self.__tf_tensor__()
            return value, tf.cast(other, value.dtype)
        other = tf.convert_to_tensor(other)
        return self.__tf_tensor__(other.dtype), other


@keras.saving.register_keras_serializable(package="kopt")
class MomentumSchedule(OptimizerWrapper):
    """An optimizer whose momentum follows a schedule, inside the graph.

    Use it with `kopt.train.schedules.OneCycleMomentum`. For Adam and its relatives the momentum is `beta_1`; their bias
    correction then takes the present `beta_1` to the power of the update, as usual in one-cycle training.

    Args:
        inner_optimizer: SGD with a momentum above 0, Adam, AdamW, Adamax, Lamb, Lion, or a class derived from them.
        schedule: `keras.optimizers.schedules.LearningRateSchedule` that gives the momentum for the number of updates
            made so far.
        name: of the optimizer.

    Raises:
        ConfigError: the optimizer has no momentum, or `schedule` is no schedule.

    Example:
        >>> rate = kopt.train.schedules.OneCycle(0.05, 100)
        >>> sgd = keras.optimizers.SGD(rate, momentum=0.9)
        >>> optimizer = kopt.train.MomentumSchedule(sgd, kopt.train.schedules.OneCycleMomentum(100))
        >>> model.compile(optimizer, "sparse_categorical_crossentropy")
        >>> history = model.fit(x_train, y_train, verbose=0)
        >>> round(float(optimizer.momentum), 3)  # after 16 updates, on the way from 0.95 to 0.85
        0.895

    Source: L. Smith, "A disciplined approach to neural network hyper-parameters", 2018, section 4.3.
    """

    def __init__(self, inner_optimizer: Any, schedule: Any, *, name: str | None = None):
        if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            raise ConfigError(
                f"`schedule` must be a LearningRateSchedule that gives the momentum, e.g. "
                f"`kopt.train.schedules.OneCycleMomentum(steps)`. Received: {schedule!r}."
            )
        super().__init__(inner_optimizer, name=name)
        self.schedule = schedule
        base = chain(self)[-1]
        attribute = next((name for kind, name in _ATTRIBUTES.items() if isinstance(base, kind)), None)
        if attribute is None or getattr(base, attribute) == 0.0:
            raise ConfigError(
                f"{type(base).__name__} {base.name!r} has no momentum that can follow a schedule. Accepted: "
                f"{', '.join(kind.__name__ for kind in _ATTRIBUTES)} and classes derived from them, with a momentum "
                f"above 0, e.g. `keras.optimizers.SGD(momentum=0.9)`."
            )
        setattr(base, attribute, LiveFloat(getattr(base, attribute), lambda: self.momentum))

    @property
    def momentum(self) -> Any:
        """The momentum of the next update, a float32 tensor."""
        return ops.cast(self.schedule(self.iterations), "float32")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, as Keras serializes them."""
        return {**super().get_config(), "schedule": keras.saving.serialize_keras_object(self.schedule)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "MomentumSchedule":
        """Return the optimizer that `get_config` describes, without its state."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"], custom_objects=custom_objects)
        return super().from_config({**config, "schedule": schedule}, custom_objects)
