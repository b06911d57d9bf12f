"""`kopt.serve.write_profile`: what a version meets when it is judged, kept beside it for later comparison."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from kopt.core.errors import ConfigError, DataError, LoadError
from kopt.core.files import atomic_write, sha256
from kopt.core.records.shipping.monitoring import SCORES, MonitoringProfile
from kopt.core.settings import choice
from kopt.measure import drift_profile, load
from kopt.measure.accuracy import labelled_batches
from kopt.measure.feeding import convert, match
from kopt.serve.loaded import artefact_in
from kopt.serve.monitoring.predictions import MOST_FEATURES, features, label_scores, measurable, numeric
from kopt.serve.versions import path_of, present


def write_profile(
    model: str | os.PathLike[str],
    data: Any,
    *,
    version: int | None = None,
    labelled: bool = False,
    score: str = "accuracy",
    bins: int = 10,
    safe_mode: bool = True,
) -> MonitoringProfile:
    """Run a version on the data that it was judged by, and keep the distributions of inputs and predictions beside it.

    A server that watches itself holds what comes later against it. The profile belongs to the very file that made the
    predictions, by its hash.

    Args:
        model: directory of versions, or an exported file.
        data: inputs, or `(x, y)` if `labelled`; arrays or a finite, batched `tf.data.Dataset`. Some thousand examples
            of the validation set are enough; drift is told from chance the better, the more there are.
        version: in a directory of versions; the newest if `None`.
        labelled: whether `data` is `(x, y)`, so that the score can be told to have fallen.
        score: `"accuracy"` or `"absolute error"`, the mean over an output's values.
        bins: of each feature, of equal counts.
        safe_mode: see `kopt.load_model`.

    Raises:
        ConfigError: there is no such version.
        DataError: the data does not fit, has too few examples, or more than 1,000 columns.
        LoadError: the file cannot be opened.
        OutputError: the profile cannot be written.

    Example:
        >>> profile = kopt.serve.write_profile("model.tflite", (x_val, y_val), labelled=True)
        >>> profile.examples, profile.score_name
        (269, 'accuracy')
    """
    choice("score", score, SCORES)
    artefact = _artefact(Path(model), version)
    runner = load(artefact, safe_mode=safe_mode)
    inputs: list[dict[str, np.ndarray]] = []
    outputs: list[dict[str, np.ndarray]] = []
    scores: list[float] = []
    for x, y in _batches(data, labelled):
        named = match(runner.inputs, x)
        wire = {
            info.name: named[info.name] if info.scale is not None else convert(info, named[info.name])
            for info in runner.inputs
        }
        found = runner.predict(wire)
        answers = found if isinstance(found, dict) else {runner.outputs[0].name: found}
        inputs.append(measurable(wire))
        outputs.append(numeric(answers))
        scores += [] if y is None else label_scores(answers, y, score)
    if not inputs or not inputs[0] or not outputs[0]:
        raise DataError(
            f"{artefact} has no inputs of numbers or texts or no outputs of numbers to describe, or the data is empty."
        )
    if not features(inputs[0]) or not features(outputs[0]):
        raise DataError(
            f"{artefact} has inputs or outputs of more than {MOST_FEATURES} columns, which are not watched one by one."
        )
    profile = MonitoringProfile(
        sha256=sha256(artefact),
        examples=sum(len(next(iter(part.values()))) for part in inputs),
        inputs=drift_profile(_joined(inputs), bins=bins),
        outputs=drift_profile(_joined(outputs), bins=bins),
        score=float(np.mean(scores)) if scores else None,
        score_name=score,
    )
    atomic_write(profile_path(artefact), profile.to_json() + "\n", overwrite=True)
    return profile


def read_profile(path: Path) -> MonitoringProfile | None:
    """Return the profile beside a version or file; `None` if there is none.

    Raises:
        LoadError: it is damaged.
    """
    try:
        text = profile_path(artefact_in(path)).read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{profile_path(path)} cannot be read: {error}") from error
    try:
        return MonitoringProfile.from_json(text)
    except ConfigError as error:
        raise LoadError(
            f"{profile_path(path)} holds no profile: {error} Write it anew with `write_profile`."
        ) from error


def require_own(profile: MonitoringProfile, path: Path) -> None:
    """Raise unless a profile belongs to the version or file that it lies beside.

    Raises:
        LoadError: it was made of another file.
    """
    artefact = artefact_in(path)
    if sha256(artefact) != profile.sha256:
        raise LoadError(
            f"{profile_path(artefact)} was made of another file than {artefact}, so drift is not watched. Write it "
            "anew with `write_profile`."
        )


def profile_path(artefact: Path) -> Path:
    """Return where the profile of an artefact lies."""
    return Path(f"{artefact}.profile.json")


def _artefact(path: Path, version: int | None) -> Path:
    versions = present(path) if not (path / "saved_model.pb").is_file() else ()
    if not versions:
        if version is not None:
            raise ConfigError(f"{path} is no directory of versions. Leave `version` out.")
        return artefact_in(path)
    if version is not None and version not in versions:
        raise ConfigError(f"There is no version {version!r} in {path}; there are {', '.join(map(str, versions))}.")
    return artefact_in(path_of(path, versions[-1] if version is None else version))


def _batches(data: Any, labelled: bool) -> Any:
    if labelled:
        return ((x, y) for x, y, _ in labelled_batches(data))
    if hasattr(data, "as_numpy_iterator"):
        return ((x, None) for x in data.as_numpy_iterator())
    return [(data, None)]


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
