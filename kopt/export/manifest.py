"""The manifest `<file>.json` beside every exported file, and the check that a file is the one it describes.

A manifest ends in a seal, the SHA-256 of the text before it, so that a byte that changes in it is found as well. Those
of older versions have none.
"""

import dataclasses
import hashlib
import os
import re
from pathlib import Path

from kopt.core.errors import ConfigError, LoadError, OutputExistsError
from kopt.core.files import check_output, sha256
from kopt.core.pointers import pointer
from kopt.core.records.artifacts import Artifact, FileHash
from kopt.measure.loading import FORMATS

_SEALED = re.compile(r'(.*),\n  "seal": "([0-9a-f]{64})"\n}\n', re.DOTALL)


def manifest_text(artifact: Artifact) -> str:
    """Return the manifest, with the file's name instead of its path, so that both can be moved."""
    text = dataclasses.replace(artifact, path=Path(artifact.path).name).to_json().removesuffix("\n}")
    return f'{text},\n  "seal": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'


def check_target(path: str | os.PathLike[str], *, format: str, overwrite: bool) -> None:
    """Make sure that an export can go to `path` and its manifest beside it, before any long work starts.

    `overwrite` replaces an older export, never a directory that holds something else.

    Raises:
        ConfigError: the suffix is that of another format, or none.
        OutputExistsError: `path` is taken, or the manifest's place by a file that is no manifest.
        OutputError: the place cannot be written.
    """
    target, manifest = Path(path), Path(f"{Path(path)}.json")
    if target.is_dir():
        if format != "saved_model":
            raise OutputExistsError(f"{target} is a directory. Name a file, e.g. {target / f'model.{format}'}.")
        if any(target.iterdir()) and not (target / "saved_model.pb").is_file():
            raise OutputExistsError(
                f"{target} is a directory that holds something else than a SavedModel, so it is not replaced. Name a "
                f"new directory, e.g. {target / 'model'}."
            )
    suffixes = [suffix for suffix, known in FORMATS.items() if known == format]
    if suffixes and target.suffix.lower() not in suffixes:
        raise ConfigError(
            f"The name of a file of this format ends in {' or '.join(suffixes)}, by which runtimes and tools know it. "
            f"Received: {target.name!r}, in place of e.g. {target.stem + suffixes[0]!r}."
        )
    check_output(target, overwrite=overwrite)
    if manifest.exists() and not overwrite and not is_manifest(manifest):
        raise OutputExistsError(
            f"The manifest goes to {manifest}, where there is another file. Choose another output path, or replace "
            f"it: `overwrite=True`, `--force` on the command line."
        )


def is_manifest(path: Path) -> bool:
    """Return whether a file is a manifest of kopt."""
    try:
        _parsed(path)
    except (LoadError, OSError):
        return False
    return True


def is_sealed(path: str | os.PathLike[str]) -> bool:
    """Return whether the manifest of `path` has a seal; that it fits is what `read_manifest` checks."""
    return _SEALED.fullmatch(_text(Path(f"{Path(path)}.json"))) is not None


def _parsed(manifest: Path) -> Artifact:
    text = _text(manifest)
    sealed = _SEALED.fullmatch(text)
    if sealed is None:
        return _record(manifest, text)
    if hashlib.sha256(sealed[1].encode()).hexdigest() != sealed[2]:
        raise LoadError(f"{manifest} was changed or damaged: its seal does not fit. Restore it, or export again.")
    return _record(manifest, f"{sealed[1]}\n}}\n")


def _record(manifest: Path, text: str) -> Artifact:
    try:
        return Artifact.from_json(text)
    except ConfigError as error:
        raise LoadError(f"{manifest} is not a manifest of kopt: {error}") from error


def _text(manifest: Path) -> str:
    try:
        return manifest.read_bytes().decode().replace("\r\n", "\n")  # as Git may have checked it out
    except UnicodeDecodeError as error:
        raise LoadError(f"{manifest} is not a manifest of kopt: {error}") from error


def read_manifest(path: str | os.PathLike[str]) -> Artifact:
    """Return what is known of the exported file or directory `path`.

    Raises:
        LoadError: the file or its manifest is missing or damaged.

    Example:
        >>> made = kopt.export.read_manifest("model.tflite")
        >>> made.format, made.scheme, made.inputs[0].shape, made.parity.max_abs < 1e-5
        ('tflite', 'float32', (None, 8, 8, 1), True)
    """
    manifest = Path(f"{Path(path)}.json")
    require_content(manifest)
    if not Path(path).exists():
        require_content(Path(path))
    if not Path(path).exists() or not manifest.is_file():
        raise LoadError(f"{path if manifest.is_file() else manifest} does not exist. Export the model again.")
    return dataclasses.replace(_parsed(manifest), path=os.fspath(path))


def require_content(path: Path) -> None:
    """Raise if there is a pointer of Git LFS or DVC where the content of `path` should be.

    Raises:
        LoadError: says what to run.
    """
    said = pointer(path)
    if said:
        raise LoadError(said)


def require_intact(path: str | os.PathLike[str]) -> Artifact:
    """Return the manifest of `path` after checking that the file is bit for bit the one it describes.

    Raises:
        LoadError: the file or manifest is missing or a pointer, or one of them has changed.
    """
    artifact = read_manifest(path)
    require_content(Path(path))
    found = sha256(path)
    if found != artifact.sha256:
        raise LoadError(
            f"{path} is not the file that its manifest describes: its SHA-256 is {found}, expected {artifact.sha256}. "
            f"It was changed or damaged; export it again."
        )
    _require_beside(artifact.external, artifact.external_path)
    return artifact


def require_reference(artifact: Artifact) -> None:
    """Raise unless the reference that the manifest names, if any, lies beside the file as it was written.

    Raises:
        LoadError: it is missing, a pointer, or has changed.
    """
    _require_beside(artifact.reference, artifact.reference_path)


def _require_beside(expected: FileHash | None, path: Path) -> None:
    if expected is None:
        return
    require_content(path)
    if not path.is_file():
        raise LoadError(f"{path} does not exist. It belongs to the file: copy it along, or export again.")
    if sha256(path) != expected.sha256:
        raise LoadError(f"{path} was changed or damaged: its SHA-256 is not the one in the manifest.")
