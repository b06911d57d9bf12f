"""`kopt.serve.monitoring_report`: what a server's log says, and what to do about it."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from kopt.core.errors import ConfigError, DataError, LoadError
from kopt.core.files import atomic_write, require_path
from kopt.core.records.shipping.monitoring import (
    SCORES,
    Alert,
    Comparison,
    ExampleReference,
    MonitoringProfile,
    MonitoringReport,
    VersionUse,
)
from kopt.core.settings import choice, whole
from kopt.measure import ABResult, ab_scores, ab_test
from kopt.report.look import Shown
from kopt.report.parts.statistics import Z_95, Interval, unpaired_interval, wilson_interval
from kopt.report.shipping.monitoring import MONITORING, monitoring_html
from kopt.serve.loaded import artefact_in
from kopt.serve.monitoring.advice import advice_about, advice_for, advice_on
from kopt.serve.monitoring.profiles import read_profile
from kopt.serve.monitoring.reading import Log, VersionLines, logged_arrays
from kopt.serve.monitoring.recent import LEAST_EXAMPLES, held_against
from kopt.serve.versions import path_of, present

_LATEST, _UNSURE = 500, 100


@dataclasses.dataclass(frozen=True)
class MonitoringResult(Shown, MonitoringReport):
    """What `monitoring_report` found, with ways to show it.

    Example:
        >>> watched = kopt.serve.Monitoring(log="serve.jsonl")
        >>> with kopt.serve.Server("model.tflite", port=0, monitoring=watched, log=str) as server:
        ...     with kopt.serve.Client(server.url, server.name) as client:
        ...         scores = client.predict(x_val[:64])
        >>> kopt.serve.monitoring_report("serve.jsonl").html("serve.html").name
        'serve.html'
    """

    look = MONITORING

    def html(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write everything to one HTML file that needs no network, and return its path.

        Raises:
            OutputExistsError: the file exists and `overwrite` is false.
            OutputError: the path cannot be written.
        """
        return atomic_write(path, monitoring_html(self), overwrite=overwrite)


def monitoring_report(
    log: str | os.PathLike[str],
    *,
    models: str | os.PathLike[str] | None = None,
    score: str = "accuracy",
    recent: int = 5000,
) -> MonitoringResult:
    """Read a server's log: use and latency by version, drift, scores, comparisons, alerts, and what to do.

    Lines that a kill or a full disk left are counted and passed over; a clock that was set back changes no duration.

    Args:
        log: of `kopt serve --log`; older files beside it are read too.
        models: directory of versions, or file, whose profiles are to be used; where the server found them if `None`.
        score: `"accuracy"` or `"absolute error"`.
        recent: examples of each version that drift is worked out from, the latest ones.

    Raises:
        LoadError: there is no log, or nothing at `models`.
        DataError: no line of the log is one that a server writes.
        ConfigError: an impossible setting.

    Example:
        >>> watched = kopt.serve.Monitoring(log="serve.jsonl")
        >>> with kopt.serve.Server("model.tflite", port=0, monitoring=watched, log=str) as server:
        ...     with kopt.serve.Client(server.url, server.name) as client:
        ...         scores = client.predict(x_val[:64], request_id="monday")
        ...         taken = client.label("monday", y_val[:64])
        >>> report = kopt.serve.monitoring_report("serve.jsonl")
        >>> report.statuses, report.damaged
        ({'200': 1}, 0)
        >>> for advice in report.advice:
        ...     if advice.kind == "retrain":
        ...         x, y = kopt.serve.logged_examples("serve.jsonl", advice.examples)
    """
    choice("score", score, SCORES)
    path = Path(log)
    read = Log(path, length=whole("recent", recent, least=LEAST_EXAMPLES), score=score)
    profiles, notes = _profiles(read, models)
    versions = tuple(
        _use(number, read.versions[number], profiles[number], notes[number], score) for number in sorted(read.versions)
    )
    comparisons = (*_shadows(read, score), *_canaries(read, score))
    alerts = tuple(_alert(name, event) for name, event in sorted(read.alerts.items()))
    advice = [*advice_about(alerts)]
    for use in versions:
        lines = read.versions[use.version]
        advice += advice_for(use, profiles[use.version], lines.nonfinite, *_references(read, lines))
    for comparison in comparisons:
        advice += advice_on(comparison)
    return MonitoringResult(
        log=str(path),
        model=read.model,
        lines=read.lines,
        damaged=read.damaged,
        runs=read.runs,
        clock_steps=read.clock_steps,
        seconds=read.seconds,
        statuses={str(code): count for code, count in sorted(read.statuses.items())},
        nonfinite=sum(lines.nonfinite for lines in read.versions.values()),
        versions=versions,
        comparisons=comparisons,
        alerts=alerts,
        fired={name: count for name, count in sorted(read.fired.items()) if count},
        advice=tuple(advice),
    )


def logged_examples(
    log: str | os.PathLike[str], examples: Any = None
) -> tuple[dict[str, np.ndarray] | np.ndarray, np.ndarray | None]:
    """Return inputs and labels of examples in a log, as `kopt.optimize` and `kopt.export` take them.

    Args:
        log: of `kopt serve --log`.
        examples: `ExampleReference`s, e.g. of an `Advice`; every labelled example in the log if `None`.

    Returns:
        `x`, an array (a dict of arrays by name for several inputs), and `y`: labels, or `None` if one of them has none.

    Raises:
        LoadError: there is no log.
        DataError: none of the examples is in it.

    Example:
        >>> watched = kopt.serve.Monitoring(log="serve.jsonl")
        >>> with kopt.serve.Server("model.tflite", port=0, monitoring=watched, log=str) as server:
        ...     with kopt.serve.Client(server.url, server.name) as client:
        ...         scores = client.predict(x_val[:64], request_id="monday")
        ...         taken = client.label("monday", y_val[:64])
        >>> x, y = kopt.serve.logged_examples("serve.jsonl")
        >>> x.shape, y.shape
        ((64, 8, 8, 1), (64,))
    """
    path = Path(log)
    labels = Log(path, length=LEAST_EXAMPLES, score=SCORES[0]).labels
    wanted = None if examples is None else {(one.id, one.ordinal, one.row) for one in examples}
    rows: list[dict[str, np.ndarray]] = []
    found: list[float | None] = []
    for identity, arrays in logged_arrays(path):
        known = labels.get(identity)
        for row in range(len(next(iter(arrays.values())))):
            label = known[row] if known is not None and row < len(known) else None
            if (label is not None) if wanted is None else ((*identity, row) in wanted):
                rows.append({name: array[row] for name, array in arrays.items()})
                found.append(label)
    forms = {tuple((name, array.shape) for name, array in row.items()) for row in rows}
    if len(forms) != 1:
        why = "have inputs of different shapes" if forms else "are not in the log, or their inputs were not kept"
        raise DataError(f"The examples asked for of {path} {why}.")
    x = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    y = None if any(label is None for label in found) else np.array(found)
    if y is not None and (y == np.floor(y)).all():
        y = y.astype(np.int64)
    return (next(iter(x.values())) if len(x) == 1 else x), y


def compare_versions(
    log: str | os.PathLike[str], models: str | os.PathLike[str], a: int, b: int, **settings: Any
) -> ABResult:
    """Let two versions answer the labelled examples of a log, and test which is better on the same examples.

    A canary and the version beside it get different examples; here both get all.

    Args:
        log: of `kopt serve --log`.
        models: directory of versions.
        a: version in use.
        b: version to compare with it.
        settings: see `kopt.measure.ab_test`.

    Raises:
        ConfigError: there is no such version.
        DataError: the log has no labelled example with its inputs.
        KoptError: see `kopt.measure.ab_test`.

    Example:
        >>> bundles = [kopt.serve.bundle(model, "models/digits") for _ in range(2)]
        >>> watched = kopt.serve.Monitoring(log="serve.jsonl")
        >>> with kopt.serve.Server("models/digits", port=0, monitoring=watched, log=str) as server:
        ...     with kopt.serve.Client(server.url, server.name) as client:
        ...         scores = client.predict(x_val[:64], request_id="monday")
        ...         taken = client.label("monday", y_val[:64])
        >>> kopt.serve.compare_versions("serve.jsonl", "models/digits", 1, 2).verdict
        'undecided'
    """
    paths = [path_of(Path(models), version) for version in (a, b)]
    for path in paths:
        if not path.exists():
            raise ConfigError(f"There is no version {path.name} in {models}.")
    x, y = logged_examples(log)
    first, second = map(artefact_in, paths)
    return ab_test(first, second, (x, y), **settings)


def _profiles(
    read: Log, models: str | os.PathLike[str] | None
) -> tuple[dict[int, MonitoringProfile | None], dict[int, str]]:
    if models is not None:
        require_path(models)
    profiles: dict[int, MonitoringProfile | None] = {}
    notes: dict[int, str] = {}
    for number, lines in read.versions.items():
        place = Path(lines.path) if lines.path else None
        if models is not None:
            inside = path_of(Path(models), number)
            place = inside if inside.exists() else None if present(Path(models)) else Path(models)
        profiles[number], notes[number] = None, "no profile beside the version"
        if place is not None:
            try:
                profiles[number] = read_profile(place)
            except LoadError as error:
                notes[number] = str(error)
    return profiles, notes


def _use(number: int, lines: VersionLines, profile: MonitoringProfile | None, note: str, score: str) -> VersionUse:
    times = np.array(lines.times_ms) if lines.times_ms else np.array([math.nan])
    inputs = None if profile is None else held_against(profile.inputs, lines.inputs.columns())
    outputs = None if profile is None else held_against(profile.outputs, lines.outputs.columns())
    if profile is not None:
        few = lines.inputs.count < LEAST_EXAMPLES
        why = f"{lines.inputs.count} kept examples, {LEAST_EXAMPLES} are needed" if few else "other features than those"
        note = f"{why} of the profile" if inputs is None and not few else why if inputs is None else ""
    low, high = _interval(lines.scores, score)
    return VersionUse(
        version=number,
        requests=lines.requests,
        examples=lines.examples,
        p50_ms=float(np.quantile(times, 0.5)),
        p99_ms=float(np.quantile(times, 0.99)),
        kept=len(lines.kept),
        labelled=len(lines.scores),
        score=float(np.mean(lines.scores)) if lines.scores else None,
        score_low=low,
        score_high=high,
        inputs=inputs,
        outputs=outputs,
        predictions={str(one): count for one, count in lines.predictions.most_common()},
        note=note,
    )


def _interval(scores: list[float], score: str) -> Interval | tuple[None, None]:
    """Return the 95 % interval of a mean score; of an error, from its standard deviation."""
    if len(scores) < 2:
        return None, None
    mean = float(np.mean(scores))
    if score == "accuracy":
        return wilson_interval(mean, len(scores))
    half = Z_95 * float(np.std(scores, ddof=1)) / math.sqrt(len(scores))
    return mean - half, mean + half


def _shadows(read: Log, score: str) -> list[Comparison]:
    found = []
    for (a, b), (examples, same) in sorted(read.shadow_counts.items()):
        pairs = np.array(read.shadow_scores.get((a, b), ())).reshape(-1, 2)
        test = None
        if len(pairs) > 1:
            is_gain = score == "accuracy"
            test = ab_scores(pairs[:, 0], pairs[:, 1], names=_names(a, b), metric=score, larger_is_better=is_gain)
        low, high = wilson_interval(same / examples, examples) if examples else (None, None)
        agreement = same / examples if examples else None
        found.append(Comparison("shadow", a, b, examples, agreement, low, high, test))
    return found


def _canaries(read: Log, score: str) -> list[Comparison]:
    """Compare each canary with the version that answered most of the rest; on examples of their own."""
    roles = {number: lines.roles for number, lines in read.versions.items()}
    mains = [number for number, found in roles.items() if found["main"]]
    if not mains or score != "accuracy":
        return []
    a = max(mains, key=lambda number: roles[number]["main"])
    found = []
    for b in sorted(number for number, one in roles.items() if one["canary"] and number != a):
        mine, other = read.versions[a].scores, read.versions[b].scores
        low: float | None = None
        high: float | None = None
        if mine and other:
            low, high = unpaired_interval(float(np.mean(other)), len(other), float(np.mean(mine)), len(mine))
        found.append(Comparison("canary", a, b, len(other), None, low, high, None))
    return found


def _references(read: Log, lines: VersionLines) -> tuple[list[ExampleReference], list[ExampleReference]]:
    """Return the latest examples, and those without a label whose answers are the least sure."""
    latest = [_reference(read, *one[:2]) for one in list(lines.kept)[: -_LATEST - 1 : -1]]
    unsure = sorted(lines.kept, key=lambda one: one[2])
    open_ = [_reference(read, *one[:2]) for one in unsure if one[0] not in read.labels]
    return latest, open_[:_UNSURE]


def _reference(read: Log, identity: tuple[str, int], row: int) -> ExampleReference:
    labels = read.labels.get(identity)
    label = None if labels is None or row >= len(labels) else labels[row]
    return ExampleReference(identity[0], row, label if isinstance(label, (int, float)) else None, identity[1])


def _names(a: int, b: int) -> tuple[str, str]:
    return f"version {a}", f"version {b}"


def _alert(name: str, event: Any) -> Alert:
    value = event.get("value")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    state = event["state"] if event["state"] in ("quiet", "pending", "firing") else "unknown"
    return Alert(name, state, float(value) if is_number else None, float(event["up"]))
