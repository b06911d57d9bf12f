"""What a run needs before it changes models: a checked request, supplies, and a workshop."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kopt.core.environment import versions
from kopt.core.errors import ConfigError
from kopt.data.row_keys import row_keys
from kopt.search.lessons import Lessons
from kopt.search.plan import Plan
from kopt.search.training import Training
from kopt.search.trials import supplies
from kopt.search.trials.workshop import Workshop


def checked_training(training: Any) -> Training | None:
    """Return the request.

    Raises:
        ConfigError: something else was given.
    """
    if training is None or isinstance(training, Training):
        return training
    raise ConfigError(f"`training` must be a kopt.Training, e.g. kopt.Training(epochs=4). Received: {training!r}.")


def open_workshop(
    workdir: Path,
    model: Any,
    identity: Mapping[str, str],
    calibration: dict[str, np.ndarray[Any, Any]],
    plan: Plan,
    lessons: Lessons | None,
    seed: int,
) -> tuple[Workshop | None, Plan]:
    """Return where models are made, with what its child processes read on disk, and what is left of the plan.

    A model that another process cannot open, e.g. because its classes are those of the script that runs, is not
    changed; the notes of the plan say why.
    """
    if not plan.changes:
        return None, plan
    training = plan.training
    base = {**identity, **versions(), "seed": str(seed)}
    learning = {} if lessons is None or training is None else _identity(lessons, training)
    key = hashlib.sha256(json.dumps([base, learning], sort_keys=True).encode()).hexdigest()[:12]
    place = workdir / f"supplies-{key}"
    supplies.write(place, model, calibration, training=training, lessons=lessons, seed=seed)
    if problem := supplies.why_not_opened(place, model):
        note = f"Only ways to ship were tried, because the processes that change models cannot open this one. {problem}"
        return None, dataclasses.replace(plan, changes={}, training=None, notes=(*plan.notes, note))
    limit = training.trial_seconds if training else None
    return Workshop(workdir, place, base, learning, trial_seconds=limit), plan


def _identity(lessons: Lessons, training: Training) -> dict[str, str]:
    """Return what trained models depend on; of the examples not the order, which a data set may draw anew each time.

    A run that goes on takes those that lie in its directory, in the order and with the held-out part of then.
    """
    rows: list[bytes] = []
    for split in (lessons.train, lessons.held):
        arrays = keras.tree.flatten(split.arrays)
        rows += row_keys(arrays)
    digest = hashlib.sha256(json.dumps([f"{array.dtype} {array.shape[1:]}" for array in arrays]).encode())
    for row in sorted(rows):
        digest.update(row)
    # Whether a training is ended early does not change what it makes if it is not.
    settings = {key: value for key, value in training.to_dict().items() if key != "trial_seconds"}
    return {"lessons": digest.hexdigest(), "loss": json.dumps(lessons.loss), "training": json.dumps(settings)}
