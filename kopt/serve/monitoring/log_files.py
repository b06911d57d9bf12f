"""A log that is bounded on the disk, whole after a kill, and never in the way of what it tells about."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from kopt.core.errors import ConfigError, LoadError, OutputError
from kopt.core.files import writing_to

_LONGEST_LINE = 64 << 20


class LogFile:
    """Appends lines to `path`, which steps aside as `<path>.1` when it is full; the oldest of those goes.

    Its owner alone may read it, since inputs may be anything.

    Lines go to the system in one piece, so that a kill costs at most the one being written, and what it left of one is
    closed by the next writer. On a full disk lines are dropped and counted, and the next ones are tried anew.

    Args:
        path: of the newest file.
        max_bytes: of one file.
        keep: older files that stay.
        say: takes a line when the disk refuses, and when it takes lines again.

    Raises:
        ConfigError: another server writes there.
        OutputError: the place cannot be written.
    """

    def __init__(self, path: Path, max_bytes: int, keep: int, say: Callable[[str], None]):
        self.path = path.absolute()
        self.written = 0
        self.dropped = 0
        self._max_bytes = max_bytes
        self._keep = keep
        self._say = say
        self._failing = False
        self._lock = _locked(self.path)
        try:
            self._file = self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def write(self, lines: list[bytes]) -> None:
        """Append lines, each with its end, as far as there is room; never raises for the disk."""
        batch: list[bytes] = []
        size = 0
        for line in lines:
            if size and self._size + size + len(line) > self._max_bytes:
                self._append(batch)
                batch, size = [], 0
            batch.append(line)
            size += len(line)
        if batch:
            self._append(batch)

    def close(self) -> None:
        """Flush to the disk and let go."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        os.close(self._lock)

    def _open(self) -> int:
        with writing_to(self.path):
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(file).st_size
        if self._size and os.pread(file, 1, self._size - 1) not in (b"\n", b""):
            self._size += os.write(file, b"\n")  # what a kill left of a line becomes a line of its own
        return file

    def _append(self, batch: list[bytes]) -> None:
        data = b"".join(batch)
        try:
            if self._file < 0:
                self._file = self._open()
            if self._size and self._size + len(data) > self._max_bytes:
                self._rotate()
            self._write_whole(data)
        except (OSError, OutputError) as error:
            self.dropped += len(batch)
            if not self._failing:
                self._say(f"lines of {self.path} are dropped: {getattr(error, 'strerror', None) or error}")
            self._failing = True
            return
        self.written += len(batch)
        if self._failing:
            self._failing = False
            self._say(f"{self.path} takes lines again; {self.dropped} were dropped")

    def _write_whole(self, data: bytes) -> None:
        """Write all of it or, if the disk takes a part alone, take that back."""
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError:
            if done:
                os.ftruncate(self._file, self._size)
            raise
        self._size += done

    def _rotate(self) -> None:
        os.close(self._file)
        self._file = -1
        for number in range(self._keep, 0, -1):
            older = self.path if number == 1 else _aside(self.path, number - 1)
            if older.exists():
                os.replace(older, _aside(self.path, number))
        if not self._keep:
            self.path.unlink(missing_ok=True)
        self._file = self._open()


def log_files(path: Path) -> list[Path]:
    """Return the files of a log that are there, the oldest first.

    Raises:
        LoadError: there is none.
    """
    numbered = []
    if path.parent.is_dir():
        for one in path.parent.glob(f"{_escaped(path.name)}.*"):
            number = one.name.removeprefix(f"{path.name}.")
            if number.isascii() and number.isdigit() and one.is_file():
                numbered.append((int(number), one))
    found = [one for _, one in sorted(numbered, reverse=True)] + ([path] if path.is_file() else [])
    if not found:
        raise LoadError(f"There is no log {path}. `kopt serve --log FILE` writes one.")
    return found


def log_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of all files of a log in order, without their ends.

    A line is never longer than 64 MiB here: what is longer comes in pieces, which are no events.

    Raises:
        LoadError: a file cannot be read.
    """
    with contextlib.ExitStack() as stack:
        for one, file in _opened(path, stack):
            try:
                while line := file.readline(_LONGEST_LINE):
                    yield line.rstrip(b"\r\n")
            except OSError as error:
                raise LoadError(f"Cannot read {one}: {error.strerror or error}.") from error


def _opened(path: Path, stack: contextlib.ExitStack) -> list[tuple[Path, BinaryIO]]:
    """Open all files of a log, and return them the oldest first.

    They are opened the newest first and before any is read: a file that a server puts aside meanwhile is met again
    under its next name, and taken once.
    """
    found: list[tuple[Path, BinaryIO]] = []
    known = set()
    newest = [path, *reversed([one for one in log_files(path) if one != path])]
    number = 0
    while number < len(newest):
        one = newest[number]
        number += 1
        try:
            file = stack.enter_context(one.open("rb"))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise LoadError(f"Cannot read {one}: {error.strerror or error}.") from error
        status = os.fstat(file.fileno())
        if (status.st_dev, status.st_ino) not in known:
            known.add((status.st_dev, status.st_ino))
            found.append((one, file))
        if number == len(newest) and _aside(path, number).is_file():
            newest.append(_aside(path, number))
    return found[::-1]


def _locked(path: Path) -> int:
    """Hold the log's lock, which the system lets go of when its holder dies."""
    with writing_to(path):
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConfigError(f"Another server writes {path}. Give each server a log of its own.") from None
    return lock


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
