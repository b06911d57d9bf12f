"""What child processes of a run read: the model, examples and settings, in a directory that is whole or absent."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kopt.core.errors import KoptError
from kopt.core.files import atomic_path
from kopt.core.serialization import Record
from kopt.graph import load_model
from kopt.graph.internals import inner_layers
from kopt.search.lessons import Lesson, Lessons
from kopt.search.techniques.work import Work
from kopt.search.training import Training
from kopt.search.trials import examples

_MODEL, _TERMS = "model.keras", "terms.json"
_CALIBRATION, _TRAIN, _HELD = "calibration", "train", "held"


@dataclasses.dataclass(frozen=True)
class Terms(Record):
    """What is no array.

    Attributes:
        seed: of all random choices.
        training: `None` without trained candidates.
        loss: of the labels, as JSON.
        imports: modules whose classes the model is made of, to be imported before it is opened.
        paths: where Python looks for modules.
    """

    seed: int
    training: Training | None
    loss: str
    imports: tuple[str, ...]
    paths: tuple[str, ...]


def write(
    directory: Path,
    model: keras.Model,
    calibration: dict[str, np.ndarray[Any, Any]],
    *,
    training: Training | None,
    lessons: Lessons | None,
    seed: int,
) -> None:
    """Write the supplies into `directory`, unless they are there."""
    if directory.is_dir():
        return
    loss = json.dumps(lessons.loss if lessons else None)
    terms = Terms(
        seed, training, loss, _modules(model, lessons and lessons.loss), tuple(path for path in sys.path if path)
    )
    with atomic_path(directory) as staged:
        staged.mkdir()
        model.save(staged / _MODEL)
        examples.write(calibration, staged / _CALIBRATION)
        if lessons is not None:
            _write_lessons(lessons, staged)
        (staged / _TERMS).write_text(terms.to_json() + "\n")


def _write_lessons(lessons: Lessons, staged: Path) -> None:
    """Write examples, or move the files in which they lie already."""
    targets = (staged / _TRAIN, staged / _HELD)
    if lessons.places is not None:
        for place, target in zip(lessons.places, targets, strict=True):
            place.rename(target)
        return
    for lesson, target in zip((lessons.train, lessons.held), targets, strict=True):
        examples.write(lesson.arrays, target)


def why_not_opened(directory: Path, model: keras.Model) -> str:
    """Return why another process could not open the model as it was written; empty if it can."""
    if own := sorted(kind.__name__ for kind in _classes(model) if kind.__module__ == "__main__"):
        return (
            f"{', '.join(own)} of the script that runs cannot be imported there: put such classes into a module of "
            f"their own."
        )
    try:
        load_model(original(directory))
    except KoptError as error:
        return str(error)
    return ""


def terms(directory: Path) -> Terms:
    """Return the settings in a directory of supplies."""
    return Terms.from_json((directory / _TERMS).read_text())


def make_importable(terms: Terms, more: tuple[str, ...] = ()) -> None:
    """Import the modules whose classes the model is made of, and others, looking where the search itself looks."""
    sys.path[:] = [*sys.path, *(path for path in terms.paths if path not in sys.path)]
    for module in (*terms.imports, *more):
        importlib.import_module(module)


def original(directory: Path) -> Path:
    """Return the path of the model as it was given."""
    return directory / _MODEL


def work(directory: Path) -> Work:
    """Return what techniques are given, from a directory of supplies."""
    given = terms(directory)
    loss = json.loads(given.loss)
    has_lessons = (directory / _TRAIN).is_dir()
    return Work(
        original=load_model(original(directory), compile=False),
        calibration={name: np.asarray(array) for name, array in examples.read(directory / _CALIBRATION).items()},
        training=given.training,
        train=Lesson(*examples.read(directory / _TRAIN)) if has_lessons else None,
        held=Lesson(*examples.read(directory / _HELD)) if has_lessons else None,
        loss=keras.losses.deserialize(loss) if isinstance(loss, dict) else loss,
        seed=given.seed,
    )


def _modules(model: keras.Model, loss: Any) -> tuple[str, ...]:
    """Return the modules of the user's own layer classes and of their own loss."""
    found = {kind.__module__ for kind in _classes(model)}
    if isinstance(loss, dict):
        name = loss["config"] if loss["class_name"] == "function" else loss["registered_name"]
        found.add(getattr(keras.saving.get_registered_object(name), "__module__", "keras"))
    return tuple(sorted(name for name in found if name.partition(".")[0] not in ("keras", "kopt", "__main__")))


def _classes(model: keras.Model) -> set[type]:
    """Return the classes of a model and of all layers in it."""
    found: set[type] = set()
    layers = [model]
    while layers:
        layer = layers.pop()
        found.add(type(layer))
        layers.extend(inner_layers(layer))
    return found
