"""The losses by name, and thin Keras losses round them."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError
from kopt.core.settings import choice, number
from kopt.distill import feature_losses
from kopt.train import soft_targets

_register = keras.saving.register_keras_serializable(package="kopt")


@dataclasses.dataclass(frozen=True)
class Row:
    """What a loss needs.

    Attributes:
        function: gives one value for each example (and position).
        outputs: what kind of outputs of a model it is for: `"classes"`, `"labels"`, `"values"`; or `"features"`.
        channels: the last axes of teacher and student must agree, so that a projector is needed where they do not.
        positions: the axes between the first and the last must agree.
    """

    function: Callable[..., Any]
    outputs: str
    channels: bool = True
    positions: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of the function with their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        given = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("temperature", "labels")]
        return {p.name: p.default for p in given}

    @property
    def takes_labels(self) -> bool:
        """Return whether the function has a use for labels."""
        return "labels" in inspect.signature(self.function).parameters


LOSSES: dict[str, Row] = {
    "kl": Row(soft_targets.kl, "classes"),
    "jensen_shannon": Row(soft_targets.jensen_shannon, "classes"),
    "mse_logits": Row(soft_targets.mse_logits, "classes"),
    "decoupled": Row(soft_targets.decoupled, "classes"),
    "dist": Row(soft_targets.dist, "classes"),
    "binary_kl": Row(soft_targets.binary_kl, "labels"),
    "mse": Row(soft_targets.mse, "values"),
    "huber": Row(soft_targets.huber, "values"),
    "fitnet": Row(feature_losses.fitnet, "features"),
    "cosine": Row(feature_losses.cosine, "features"),
    "attention_transfer": Row(feature_losses.attention_transfer, "features", channels=False),
    "similarity": Row(feature_losses.similarity, "features", channels=False, positions=False),
    "relational": Row(feature_losses.relational, "features", channels=False, positions=False),
    "contrastive": Row(feature_losses.contrastive, "features"),
    "attention_maps": Row(feature_losses.attention_maps, "features", channels=False, positions=False),
}
OUTPUT_LOSSES = tuple(name for name, row in LOSSES.items() if row.outputs != "features")
FEATURE_LOSSES = tuple(name for name, row in LOSSES.items() if row.outputs == "features")


class _Named(keras.losses.Loss):
    """A loss of the table with its settings."""

    kinds: tuple[str, ...] = ()

    def __init__(self, kind: str, *, reduction: str = "sum_over_batch_size", name: str | None = None, **settings: Any):
        super().__init__(name=name or kind, reduction=reduction)
        self.kind = choice("kind", kind, self.kinds)
        defaults = self.row.settings
        for key, value in settings.items():
            choice(f"setting of {kind}", key, tuple(defaults) or ("none",))
            number(key, value, least=0.0)
        self.settings = {**defaults, **settings}

    @property
    def row(self) -> Row:
        """The row of the table."""
        return LOSSES[self.kind]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "kind": self.kind, **self.settings}


@_register
class OutputLoss(_Named):
    """A loss between the outputs of a teacher and of a student, as a Keras loss: `loss(teacher, student)`.

    Use it in `DistillationModel(losses=...)`, which gives temperature and labels, or alone.

    Args:
        kind: `"kl"`, `"jensen_shannon"`, `"mse_logits"`, `"decoupled"`, `"dist"` for classes, `"binary_kl"` for several
            labels at once, `"mse"`, `"huber"` for values. The formulas are those of the functions of these names in
            `kopt.train.soft_targets`.
        temperature: where the loss is called alone, above 0. Default 1.
        form: of both outputs where it is called alone: `"logits"`, `"probabilities"`, `"sigmoids"` or `"values"`.
        **settings: of the function, e.g. `others=8.0` of `"decoupled"`; `reduction` and `name` as of every Keras loss.

    Raises:
        ConfigError: an unknown kind or setting, or one out of range.

    Example:
        >>> loss = kopt.distill.OutputLoss("kl", temperature=4.0)
        >>> same, other = np.array([[2.0, 0.0]]), np.array([[0.0, 2.0]])
        >>> float(loss(same, same)), float(loss(same, other)) > 1
        (0.0, True)
    """

    kinds = OUTPUT_LOSSES

    def __init__(self, kind: str = "kl", *, temperature: float = 1.0, form: str = "logits", **settings: Any):
        super().__init__(kind, **settings)
        self.temperature = number("temperature", temperature, least=0.0, open_below=True)
        self.form = choice("form", form, ("logits", "probabilities", "sigmoids", "values"))

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Return one value for each example."""
        teacher, student = (soft_targets.logits_of(one, self.form) for one in (y_true, y_pred))
        return self.values(teacher, student, self.temperature)

    def values(self, teacher: Any, student: Any, temperature: Any, labels: Any = None) -> tf.Tensor:
        """Return one value for each example and position, of logits."""
        extra = {"labels": labels} if self.row.takes_labels else {}
        return self.row.function(teacher, student, temperature=temperature, **extra, **self.settings)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "temperature": self.temperature, "form": self.form}


@_register
class FeatureLoss(_Named):
    """A loss between inner tensors of a teacher and of a student, as a Keras loss: `loss(teacher, student)`.

    Args:
        kind: `"fitnet"`, `"cosine"`, `"attention_transfer"`, `"similarity"`, `"relational"`, `"contrastive"` or
            `"attention_maps"`. The formulas are those of the functions of these names in
            `kopt.distill.feature_losses`.
        **settings: of the function, e.g. `power=1.0` of `"attention_transfer"`; `reduction` and `name` as of every
            Keras loss.

    Raises:
        ConfigError: an unknown kind or setting, or one out of range.

    Example:
        >>> loss = kopt.distill.FeatureLoss("attention_transfer")
        >>> maps = np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype("float32")
        >>> float(loss(maps, 2 * maps)) < 1e-6  # only where the attention is counts, not how much
        True
    """

    kinds = FEATURE_LOSSES

    def __init__(self, kind: str = "fitnet", **settings: Any):
        super().__init__(kind, **settings)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Return one value for each example."""
        return self.row.function(tf.cast(y_true, tf.float32), tf.cast(y_pred, tf.float32), **self.settings)


@_register
class FocalSmoothed(keras.losses.Loss):
    """The hard loss with focus on what is wrong, and labels that are not quite certain; for `compile(loss=...)`.

    Formula: `-sum_k y_k (1 - q_k)^focusing log q_k`, with `y = (1 - smoothing) onehot + smoothing / classes`.

    Args:
        focusing: from 0, which is cross-entropy. Default 2.
        smoothing: in [0, 1). Default 0.
        from_logits: whether the student gives logits, not probabilities.
        reduction: as of every Keras loss.
        name: as of every Keras loss.

    Raises:
        ConfigError: a setting out of range.

    Example:
        >>> y, sure, unsure = [[0.0, 1.0]], [[0.1, 0.9]], [[0.5, 0.5]]
        >>> focal, plain = kopt.distill.FocalSmoothed(2.0), kopt.distill.FocalSmoothed(0.0)
        >>> [round(float(focal(y, q) / plain(y, q)), 3) for q in (sure, unsure)]  # (1 - q)^2
        [0.01, 0.25]
    """

    def __init__(
        self,
        focusing: float = 2.0,
        smoothing: float = 0.0,
        *,
        from_logits: bool = False,
        reduction: str = "sum_over_batch_size",
        name: str = "focal_smoothed",
    ):
        super().__init__(name=name, reduction=reduction)
        self.focusing = number("focusing", focusing, least=0.0)
        self.smoothing = number("smoothing", smoothing, least=0.0)
        if self.smoothing >= 1.0:
            raise ConfigError(f"`smoothing` must be in [0, 1). Received: {smoothing!r}.")
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Return one value for each example."""
        form = "logits" if self.from_logits else "probabilities"
        y_true, y_pred = tf.convert_to_tensor(y_true), tf.convert_to_tensor(y_pred)
        return soft_targets.focal_smoothed(y_true, y_pred, focusing=self.focusing, smoothing=self.smoothing, form=form)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {"focusing": self.focusing, "smoothing": self.smoothing, "from_logits": self.from_logits}
        return {**super().get_config(), **own}


class Reduced(keras.losses.Loss):
    """Reduces values that are there already, with weights and mask, as every Keras loss does."""

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Return the values, which come as `y_true`."""
        return y_true
