"""The steps that all exporters share: from a converted file to a verified artifact with its manifest."""

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np

from kopt.core.environment import git_commit, versions
from kopt.core.files import atomic_path, gzip_bytes, scratch_directory, sha256, size_bytes
from kopt.core.records.artifacts import Artifact, FileHash, OperatorCount, TensorQuantization
from kopt.core.schemes import Scheme
from kopt.export.file_parameters import parameters_sha256
from kopt.export.manifest import manifest_text
from kopt.export.reference import write_reference
from kopt.export.source import Source
from kopt.export.verification import open_exported, parity_with_source, require_parity, require_same_signature
from kopt.graph.checks import input_structure
from kopt.measure.runner import in_order_of


@dataclasses.dataclass(frozen=True)
class Converted:
    """What a conversion says of the file it wrote.

    Attributes:
        operators: that the file holds.
        output_step: largest quantization step of its outputs.
        notes: for the manifest.
        quantization: grids of its tensors.
        runs_here: false if no runtime on this machine has the file's operators, so that it cannot be verified.
    """

    operators: tuple[OperatorCount, ...]
    output_step: float = 0.0
    notes: tuple[str, ...] = ()
    quantization: tuple[TensorQuantization, ...] = ()
    runs_here: bool = True


def assemble(
    source: Source,
    path: str | os.PathLike[str],
    *,
    format: str,
    scheme: Scheme,
    convert: Callable[[Path], Converted],
    examples: Mapping[str, np.ndarray],
    options: dict[str, str],
    overwrite: bool,
    calibration: Mapping[str, np.ndarray] | None = None,
    notes: tuple[str, ...] = (),
) -> Artifact:
    """Convert to a temporary path, verify there, and only then give the file its name and its manifest.

    Args:
        source: the traced model.
        path: final path.
        format: of the record.
        scheme: numeric scheme of the file.
        convert: writes the file at the path it is given.
        examples: arrays by input name on which file and model are compared.
        options: settings for the manifest.
        overwrite: replace what is at `path`.
        calibration: arrays by input name whose ranges the file has, for the manifest.
        notes: for the manifest, before those of the conversion.

    Raises:
        ExportError: the conversion failed, or the file does not do what the model does.
        OutputError: `path` cannot be written.
    """
    path = Path(path)  # without a slash at its end
    # The manifest is on the disk before the file gets its name, so that a disk that is full by then leaves neither.
    with (
        atomic_path(f"{os.fspath(path)}.json", overwrite=True) as staged_manifest,
        scratch_directory() as scratch,
        contextlib.ExitStack() as after_the_file,
        atomic_path(path, overwrite=overwrite) as staged,
    ):
        converted = convert(staged)
        data = staged.with_name(f"{staged.name}.data")  # weights that did not fit into the file
        parts = [staged, data] if data.is_file() else [staged]
        inputs, outputs, parity, reference = source.inputs, source.outputs, None, None
        stored = scratch / "reference.npz"
        if converted.runs_here:
            runner = open_exported(staged)
            require_same_signature(runner, source)
            parity = parity_with_source(runner, source, examples)
            require_parity(parity, scheme, converted.output_step)
            inputs = in_order_of(source.inputs, runner.inputs)
            outputs = in_order_of(source.outputs, runner.outputs)
            reference = write_reference(stored, f"{Path(path).name}.reference.npz", runner, examples)
        artifact = Artifact(
            path=os.fspath(path),
            format=format,
            scheme=scheme.name,
            size_bytes=sum(map(size_bytes, parts)),
            gzip_bytes=sum(map(gzip_bytes, parts)),
            sha256=sha256(staged),
            source_sha256=source.sha256,
            inputs=inputs,
            outputs=outputs,
            operators=converted.operators,
            options=options,
            versions=versions(),
            parity=parity,
            notes=(*notes, *_note_of_batch(source), *converted.notes),
            quantization=converted.quantization,
            parameters_sha256=parameters_sha256(staged, format),
            examples_sha256=_sha256_of(examples),
            calibration_sha256="" if calibration is None else _sha256_of(calibration),
            git_commit=git_commit(),
            reference=reference,
            external=FileHash(f"{Path(path).name}.data", size_bytes(data), sha256(data)) if data in parts else None,
        )
        staged_manifest.write_text(manifest_text(artifact))
        # A manifest of an older file must not outlive it, even if the process dies between the two writes.
        artifact.manifest_path.unlink(missing_ok=True)
        artifact.reference_path.unlink(missing_ok=True)
        if reference is not None:
            staged_reference = after_the_file.enter_context(atomic_path(artifact.reference_path, overwrite=True))
            shutil.copyfile(stored, staged_reference)
        if artifact.external is not None:
            shutil.move(data, after_the_file.enter_context(atomic_path(artifact.external_path, overwrite=True)))
    return artifact


def _note_of_batch(source: Source) -> tuple[str, ...]:
    """Return what is to be said of a batch size that nobody may have asked for."""
    if not isinstance(source.model, keras.Sequential) or source.batch_size is None:
        return ()
    if input_structure(source.model).shape[0] is None:  # the caller asked for it
        return ()
    return (
        f"Every call takes {source.batch_size} example(s), as the `keras.Input` does that the Sequential begins with, "
        f"or as the call had that built it. For any number begin it with `keras.Input(shape)`.",
    )


def _sha256_of(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
