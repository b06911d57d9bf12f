"""What changed between two sets of parameters: models, checkpoints, or a baseline and one of those."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeAlias, TypeVar

import keras

from kopt.core.errors import InputError, LoadError
from kopt.core.records.profiles.parameter_changes import (
    ParameterComparison,
    ShapeDifference,
    StatisticsComparison,
    VariableChange,
)
from kopt.core.records.profiles.parameters import ParameterProfile, VariableParameters
from kopt.graph import load_model, require_built
from kopt.profile.tensorboard import InTensorBoard
from kopt.profile.weights.checkpoints import Entry, entries_of_model, opened_checkpoint
from kopt.profile.weights.differences import difference, statistics_change
from kopt.profile.weights.profile import measure
from kopt.profile.weights.selection import weight_variables
from kopt.report.profiles.parameter_changes import CHANGES, STATISTICS_CHANGES

Comparable: TypeAlias = keras.Model | str | os.PathLike[str] | ParameterProfile
_Side: TypeAlias = keras.Model | Path | ParameterProfile
_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Changes(InTensorBoard, ParameterComparison):
    """What `compare` found entry by entry, with ways to show it.

    Example:
        >>> sparse, _ = kopt.prune.magnitude(model, 0.5, layers=["classes"])
        >>> found = kopt.profile.compare(model, sparse)
        >>> [(change.path, change.changed) for change in found.changed]  # half of 1,440 weights
        [('classes/kernel', 720)]
    """

    look = CHANGES


@dataclasses.dataclass(frozen=True)
class StatisticsChanges(InTensorBoard, StatisticsComparison):
    """What `compare` found against a baseline, with ways to show it.

    Example:
        >>> baseline = kopt.profile.parameters(model)
        >>> sparse, _ = kopt.prune.magnitude(model, 0.5, layers=["classes"])
        >>> drift = kopt.profile.compare(baseline, sparse)
        >>> [change.zero_fraction_b for change in drift.changes if change.path == "classes/kernel"]
        [0.5]
    """

    look = STATISTICS_CHANGES


def compare(a: Comparable, b: Comparable) -> Changes | StatisticsChanges:
    """Return how the parameters of `b` differ from those of `a`.

    Use it to see what fine-tuning, pruning or a conversion changed and what it left alone; which layers moved between
    two checkpoints; or whether a later model still looks like a baseline.

    Two models or checkpoints are compared entry by entry. Files are read one variable at a time: no architecture is
    built, no stored code is run, and a model stands in memory only if it is given. Where one side is a profile, only
    statistics are compared; the other side is measured with the settings of the profile, so that the same entries are
    drawn of a variable that was sampled.

    Variables belong together that have the same path. If two models have other names, but the same shapes in the same
    order (the same code run twice), they are matched by order, and the record says so.

    Args:
        a: what was before: a built Keras 3 model; the path of a `.keras`, `.weights.h5` or `.h5` file; what
            `kopt.profile.parameters` returned, or the path of a `.json` file of its `.to_json()`.
        b: what came after: one of the same.

    Returns:
        For two models or files, per variable: norm of the change, relative change, cosine, largest change, entries
        changed; shapes and dtypes that differ; variables that only one has. With a profile: change of mean, spread,
        norm, percentiles, zeros, dead channels and effective rank.

    Raises:
        InputError: neither a model, path nor profile; a model that is not built; nothing in common, with what differs.
        LoadError: a file that is missing, damaged or of another kind.

    Example:
        >>> kopt.profile.compare(model, "model.keras").identical
        True
        >>> history = model.fit(x_train, y_train, verbose=0)
        >>> found = kopt.profile.compare("model.keras", model)
        >>> found.identical, len(found.changed)  # every variable, the statistics of the normalization too
        (False, 9)
    """
    side_a, side_b = _opened(a, "a"), _opened(b, "b")
    if isinstance(side_a, ParameterProfile) or isinstance(side_b, ParameterProfile):
        return _compare_statistics(side_a, side_b)
    return _compare_values(side_a, side_b)


def _opened(given: Comparable, name: str) -> _Side:
    if isinstance(given, ParameterProfile):
        return given
    if isinstance(given, keras.Model):
        require_built(given)
        return given
    if not isinstance(given, (str, os.PathLike)):
        raise InputError(
            f"`{name}` must be a Keras model, the path of a checkpoint, or a profile from `kopt.profile.parameters`. "
            f"Received: {type(given).__module__}.{type(given).__qualname__}."
        )
    path = Path(given)
    if path.suffix != ".json":
        return path
    try:
        return ParameterProfile.from_json(path.read_text())
    except OSError as error:
        raise LoadError(f"The baseline {path} cannot be read: {error}.") from error


def _compare_values(a: keras.Model | Path, b: keras.Model | Path) -> Changes:
    with contextlib.ExitStack() as stack:
        layouts: dict[str, str] = {}
        entries: dict[str, list[Entry]] = {}
        for side, given in (("a", a), ("b", b)):
            if isinstance(given, Path):
                layouts[side], entries[side] = stack.enter_context(opened_checkpoint(given))
        if len(set(layouts.values())) > 1:
            raise InputError(
                f"{a} is in the layout of {layouts['a']}, {b} in that of {layouts['b']}: they name variables in ways "
                f"that do not meet. Open the one that holds a whole model with `kopt.load_model` and compare that."
            )
        layout = next(iter(layouts.values()), None)
        for side, given in (("a", a), ("b", b)):
            if not isinstance(given, Path):
                entries[side] = entries_of_model(given, layout)
        if len(layouts) == 1:
            [file] = layouts
            entries[file] = _named_like(entries[file], entries["b" if file == "a" else "a"])
        match = _match(entries["a"], entries["b"])
        _require_common(match, _label(a), _label(b))
        return Changes(
            a=_label(a),
            b=_label(b),
            matched_by=match.by,
            changes=tuple(_change(one, other) for one, other in match.pairs),
            reshaped=match.reshaped,
            only_in_a=match.only_in_a,
            only_in_b=match.only_in_b,
        )


def _named_like(entries: list[Entry], others: list[Entry]) -> list[Entry]:
    """Return the entries of a file under the paths of the model, which say more."""
    paths = {other.name: other.path for other in others}
    return [dataclasses.replace(entry, path=paths.get(entry.name, entry.path)) for entry in entries]


def _change(a: Entry, b: Entry) -> VariableChange:
    values_a, values_b = a.read(), b.read()
    return VariableChange(
        path=a.path,
        path_b=b.path,
        shape=a.shape,
        dtype_a=values_a.dtype.name,
        dtype_b=values_b.dtype.name,
        **dataclasses.asdict(difference(values_a, values_b)),
    )


def _compare_statistics(a: _Side, b: _Side) -> StatisticsChanges:
    profile_a, profile_b = _profile(a, b), _profile(b, a)
    if set(profile_a.settings.percentiles) != set(profile_b.settings.percentiles):
        raise InputError(
            f"The profiles hold other percentiles: {profile_a.settings.percentiles} and "
            f"{profile_b.settings.percentiles}. Make both with the same `percentiles`."
        )
    match = _match([_Named(one) for one in profile_a.variables], [_Named(one) for one in profile_b.variables])
    _require_common(match, _label(a), _label(b))
    known = [(one.record, other.record) for one, other in match.pairs]
    return StatisticsChanges(
        a=_label(a),
        b=_label(b),
        matched_by=match.by,
        changes=tuple(statistics_change(one, other) for one, other in known if one.statistics and other.statistics),
        without_statistics=tuple(one.path for one, other in known if not (one.statistics and other.statistics)),
        reshaped=match.reshaped,
        only_in_a=match.only_in_a,
        only_in_b=match.only_in_b,
    )


def _profile(given: _Side, other: _Side) -> ParameterProfile:
    """Return a profile of `given`, measured like `other` if it is none."""
    if isinstance(given, ParameterProfile):
        return given
    assert isinstance(other, ParameterProfile)
    model = load_model(given) if isinstance(given, Path) else given
    readings = {variable.path: variable.reading for variable in other.variables}
    variables = weight_variables(model)
    # The same place, if the names are others.
    places = {id(owned): variable.reading for owned, variable in zip(variables, other.variables, strict=False)}
    return measure(
        model,
        variables,
        lambda owned: readings.get(owned.path, places.get(id(owned), "counts")),
        other.settings,
    )


class _Variable(Protocol):
    """What matching goes by."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclasses.dataclass(frozen=True)
class _Named:
    record: VariableParameters

    @property
    def name(self) -> str:
        return self.record.path

    @property
    def path(self) -> str:
        return self.record.path

    @property
    def shape(self) -> tuple[int, ...]:
        return self.record.shape


V = TypeVar("V", bound=_Variable)


@dataclasses.dataclass(frozen=True)
class _Match(Generic[V]):
    by: str
    pairs: list[tuple[V, V]]
    reshaped: tuple[ShapeDifference, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]


def _match(a: Sequence[V], b: Sequence[V]) -> _Match[V]:
    names_a, names_b = {one.name: one for one in a}, {one.name: one for one in b}
    if names_a.keys() != names_b.keys() and [one.shape for one in a] == [one.shape for one in b]:
        return _Match("order", list(zip(a, b, strict=True)), (), (), ())
    common = [(one, names_b[name]) for name, one in names_a.items() if name in names_b]
    return _Match(
        by="name",
        pairs=[(one, other) for one, other in common if one.shape == other.shape],
        reshaped=tuple(
            ShapeDifference(one.path, one.shape, other.shape) for one, other in common if one.shape != other.shape
        ),
        only_in_a=tuple(one.path for name, one in names_a.items() if name not in names_b),
        only_in_b=tuple(one.path for name, one in names_b.items() if name not in names_a),
    )


def _require_common(match: _Match[V], a: str, b: str) -> None:
    if match.pairs:
        return
    lines = [f"{a} and {b} cannot be compared: no variable of the same name has the same shape in both."]
    lines += [
        f"{one.path} has the shape {one.shape_a} in {a} and {one.shape_b} in {b}." for one in match.reshaped[:_LISTED]
    ]
    for label, own in ((a, match.only_in_a), (b, match.only_in_b)):
        if own:
            more = f" and {len(own) - _LISTED} more" if len(own) > _LISTED else ""
            lines.append(f"Only in {label}: {', '.join(own[:_LISTED])}{more}.")
    raise InputError(" ".join(lines))


def _label(given: _Side) -> str:
    if isinstance(given, ParameterProfile):
        return f"the profile of {given.model}"
    return given.name
