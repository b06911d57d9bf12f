"""What a technique of the search is asked for: frozen, checked, serialisable, and steps made of these."""

import dataclasses
import hashlib
import json
import re
from typing import Any, ClassVar

from kopt.core.errors import ConfigError, nearest
from kopt.core.serialization import Record
from kopt.core.settings import choice, number, whole

CHANNEL_CRITERIA = ("l2", "l1", "geometric_median", "lamp", "bn_scale", "taylor", "gradient", "fisher", "activation")
INTEGER_SCHEMES = ("int8", "int16x8")
_LONGEST_LABEL = 60


@dataclasses.dataclass(frozen=True)
class TechniqueConfig(Record):
    """Base of the requests: fields are the settings, `TITLE` those that a short name always shows."""

    TITLE: ClassVar[tuple[str, ...]] = ()

    @property
    def label(self) -> str:
        """Settings for a name, e.g. `"0.5"`: those of `TITLE`, and others as `name=value` where they differ."""
        shown = [_text(getattr(self, name)) for name in self.TITLE]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in self.TITLE and value != field.default:
                shown.append(f"{field.name}={_text(value)}")
        return "-".join(shown)


@dataclasses.dataclass(frozen=True)
class SeparableConfig(TechniqueConfig):
    """Convolutions as depthwise-separable ones; see `kopt.restructure.depthwise_separable`.

    Attributes:
        max_error: a layer whose relative error would be above it is left, in (0, 1].
    """

    max_error: float = 1.0

    TITLE = ("max_error",)

    def __post_init__(self) -> None:
        number("max_error", self.max_error, least=0.0, most=1.0, open_below=True)


@dataclasses.dataclass(frozen=True)
class LowRankConfig(TechniqueConfig):
    """Dense and convolution layers as products of smaller ones; see `kopt.restructure.low_rank`.

    Attributes:
        target_macs: share of the multiply-accumulates to come down to, in (0, 1).
    """

    target_macs: float = 0.5

    TITLE = ("target_macs",)

    def __post_init__(self) -> None:
        _share("target_macs", self.target_macs)


@dataclasses.dataclass(frozen=True)
class FoldConfig(TechniqueConfig):
    """Batch normalizations into the kernels beside them; see `kopt.restructure.fold_batch_norm`."""


@dataclasses.dataclass(frozen=True)
class ConstantChannelsConfig(TechniqueConfig):
    """Channels that are the same for every calibration example go; see `kopt.prune.constant_channels`.

    Attributes:
        tolerance: largest standard deviation of a constant, in units of the activations.
    """

    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        number("tolerance", self.tolerance, least=0.0)


@dataclasses.dataclass(frozen=True)
class ChannelsConfig(TechniqueConfig):
    """Channels that matter least go; see `kopt.prune.channels`.

    Attributes:
        keep: share of the channels to keep, in (0, 1).
        criterion: which channels matter; those that need examples get labelled training data.
    """

    keep: float = 0.5
    criterion: str = "l2"

    TITLE = ("keep",)

    def __post_init__(self) -> None:
        _share("keep", self.keep)
        choice("criterion", self.criterion, CHANNEL_CRITERIA)


@dataclasses.dataclass(frozen=True)
class HeadsConfig(ChannelsConfig):
    """Attention heads that matter least go; see `kopt.prune.heads`. Attributes: those of `ChannelsConfig`."""


@dataclasses.dataclass(frozen=True)
class TrainedConfig(TechniqueConfig):
    """Base of the techniques that train.

    Attributes:
        epochs: over the training data.
        rate: times the learning rate of the search's `Training`.
    """

    epochs: int = 3
    rate: float = 1.0

    def __post_init__(self) -> None:
        whole("epochs", self.epochs)
        number("rate", self.rate, least=0.0, open_below=True)


@dataclasses.dataclass(frozen=True)
class RecoverConfig(TrainedConfig):
    """A model that lost accuracy learns from the original and from labels. Attributes: those of `TrainedConfig`."""

    TITLE = ("epochs",)


@dataclasses.dataclass(frozen=True)
class MagnitudeConfig(TrainedConfig):
    """The smallest weights become zero while the model trains; see `kopt.prune.magnitude`.

    Attributes:
        sparsity: share of the weights of each kernel that are zero at the end, in (0, 1).
    """

    sparsity: float = 0.7

    TITLE = ("sparsity", "epochs")

    def __post_init__(self) -> None:
        super().__post_init__()
        _share("sparsity", self.sparsity)


@dataclasses.dataclass(frozen=True)
class ClusterConfig(TrainedConfig):
    """Every kernel keeps a few values while the model trains; see `kopt.cluster.weights`.

    Attributes:
        clusters: different values of a kernel.
    """

    rate: float = 0.3
    clusters: int = 16

    TITLE = ("clusters", "epochs")

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("clusters", self.clusters, least=2)


@dataclasses.dataclass(frozen=True)
class PostTrainingConfig(TechniqueConfig):
    """Rounding whose ranges and weights are chosen without training; see `kopt.quantize.post_training`.

    Attributes:
        scheme: `"int8"` or `"int16x8"`.
        options: `"auto"`, or the name of one option.
    """

    scheme: str = "int8"
    options: str = "auto"

    def __post_init__(self) -> None:
        choice("scheme", self.scheme, INTEGER_SCHEMES)


@dataclasses.dataclass(frozen=True)
class MixedConfig(TechniqueConfig):
    """Integers, but for the layers that spoil the outputs; see `kopt.quantize.fallback`.

    Attributes:
        least_db: signal-to-quantization-noise ratio of the outputs for which the fewest layers stay in float.
    """

    least_db: float = 20.0

    TITLE = ("least_db",)

    def __post_init__(self) -> None:
        number("least_db", self.least_db, least=0.0, most=200.0)


@dataclasses.dataclass(frozen=True)
class AwareConfig(TrainedConfig):
    """Training with the rounding of an integer file, from where `PostTrainingConfig` ends; see `kopt.quantize.aware`.

    Attributes:
        scheme: `"int8"` or `"int16x8"`.
    """

    rate: float = 0.1
    scheme: str = "int8"

    TITLE = ("epochs",)

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("scheme", self.scheme, INTEGER_SCHEMES)


@dataclasses.dataclass(frozen=True)
class BuildConfig(TrainedConfig):
    """Another architecture, made by a function of the user's and trained by the original and by labels.

    Attributes:
        builder: where the function is found, `"module:name"`.
        source_sha256: of the module's source, so that what an older version of it made is not taken for what it makes.
        values: of its hyperparameters, as JSON.
    """

    builder: str = ""
    source_sha256: str = ""
    values: str = "{}"

    @property
    def label(self) -> str:
        """Hyperparameters for a name, e.g. `"width=8-4"`: values, then epochs."""
        values = [f"{name}={_text(value)}" for name, value in json.loads(self.values).items()]
        rest = [_text(self.epochs), *([f"rate={_text(self.rate)}"] if self.rate != 1.0 else [])]
        return _within("-".join((*values, *rest)))


CONFIGS: dict[str, type[TechniqueConfig]] = {
    "build": BuildConfig,
    "depthwise_separable": SeparableConfig,
    "low_rank": LowRankConfig,
    "fold_batch_norm": FoldConfig,
    "constant_channels": ConstantChannelsConfig,
    "channels": ChannelsConfig,
    "heads": HeadsConfig,
    "magnitude": MagnitudeConfig,
    "recover": RecoverConfig,
    "cluster": ClusterConfig,
    "post_training": PostTrainingConfig,
    "aware": AwareConfig,
    "mixed": MixedConfig,
}


@dataclasses.dataclass(frozen=True)
class Step(Record):
    """A technique applied to a model.

    Attributes:
        technique: name, a key of `CONFIGS`.
        config: its settings, of the class that belongs to the name.
    """

    technique: str
    config: TechniqueConfig

    def __post_init__(self) -> None:
        accepted = _class_of(self.technique)
        if type(self.config) is not accepted:
            raise ConfigError(
                f"The settings of {self.technique!r} are a {accepted.__name__}. Received: {self.config!r}."
            )

    @property
    def label(self) -> str:
        """Name with the settings that matter, e.g. `"channels-0.5"`."""
        return "-".join(part for part in (self.technique, self.config.label) if part)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Step":
        """Build the step from plain JSON types; the technique says of which class its settings are.

        Raises:
            ConfigError: an unknown technique or key, or a value of the wrong type.
        """
        if not isinstance(values, dict) or set(values) != {"technique", "config"}:
            raise ConfigError(f"Step is read from an object with `technique` and `config`. Received: {values!r}.")
        return cls(values["technique"], _class_of(values["technique"]).from_dict(values["config"]))


def _class_of(technique: Any) -> type[TechniqueConfig]:
    if technique not in CONFIGS:
        raise ConfigError(
            f"Unknown technique {technique!r}.{nearest(str(technique), CONFIGS)} Accepted: {', '.join(CONFIGS)}."
        )
    return CONFIGS[technique]


def _share(name: str, value: Any) -> None:
    if number(name, value, least=0.0, most=1.0, open_below=True) == 1.0:
        raise ConfigError(f"`{name}` must be below 1: with 1 nothing changes. Received: {value!r}.")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _within(label: str) -> str:
    """Return a label that may be part of the name of a file, short, and another one for another label."""
    plain = re.sub(r"[^\w=.+-]", "_", label)[:_LONGEST_LABEL]
    return plain if plain == label else f"{plain}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
