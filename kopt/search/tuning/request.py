"""What `kopt.tune` is asked for, checked before anything is read or written."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from kopt.core.errors import ConfigError, nearest
from kopt.core.serialization import Record
from kopt.core.settings import whole
from kopt.search.opening import checked_training
from kopt.search.plan import FLOAT32, INT8
from kopt.search.proposing.facts import Facts
from kopt.search.techniques.building import reference
from kopt.search.techniques.catalog import BUILD, CATALOG, TRAINING, WAYS_TO_SHIP, Technique, select
from kopt.search.training import Training
from kopt.search.tuning.oracles import TUNERS

_DEFAULT_WAYS = (FLOAT32, INT8)
HYPERBAND = "hyperband"


@dataclasses.dataclass(frozen=True)
class Request(Record):
    """What to look through, and how.

    Attributes:
        techniques: names of those that may take part.
        ways: names of the ways to ship.
        tuner: one of `oracles.TUNERS`.
        max_trials: most trials.
        training: how models are trained; `None`: they are not.
        builder: where the user's own architectures are found; empty without.
    """

    techniques: tuple[str, ...]
    ways: tuple[str, ...]
    tuner: str = "random"
    max_trials: int = 20
    training: Training | None = None
    builder: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Techniques and ways to ship, as `kopt.optimize` takes them."""
        return (*self.techniques, *self.ways)

    @property
    def more(self) -> tuple[Technique, ...]:
        """Rows that are not of the catalog."""
        return (BUILD,) if self.builder else ()


def request(
    techniques: Sequence[str] | None,
    ways: Sequence[str] | None,
    *,
    tuner: str,
    max_trials: int,
    training: Any,
    builder: Any,
) -> Request:
    """Return the request; see `kopt.tune` for the arguments.

    Raises:
        ConfigError: an unknown name, a number out of range, a technique that cannot take part, or a tuner that has
            nothing to do.
    """
    whole("max_trials", max_trials)
    training = checked_training(training)
    if tuner not in TUNERS:
        raise ConfigError(f"Unknown tuner {tuner!r}.{nearest(str(tuner), TUNERS)} Accepted: {', '.join(TUNERS)}.")
    rows = select(techniques)
    shipping = _ways(ways) or tuple(row.name for row in rows if row.ships and techniques is not None) or _DEFAULT_WAYS
    names = tuple(row.name for row in rows if not row.ships)
    where = "" if builder is None else reference(builder)
    if techniques is not None:
        _check_named(names, shipping, training)
    if where and training is None:
        raise ConfigError("Architectures of `builder` are trained: pass `training=kopt.Training(...)`.")
    if tuner == HYPERBAND and (training is None or not (where or _trained(names, shipping))):
        raise ConfigError(
            "'hyperband' gives promising recipes more epochs, and nothing that may take part is trained. Pass "
            "`training=kopt.Training(...)` and techniques that train, e.g. 'recover', or use tuner='random'."
        )
    return Request(names, shipping, tuner, max_trials, training, where)


def reaching(facts: Facts, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the techniques that find something to do in a model, and why the others are left out, in sentences."""
    absent = {
        "depthwise_separable": "" if facts.wide_kernels.macs else "no convolution of more than one point",
        "low_rank": "" if facts.wide_kernels.macs or facts.dense.macs else "no dense or wide convolution layer",
        "fold_batch_norm": "" if facts.normalizations else "no batch normalization",
        "channels": "" if facts.removable.macs else "no channels that can go",
        "heads": "" if facts.attention.macs else "no attention layer",
    }
    notes = tuple(f"{name} does not take part: the model has {absent[name]}." for name in names if absent.get(name))
    return tuple(name for name in names if not absent.get(name)), notes


def _ways(names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return ()
    accepted = [row.name for row in WAYS_TO_SHIP]
    if isinstance(names, str) or not names:
        raise ConfigError(f"`ways` is a sequence of names, of {', '.join(accepted)}. Received: {names!r}.")
    for name in names:
        if name not in accepted:
            raise ConfigError(
                f"Unknown way to ship {name!r}.{nearest(str(name), accepted)} Accepted: {', '.join(accepted)}."
            )
    return tuple(dict.fromkeys(names))


def _check_named(names: Sequence[str], ways: Sequence[str], training: Training | None) -> None:
    """Refuse a technique that was asked for by name and can be in no recipe."""
    for name in names:
        row = CATALOG[name]
        if not set(row.pays_on) & set(ways):
            raise ConfigError(
                f"There is no legal recipe with {name!r}: it pays on {', '.join(row.pays_on)}, and the ways to ship "
                f"are {', '.join(ways)}. Add one of the former to `ways`, or leave {name!r} out."
            )
        if training is None and (TRAINING in row.needs or row.recovers):
            raise ConfigError(
                f"{name!r} needs training: pass `training=kopt.Training(...)`, `--train-epochs 4` on the command line, "
                f"or leave it out."
            )


def _trained(names: Sequence[str], ways: Sequence[str]) -> bool:
    return any(TRAINING in CATALOG[name].needs and set(CATALOG[name].pays_on) & set(ways) for name in names)
