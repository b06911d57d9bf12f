"""One run at a time in a work directory."""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from kopt.core.errors import OutputError
from kopt.core.files import remove_leftovers, writing_to

NAME = ".kopt-run.lock"


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who works in a directory."""

    pid: int
    host: str
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"


@contextlib.contextmanager
def held(directory: Path) -> Iterator[Holder | None]:
    """Keep other runs out of `directory` while the block lasts, and yield who held it last if it died meanwhile.

    The system lets go of the lock when its holder dies, however it dies, so that one left behind keeps nobody out.
    What it left half written goes.

    Raises:
        OutputError: another run works there, or the place cannot be written.
    """
    path = directory / NAME
    with writing_to(path):
        directory.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+")  # noqa: SIM115 - closed below, when the block ends
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"Another run works in {directory}: {_holder(path)}. Wait until it ends, or choose another `workdir`."
            ) from None
        dead = _signed(path)
        remove_leftovers(directory)
        with writing_to(path):
            _sign(handle)
        try:
            yield dead
        finally:
            handle.truncate(0)


def _sign(handle: TextIO) -> None:
    holder = Holder(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S %z"))
    handle.truncate(0)
    handle.write(json.dumps(dataclasses.asdict(holder)) + "\n")
    handle.flush()


def _holder(path: Path) -> str:
    return str(_signed(path) or "a process that has just begun")


def _signed(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text()))
    except (ValueError, TypeError):  # nobody, or one that has the lock and has not signed yet
        return None
