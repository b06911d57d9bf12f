"""Every profile of a model in one call, with the reason for what cannot be made."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from kopt.core.environment import machine
from kopt.core.errors import ConfigError, DataError, KoptError, nearest, words_of
from kopt.core.files import atomic_write
from kopt.core.progress import Progress, Silent
from kopt.core.records.profiles.full import PARTS, FullProfile
from kopt.core.settings import whole
from kopt.graph import require_built
from kopt.profile.cost.profile import model as cost
from kopt.profile.cost.roofline import roofline
from kopt.profile.gradient_flow.profile import gradients
from kopt.profile.layer_sensitivity import sensitivity
from kopt.profile.tensorboard import InTensorBoard
from kopt.profile.timing.layers import layer_times
from kopt.profile.timing.ops import ops
from kopt.profile.weights.profile import parameters
from kopt.report.look import Look
from kopt.report.profiles.profile_page import full_profile_table, profile_headline, profile_html
from kopt.report.profiles.roofline import ROOFLINE
from kopt.train.batch_loss import require_known_loss

_NEED_LABELS = ("gradients", "sensitivity")


@dataclasses.dataclass(frozen=True)
class Full(InTensorBoard, FullProfile):
    """What `full` found: `.table()`, `.plot(path)` (the roofline) and `.html(path)`.

    Example:
        >>> found = kopt.profile.full(model, (x_train, y_train), parts=["parameters", "gradients"])
        >>> found.gradients.batches, found.roofline, found.skipped["roofline"]
        (16, None, 'It was not asked for.')
        >>> path = found.html("profile.html")
    """

    look = Look("full-profile", full_profile_table, lambda profile: ROOFLINE.figure(profile.roofline), profile_headline)

    def html(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write all of it to one HTML file that needs no network, and return its path.

        Raises:
            OutputExistsError: the file exists and `overwrite` is false.
            OutputError: the path cannot be written.
        """
        return atomic_write(path, profile_html(self), overwrite=overwrite)

    def to_tensorboard(self, directory: str | os.PathLike[str], *, step: int = 0) -> None:
        """Write event files with every part; see `InTensorBoard.to_tensorboard`."""
        for field in dataclasses.fields(self):
            part = getattr(self, field.name)
            if isinstance(part, InTensorBoard):
                part.to_tensorboard(directory, step=step)


def full(
    model: keras.Model,
    data: Any = None,
    *,
    validation: Any = None,
    parts: Sequence[str] = PARTS,
    loss: Any = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Full:
    """Return the costs, roofline, parameters, times, gradients and sensitivity of a model, as far as they can be made.

    Args:
        model: built.
        data: `(x, y)` to train on, or a batched `tf.data.Dataset` of such; without, what needs labels is left out and
            inputs are made up.
        validation: `(x, y)` for the sensitivity; `data` if `None`. About 1,000 examples are enough.
        parts: which to make: `"cost"` (always), `"roofline"`, `"parameters"`, `"layer times"`, `"operations"`,
            `"gradients"`, `"sensitivity"`.
        loss: for gradients and sensitivity; the compiled one by default.
        batch_size: examples a step.
        progress: told of every part.

    Returns:
        Record with everything; `skipped` has the reason for each part that could not be made.

    Raises:
        InputError: the model is not built.
        ConfigError: an unknown part or loss.

    Example:
        >>> found = kopt.profile.full(model, (x_train, y_train), parts=["cost", "gradients"])
        >>> found.cost.macs, found.gradients.examples
        (16416, 512)
        >>> path = found.html("profile.html")
    """
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"Unknown part {part!r}.{nearest(part, PARTS)} Accepted: {', '.join(PARTS)}.")
    whole("batch_size", batch_size)
    require_known_loss(loss)
    require_built(model)
    begin = time.monotonic()
    inputs = _inputs_of(data)
    judged = data if validation is None else validation
    trains = data if data is not None and model.compiled else inputs
    makers: dict[str, Callable[[], Any]] = {
        "roofline": lambda: roofline(model, inputs, batch_size=batch_size),
        "parameters": lambda: parameters(model),
        "layer times": lambda: layer_times(model, trains, batch_size=batch_size),
        "operations": lambda: ops(model, trains, batch_size=batch_size),
        "gradients": lambda: gradients(model, data, loss=loss, batch_size=batch_size),
        "sensitivity": lambda: sensitivity(model, judged, loss=loss),
    }
    costs = cost(model, inputs)
    made, skipped = _made(makers, parts, data is not None, progress or Silent())
    return Full(
        model=model.name,
        cost=costs,
        roofline=made.get("roofline"),
        parameters=made.get("parameters"),
        layer_times=made.get("layer times"),
        operations=made.get("operations"),
        gradients=made.get("gradients"),
        sensitivity=made.get("sensitivity"),
        skipped=skipped,
        machine=machine(),
        seconds=time.monotonic() - begin,
    )


def _inputs_of(data: Any) -> Any:
    """Return the inputs alone; of a data set itself, whose labels are passed over where there is no use for them."""
    if data is None or hasattr(data, "element_spec"):
        return data
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise DataError(
            f"`data` is (x, y), or a batched tf.data.Dataset of such. Received: {type(data).__module__}."
            f"{type(data).__qualname__}. Without labels: `kopt.profile.roofline(model, x)` and its like take x alone."
        )
    return data[0]


def _made(
    makers: dict[str, Callable[[], Any]], parts: Sequence[str], has_labels: bool, progress: Progress
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what could be made, and why the rest could not."""
    made: dict[str, Any] = {}
    skipped = {part: "It was not asked for." for part in makers if part not in parts}
    wanted = [part for part in makers if part in parts]
    progress.start(len(wanted))
    try:
        for part in wanted:
            progress.step(part)
            if part in _NEED_LABELS and not has_labels:
                skipped[part] = "It needs labelled data: pass `data`."
                continue
            try:
                made[part] = makers[part]()
            except KoptError as error:  # One part that cannot be made does not take the others away.
                skipped[part] = str(error)
            except Exception as error:  # noqa: BLE001 - whatever Keras and TensorFlow raise of a model
                skipped[part] = f"{type(error).__name__}: {words_of(error)}"
    finally:
        progress.finish()
    return made, skipped
