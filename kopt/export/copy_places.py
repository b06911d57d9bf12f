"""Where copies lie: a directory, or whatever fsspec has a URL for. `<place>/<name>/<copy>/` holds the files of a copy.

In a directory a copy appears whole. Elsewhere nothing can be renamed in one step, so the list of its files comes last,
and a copy without it is not good.
"""

import abc
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, final

from kopt.core.errors import ConfigError, MissingDependencyError
from kopt.core.files import atomic_path, remove_leftovers
from kopt.core.optional import require

CONTENT = "content.json"
_DAY_S = 86_400.0


class Place(abc.ABC):
    """A directory or URL that holds copies. What goes wrong in it is an `OSError`."""

    name: str

    @abc.abstractmethod
    def copies(self, name: str) -> list[str]:
        """Return the names of what lies under `name`; none if there is nothing."""

    @abc.abstractmethod
    def write(self, name: str, copy: str, files: Mapping[str, Path], content: bytes) -> None:
        """Write a new copy: files by relative name, then `content` as `content.json`."""

    @abc.abstractmethod
    def open(self, name: str, copy: str, file: str) -> IO[bytes]:
        """Open a file of a copy for reading."""

    @abc.abstractmethod
    def remove(self, name: str, copy: str) -> None:
        """Remove a copy."""


@final
class Directory(Place):
    """A directory of this machine; made when the first copy comes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._path = Path(path).absolute()

    def copies(self, name: str) -> list[str]:
        """Return what is there; the temporary names of writers begin with a dot."""
        holder = self._path / name
        return [child.name for child in holder.iterdir() if child.name[0] != "."] if holder.is_dir() else []

    def write(self, name: str, copy: str, files: Mapping[str, Path], content: bytes) -> None:
        """Write under a temporary name, flush, rename; first take away what killed writers left a day ago."""
        remove_leftovers(self._path / name, untouched_s=_DAY_S)
        with atomic_path(self._path / name / copy) as staged:
            for relative, source in files.items():
                target = staged / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            (staged / CONTENT).write_bytes(content)

    def open(self, name: str, copy: str, file: str) -> IO[bytes]:
        """Open a file of a copy."""
        return open(self._path / name / copy / file, "rb")

    def remove(self, name: str, copy: str) -> None:
        """Take the copy away in one step, then remove it."""
        holder = self._path / name
        away = Path(tempfile.mkdtemp(dir=holder, prefix=f".{copy}.", suffix=".kopt-tmp"))
        (holder / copy).rename(away / copy)
        shutil.rmtree(away)


@final
class Remote(Place):
    """Anything fsspec opens: object stores, SSH, another machine's disk."""

    def __init__(self, url: str) -> None:
        self.name = url
        self._system, root = _file_system(url)
        self._root = root.rstrip("/")

    def copies(self, name: str) -> list[str]:
        """Return what is there now, not what was there when it was last looked at."""
        self._system.invalidate_cache()
        try:
            found = self._system.ls(f"{self._root}/{name}", detail=False)
        except FileNotFoundError:
            return []
        return [one.rstrip("/").rpartition("/")[2] for one in found]

    def write(self, name: str, copy: str, files: Mapping[str, Path], content: bytes) -> None:
        """Write all files, the list of them last."""
        base = f"{self._root}/{name}/{copy}"
        for relative, source in files.items():
            self._system.makedirs(f"{base}/{relative}".rpartition("/")[0], exist_ok=True)
            self._system.put_file(str(source), f"{base}/{relative}")
        self._system.pipe_file(f"{base}/{CONTENT}", content)

    def open(self, name: str, copy: str, file: str) -> IO[bytes]:
        """Open a file of a copy."""
        opened: IO[bytes] = self._system.open(f"{self._root}/{name}/{copy}/{file}", "rb")
        return opened

    def remove(self, name: str, copy: str) -> None:
        """Remove the list of files first, so that half a copy is never taken for a whole one."""
        base = f"{self._root}/{name}/{copy}"
        if self._system.exists(f"{base}/{CONTENT}"):
            self._system.rm_file(f"{base}/{CONTENT}")
        if self._system.exists(base):
            self._system.rm(base, recursive=True)


def open_place(place: str | os.PathLike[str]) -> Place:
    """Return the place for a directory or URL.

    Raises:
        ConfigError: a URL that fsspec does not know.
        MissingDependencyError: fsspec, or what it needs for the URL, is not installed.
    """
    return Remote(place) if isinstance(place, str) and "://" in place else Directory(place)


def _file_system(url: str) -> tuple[Any, str]:
    core = require("fsspec.core", f"A backup at {url}")
    try:
        system, root = core.url_to_fs(url)
    except ValueError as error:
        raise ConfigError(f"{url} is no place that fsspec knows: {error}") from error
    except ImportError as error:
        raise MissingDependencyError(f"A backup at {url} needs another package: {error}") from error
    return system, root
