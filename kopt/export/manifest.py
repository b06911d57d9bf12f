"""The manifest `<file>.json` beside every exported file, and the check that a file is the one it describes."""

import dataclasses
import os
from pathlib import Path

from kopt.core.errors import ConfigError, LoadError
from kopt.core.files import atomic_write, sha256
from kopt.core.records import Artifact


def write_manifest(artifact: Artifact) -> None:
    """Write the manifest beside the file, with the file's name instead of its path, so that both can be moved."""
    record = dataclasses.replace(artifact, path=Path(artifact.path).name)
    atomic_write(artifact.manifest_path, record.to_json() + "\n", overwrite=True)


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
