"""The manifest `<file>.json` beside every exported file, and the check that a file is the one it describes."""

import dataclasses
import os
from pathlib import Path

from kopt.core.errors import ConfigError, LoadError, OutputExistsError
from kopt.core.files import check_output, sha256
from kopt.core.records import Artifact


def manifest_text(artifact: Artifact) -> str:
    """Return the manifest, with the file's name instead of its path, so that both can be moved."""
    return dataclasses.replace(artifact, path=Path(artifact.path).name).to_json() + "\n"


def check_target(path: str | os.PathLike[str], *, format: str, overwrite: bool) -> None:
    """Make sure that an export can go to `path` and its manifest beside it, before any long work starts.

    `overwrite` replaces an older export, never a directory that holds something else.

    Raises:
        OutputExistsError: `path` is taken, or the manifest's place by a file that is no manifest.
        OutputError: the place cannot be written.
    """
    target, manifest = Path(path), Path(f"{os.fspath(path)}.json")
    if target.is_dir():
        if format != "saved_model":
            raise OutputExistsError(f"{target} is a directory. Name a file, e.g. {target / f'model.{format}'}.")
        if any(target.iterdir()) and not (target / "saved_model.pb").is_file():
            raise OutputExistsError(
                f"{target} is a directory that holds something else than a SavedModel, so it is not replaced. Name a "
                f"new directory, e.g. {target / 'model'}."
            )
    check_output(target, overwrite=overwrite)
    if manifest.exists() and not overwrite and not _is_manifest(manifest):
        raise OutputExistsError(
            f"The manifest goes to {manifest}, where there is another file. Choose another output path, or replace "
            f"it: `overwrite=True`, `--force` on the command line."
        )


def _is_manifest(path: Path) -> bool:
    try:
        Artifact.from_json(path.read_text())
    except (ConfigError, UnicodeDecodeError, IsADirectoryError):
        return False
    return True


def read_manifest(path: str | os.PathLike[str]) -> Artifact:
    """Return what is known of the exported file or directory `path`.

    Raises:
        LoadError: the file or its manifest is missing or damaged.
    """
    manifest = Path(f"{os.fspath(path)}.json")
    if not Path(path).exists() or not manifest.is_file():
        raise LoadError(f"{path if manifest.is_file() else manifest} does not exist. Export the model again.")
    try:
        return dataclasses.replace(Artifact.from_json(manifest.read_text()), path=os.fspath(path))
    except ConfigError as error:
        raise LoadError(f"{manifest} is not a manifest of kopt: {error}") from error


def verify(path: str | os.PathLike[str]) -> Artifact:
    """Return the manifest of `path` after checking that the file is bit for bit the one it describes.

    Raises:
        LoadError: the file or manifest is missing, or the file has changed.
    """
    artifact = read_manifest(path)
    found = sha256(path)
    if found != artifact.sha256:
        raise LoadError(
            f"{path} is not the file that its manifest describes: its SHA-256 is {found}, expected {artifact.sha256}. "
            f"It was changed or damaged; export it again."
        )
    return artifact
