"""Files that are either whole or absent.

Everything kopt writes goes to a temporary name beside the target, is flushed to the disk and renamed, so that a kill at
any moment leaves the old file or the new one, never half of one.
"""

import contextlib
import errno
import gzip
import hashlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kopt.core.errors import LoadError, OutputError, OutputExistsError, nearest

_CHUNK = 1 << 20
_TEMPORARY = ".kopt-tmp"
SCRATCH_REMEDY = "Make room there, or set TMPDIR to a place that has room for a few copies of the model."
_CANNOT_WRITE = frozenset(
    (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENOENT,
        errno.EFBIG,
    )
)


def require_path(path: str | os.PathLike[str]) -> None:
    """Make sure that there is something at `path`.

    Raises:
        LoadError: there is nothing; names what is called alike beside it.
    """
    path = Path(path)
    if not path.exists():
        beside = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
        raise LoadError(
            f"There is no file or directory {path}.{nearest(path.name, beside)} Check the path; it is looked up from "
            f"{Path.cwd()}."
        )


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Make sure that `path` can be written, before any long work starts. Leaves nothing behind.

    Raises:
        OutputExistsError: `path` exists and `overwrite` is false.
        OutputError: the parent directory cannot be written, or could not be created.
    """
    path = Path(path).absolute()
    with writing_to(path):
        if not overwrite and path.exists():
            raise OutputExistsError(
                f"{path} exists. Choose another path, or replace it: `overwrite=True`, `--force` on the command line."
            )
        place = next(ancestor for ancestor in path.parents if ancestor.exists())
        with tempfile.NamedTemporaryFile(dir=place, prefix=".", suffix=_TEMPORARY) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    return path


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there becomes `path` when the block ends without error.

    The block may create a file or a directory at the temporary path. On an error the temporary path is removed and
    `path` is as it was.

    Raises:
        OutputExistsError: `path` exists and `overwrite` is false, or it is a directory and what was made is a file.
        OutputError: the disk is full or the place cannot be written.
    """
    path = check_output(path, overwrite=overwrite)
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY))
    staged = holder / path.name
    try:
        with writing_to(path):
            yield staged
            _flush(staged)
            if path.is_dir():
                _require_no_directory(path, staged.is_dir())
                # A directory cannot be replaced in one step: the old one steps aside and goes with the holder.
                path.rename(holder / "replaced")
            staged.replace(path)
            _flush_directory(path.parent)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def check_output_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Make sure, as `check_output` does, that a file can be written to `path`, which must be no directory."""
    _require_no_directory(Path(path), False)
    return check_output(path, overwrite=overwrite)


def _require_no_directory(path: Path, is_replaced: bool) -> None:
    if path.is_dir() and not is_replaced:
        raise OutputExistsError(
            f"{path} is a directory, which no file takes the place of. Name a file, e.g. {path / 'report.html'}."
        )


def atomic_write(path: str | os.PathLike[str], content: str | bytes, *, overwrite: bool = False) -> Path:
    """Write `content` (text as UTF-8) to `path` in one step. See `atomic_path` for what it raises."""
    check_output_file(path, overwrite=overwrite)
    data = content.encode() if isinstance(content, str) else content
    with atomic_path(path, overwrite=overwrite) as staged:
        staged.write_bytes(data)
    return Path(path)


@contextlib.contextmanager
def writing_to(path: Path, remedy: str = "Choose a place that you may write to and that has room.") -> Iterator[None]:
    """Turn what the system raises for a full disk or a forbidden place into an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError) or error.errno not in _CANNOT_WRITE:
            raise
        raise OutputError(f"Cannot write {path}: {error.strerror or error}. {remedy}") from error


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Yield a temporary directory, which is removed at the end of the block.

    Raises:
        OutputError: there is no room for it.
    """
    with writing_to(Path(os.environ.get("TMPDIR", "/tmp")), SCRATCH_REMEDY):
        holder = tempfile.TemporaryDirectory(prefix="kopt-")
    with holder as name:
        yield Path(name)


@contextlib.contextmanager
def staging(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary directory inside `directory`, from which what is finished is moved; the rest is removed.

    Raises:
        OutputError: the disk is full or the place cannot be written.
    """
    directory = Path(directory)
    with writing_to(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".", suffix=_TEMPORARY) as name:
            yield Path(name)


def remove_leftovers(directory: str | os.PathLike[str], *, untouched_s: float = 0.0) -> None:
    """Remove the temporary files of writers that were killed in `directory`.

    Args:
        directory: where they wrote.
        untouched_s: seconds for which nothing was written to what is removed. Where other processes may be writing, a
            time that no writer pauses for.
    """
    for leftover in Path(directory).glob(f".*{_TEMPORARY}"):
        if untouched_s and time.time() - _touched(leftover) < untouched_s:
            continue
        shutil.rmtree(leftover, ignore_errors=untouched_s > 0) if leftover.is_dir() else leftover.unlink(
            missing_ok=True
        )


def _touched(path: Path) -> float:
    """Return when something in a file or directory was last written, in seconds since 1970; now if it has gone."""
    try:
        return max(one.stat().st_mtime for one in (path, *path.rglob("*")))
    except FileNotFoundError:
        return time.time()


def size_bytes(path: str | os.PathLike[str]) -> int:
    """Return the size of a file, or of all files in a directory, in bytes."""
    return sum(file.stat().st_size for file in _files(Path(path)))


def gzip_bytes(path: str | os.PathLike[str]) -> int:
    """Return the size in bytes of a file or directory after gzip (level 6): what a download would cost."""
    total = 0
    for file in _files(Path(path)):
        counter = _Counter()
        with (
            open(file, "rb") as source,
            gzip.GzipFile(fileobj=counter, mode="wb", compresslevel=6, mtime=0) as sink,
        ):
            shutil.copyfileobj(source, sink, _CHUNK)
        total += counter.count
    return total


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file; of a directory, that of its sorted relative names and contents."""
    path = Path(path)
    digest = hashlib.sha256()
    for file in _files(path):
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with open(file, "rb") as source:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


class _Counter(io.RawIOBase):
    """A sink that only counts."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.count += len(data)
        return len(data)


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _flush(path: Path) -> None:
    for file in _files(path):
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
