"""Keras model to a SavedModel directory."""

import os
import shutil
from pathlib import Path
from typing import Any

from kopt.core.randomness import preserved_random_state
from kopt.core.records.artifacts import Artifact
from kopt.core.schemes import get_scheme
from kopt.export.assembly import Converted, assemble
from kopt.export.inspection import inspect_saved_model
from kopt.export.manifest import check_target
from kopt.export.source import prepare, trace
from kopt.export.verification import examples


@preserved_random_state()
def saved_model(
    model: Any,
    path: str | os.PathLike[str],
    *,
    data: Any = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Artifact:
    """Export a model to a SavedModel directory for TF Serving and TensorFlow, in float32.

    The signature `serving_default` has the model's own input and output names and a free batch size. The directory is
    loaded again and compared with the model before it gets its name; a manifest lies beside it as `<path>.json`.

    Args:
        model: a built Keras model, the path of a `.keras`, `.h5` or SavedModel, or what `traced` yields.
        path: directory to write.
        data: real inputs to compare on; seeded random ones if not given.
        seed: of the random inputs.
        overwrite: replace `path`.

    Returns:
        What was written, with the measured difference from the model.

    Raises:
        InputError: the model cannot be used; nothing was written.
        ExportError: the directory does not compute what the model computes.
        OutputError: `path` cannot be written or exists.

    Example:
        >>> made = kopt.export.saved_model(model, "saved")
        >>> made.inputs[0].name, made.outputs[0].shape, made.parity.max_abs < 1e-5
        ('image', (None, 10), True)
    """
    model, inputs = prepare(model)
    compared = examples(data, inputs, seed)
    check_target(path, format="saved_model", overwrite=overwrite)
    source = trace(model)

    def convert(staged: Path) -> Converted:
        if source.saved_model is not None:
            copy_saved_model(source.saved_model, staged)
        else:
            source.write(staged)
        return Converted(inspect_saved_model(staged))

    return assemble(
        source,
        path,
        format="saved_model",
        scheme=get_scheme("float32"),
        convert=convert,
        examples=compared,
        options={},
        overwrite=overwrite,
    )


def copy_saved_model(source: Path, target: Path) -> None:
    """Copy a SavedModel directory to `target`, which must not exist."""
    # `shutil.copytree` gathers all errors into one of its own, which hides that the disk is full.
    target.mkdir()
    for item in sorted(source.rglob("*")):
        place = target / item.relative_to(source)
        if item.is_dir():
            place.mkdir()
        else:
            shutil.copyfile(item, place)
