"""The techniques that a search tries, one row each: what they take, where they stand, what they are good for."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kopt.core.errors import ConfigError, nearest
from kopt.core.records.candidates import ExportConfig
from kopt.core.records.search.techniques import CONFIGS, Step, TechniqueConfig
from kopt.core.schemes import SCHEMES
from kopt.search.techniques import building, pruning, restructuring, stages, training
from kopt.search.techniques.outcome import Outcome

TRAINING, CALIBRATION, LABELS, TEACHER = NEEDS = ("training data", "calibration", "labels", "teacher")
LATENCY, SIZE, MEMORY, ENERGY, DOWNLOAD = GAINS = ("latency", "size", "memory", "energy", "download")
ALL_RUNTIMES = ("saved_model", "onnx", *(f"tflite-{name}" for name in SCHEMES))
_TRAINED = frozenset((TRAINING, LABELS, TEACHER))
_FASTER = (LATENCY, SIZE, MEMORY, ENERGY)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of a technique and the values that a search may give it.

    Attributes:
        name: field of the row's config.
        choices: values, the mildest first where they have an order.
    """

    name: str
    choices: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What applying a technique takes.

    Attributes:
        kind: `"seconds"`, `"calibration"` (forward passes over calibration examples) or `"training"`.
        passes: over the examples of that kind, about.
    """

    kind: str
    passes: float = 0.0


@dataclasses.dataclass(frozen=True)
class Technique:
    """A row of the catalog.

    Attributes:
        name: what tables and the command line call it.
        config: its settings at their defaults: a `TechniqueConfig`, or the `ExportConfig` of a way to ship.
        summary: one line.
        stage: place in the order of the work, one of `stages.STAGES`.
        space: settings that a search may vary.
        strength: the setting that says how much of it, whose choices go from mild to strong; empty without one.
        then: stages of what may follow.
        needs: of `NEEDS`.
        improves: of `GAINS`; `"download"` is the size after compression.
        pays_on: names of the ways to ship in which it shows.
        cost: of applying it once.
        recovers: whether a training should follow.
        apply: `(model, config, work) -> Outcome`; `None` for ways to ship.
        suffix: of the file of a way to ship.
    """

    name: str
    config: TechniqueConfig | ExportConfig
    summary: str
    stage: str
    space: tuple[Setting, ...] = ()
    strength: str = ""
    then: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    improves: tuple[str, ...] = ()
    pays_on: tuple[str, ...] = ()
    cost: Cost = Cost("seconds")
    recovers: bool = False
    apply: Callable[..., Outcome] | None = None
    suffix: str = ""

    @property
    def ships(self) -> bool:
        """Whether it writes the file."""
        return self.stage == stages.SHIP

    @property
    def export(self) -> ExportConfig:
        """Settings of a way to ship."""
        assert isinstance(self.config, ExportConfig)
        return self.config

    @property
    def ladder(self) -> tuple[Any, ...]:
        """Values of `strength`, the mildest first."""
        return next((one.choices for one in self.space if one.name == self.strength), ())

    def step(self, **values: Any) -> Step:
        """Return a step of this technique with some settings of its own.

        Raises:
            ConfigError: an unknown setting, or a value out of range.
        """
        assert isinstance(self.config, TechniqueConfig)
        known = [field.name for field in dataclasses.fields(self.config)]
        for name in values:
            if name not in known:
                accepted = ", ".join(known) or "none"
                raise ConfigError(f"{self.name!r} has no setting {name!r}.{nearest(name, known)} It has: {accepted}.")
        return Step(self.name, dataclasses.replace(self.config, **values))


def _transform(name: str, apply: Callable[..., Outcome], summary: str, stage: str, **facts: Any) -> Technique:
    space = tuple(Setting(key, choices) for key, choices in facts.pop("space", {}).items())
    return Technique(name, CONFIGS[name](), summary, stage, space=space, apply=apply, **facts)


def _ship(name: str, export: ExportConfig, suffix: str, summary: str, improves: tuple[str, ...] = ()) -> Technique:
    needs = {CALIBRATION} if SCHEMES[export.scheme].needs_calibration else set()
    return Technique(
        name, export, summary, stages.SHIP, needs=frozenset(needs), improves=improves, pays_on=(name,), suffix=suffix
    )


def _scheme_gains(scheme: str) -> tuple[str, ...]:
    gains = {
        "float32": (),
        "float16": (SIZE,),
        "weight_only": (SIZE,),
        "int4": (SIZE,),
        "dynamic": (LATENCY, SIZE),
        "int16x8": (SIZE,),
    }
    return gains.get(scheme, _FASTER)


_EPOCHS = (1, 2, 4, 8)
_RATES = (0.1, 0.3, 1.0, 3.0)
_INTEGER_FILES = ("tflite-int8", "tflite-int16x8")

CATALOG: dict[str, Technique] = {
    row.name: row
    for row in (
        _ship("saved_model", ExportConfig("saved_model"), "", "TensorFlow and TF Serving, float32"),
        _ship("onnx", ExportConfig("onnx"), ".onnx", "ONNX Runtime, float32", (LATENCY,)),
        *(
            _ship(
                f"tflite-{name}",
                ExportConfig("tflite", name),
                ".tflite",
                f"LiteRT, {scheme.summary}",
                _scheme_gains(name),
            )
            for name, scheme in SCHEMES.items()
        ),
        _transform(
            "depthwise_separable",
            restructuring.depthwise_separable,
            "convolutions as a depthwise and a pointwise one, fitted to the kernels",
            stages.RESTRUCTURE,
            space={"max_error": (0.3, 0.5, 0.7, 1.0)},
            strength="max_error",
            then=(stages.PRUNE, stages.RECOVER, stages.CLUSTER, stages.QUANTIZE, stages.SHIP),
            improves=_FASTER,
            pays_on=ALL_RUNTIMES,
            recovers=True,
        ),
        _transform(
            "low_rank",
            restructuring.low_rank,
            "dense and convolution layers as products of smaller ones",
            stages.RESTRUCTURE,
            space={"target_macs": (0.75, 0.5, 0.35, 0.25)},
            strength="target_macs",
            then=(stages.PRUNE, stages.RECOVER, stages.CLUSTER, stages.QUANTIZE, stages.SHIP),
            improves=_FASTER,
            pays_on=ALL_RUNTIMES,
            recovers=True,
        ),
        _transform(
            "fold_batch_norm",
            restructuring.fold_batch_norm,
            "batch normalizations go into the kernels beside them; the outputs stay",
            stages.FOLD,
            # Training without normalizations is another training, so nothing that trains may follow.
            then=(stages.FOLD, stages.SHIP),
            improves=(LATENCY, ENERGY),
            pays_on=("saved_model",),
        ),
        _transform(
            "constant_channels",
            pruning.constant_channels,
            "channels that are the same for every calibration example go; the outputs stay",
            stages.FOLD,
            space={"tolerance": (1e-6, 1e-4, 1e-3)},
            strength="tolerance",
            then=(stages.FOLD, *stages.after(stages.FOLD)),
            needs=frozenset((CALIBRATION,)),
            improves=_FASTER,
            pays_on=ALL_RUNTIMES,
            cost=Cost("calibration", 1),
        ),
        _transform(
            "channels",
            pruning.channels,
            "the channels that matter least go",
            stages.PRUNE,
            space={"keep": (0.75, 0.5, 0.35, 0.25), "criterion": ("l2", "l1", "taylor", "geometric_median")},
            strength="keep",
            then=(stages.PRUNE, *stages.after(stages.PRUNE)),
            improves=_FASTER,
            pays_on=ALL_RUNTIMES,
            recovers=True,
        ),
        _transform(
            "heads",
            pruning.heads,
            "the attention heads that matter least go",
            stages.PRUNE,
            space={"keep": (0.75, 0.5, 0.25), "criterion": ("l2", "l1", "taylor")},
            strength="keep",
            then=(stages.PRUNE, *stages.after(stages.PRUNE)),
            improves=_FASTER,
            pays_on=ALL_RUNTIMES,
            recovers=True,
        ),
        _transform(
            "magnitude",
            pruning.magnitude,
            "the smallest weights become zero in training: a file that compresses better, not a smaller or faster one",
            stages.PRUNE,
            space={"sparsity": (0.5, 0.7, 0.8, 0.9), "epochs": _EPOCHS, "rate": _RATES},
            strength="sparsity",
            # Removing channels, or a training without masks, would undo the zeros.
            then=(stages.CLUSTER, stages.QUANTIZE, stages.SHIP),
            needs=_TRAINED,
            improves=(DOWNLOAD,),
            pays_on=ALL_RUNTIMES,
            cost=Cost("training", 3),
        ),
        _transform(
            "recover",
            training.recover,
            "training by the original model and by labels",
            stages.RECOVER,
            space={"epochs": _EPOCHS, "rate": _RATES},
            then=(stages.RECOVER, *stages.after(stages.RECOVER)),
            needs=_TRAINED,
            pays_on=ALL_RUNTIMES,
            cost=Cost("training", 3),
        ),
        _transform(
            "cluster",
            training.clustered,
            "every kernel keeps a few values in training: a file that compresses better, not a smaller or faster one",
            stages.CLUSTER,
            space={"clusters": (64, 32, 16, 8), "epochs": _EPOCHS, "rate": _RATES},
            strength="clusters",
            then=(stages.QUANTIZE, stages.SHIP),
            needs=_TRAINED,
            improves=(DOWNLOAD,),
            # 4 bits round the values of a codebook away.
            pays_on=tuple(name for name in ALL_RUNTIMES if name != "tflite-int4"),
            cost=Cost("training", 3),
        ),
        _transform(
            "post_training",
            training.post_training,
            "integers whose ranges and weights are chosen by the error of the outputs",
            stages.QUANTIZE,
            space={"scheme": ("int8", "int16x8"), "options": ("auto",)},
            then=(stages.SHIP,),
            needs=frozenset((CALIBRATION,)),
            improves=_FASTER,
            pays_on=_INTEGER_FILES,
            cost=Cost("calibration", 20),
        ),
        _transform(
            "aware",
            training.aware,
            "training with the rounding of integers",
            stages.QUANTIZE,
            space={"scheme": ("int8", "int16x8"), "epochs": _EPOCHS, "rate": (0.03, 0.1, 0.3)},
            then=(stages.SHIP,),
            needs=_TRAINED | {CALIBRATION},
            improves=_FASTER,
            pays_on=_INTEGER_FILES,
            cost=Cost("training", 3),
        ),
        _transform(
            "mixed",
            training.mixed,
            "integers, but for the fewest layers that spoil the outputs: these stay in float",
            stages.QUANTIZE,
            space={"least_db": (20.0, 30.0, 40.0)},
            strength="least_db",
            then=(stages.SHIP,),
            needs=frozenset((CALIBRATION,)),
            improves=_FASTER,
            pays_on=("tflite-int8",),
            cost=Cost("calibration", 50),
        ),
    )
}
"""The techniques and the ways to ship that `kopt.optimize` tries, by the names that `techniques=` takes.

Example:
    >>> kopt.search.CATALOG["channels"].space[0]
    Setting(name='keep', choices=(0.75, 0.5, 0.35, 0.25))
    >>> kopt.search.CATALOG["channels"].step(keep=0.5).label
    'channels-0.5'
"""
BUILD = _transform(
    "build",
    building.built,
    "another architecture, by the user's own function, trained by the original model and by labels",
    stages.BUILD,
    space={"epochs": _EPOCHS, "rate": _RATES},
    then=stages.after(stages.BUILD),
    needs=_TRAINED,
    improves=_FASTER,
    pays_on=ALL_RUNTIMES,
    cost=Cost("training", 3),
)
WAYS_TO_SHIP = tuple(row for row in CATALOG.values() if row.ships)
"""The rows of `CATALOG` that make files.

Example:
    >>> [row.name for row in kopt.search.WAYS_TO_SHIP][-3:]
    ['tflite-int8', 'tflite-int16x8', 'tflite-int4']
"""


def row_of(name: str) -> Technique:
    """Return the row of a technique, of the catalog or that of the user's own architectures."""
    return BUILD if name == BUILD.name else CATALOG[name]


def select(names: Sequence[str] | None) -> tuple[Technique, ...]:
    """Return the rows called `names`, or all of them.

    Raises:
        ConfigError: no such row.
    """
    if isinstance(names, str):
        raise ConfigError(f"`techniques` is a sequence of names, e.g. [{names!r}]. Received the string {names!r}.")
    for name in names or ():
        if name not in CATALOG:
            raise ConfigError(f"Unknown technique {name!r}.{nearest(name, CATALOG)} Accepted: {', '.join(CATALOG)}.")
    if names is not None and not names:
        raise ConfigError(f"`techniques` is empty. Accepted: {', '.join(CATALOG)}, or None for all.")
    return tuple(CATALOG[name] for name in names or CATALOG)


def ways(rows: Iterable[Technique]) -> tuple[Technique, ...]:
    """Return the ways to ship among rows, or all ways where rows name none."""
    return tuple(row for row in rows if row.ships) or WAYS_TO_SHIP


def transforms(rows: Iterable[Technique]) -> Mapping[str, Technique]:
    """Return the rows that change the model, by name."""
    return {row.name: row for row in rows if not row.ships}
