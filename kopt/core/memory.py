"""Memory of this process, and how much more there is: read from Linux, without any library.

Resident memory counts what stands in physical memory: code, weights, activations, and what the allocator keeps for
later. Its peak since a moment is what decides whether a process is killed.
"""

import ctypes
import os
import sys
from pathlib import Path

from kopt.core.errors import MeasurementError

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Files of the limit, of the use and of the part of the use that the kernel gives back at once: version 2, version 1.
_CGROUP_2 = ("memory.max", "memory.current", "inactive_file")
_CGROUP_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def resident_bytes() -> int:
    """Return the resident memory of this process now.

    Raises:
        MeasurementError: not on Linux.
    """
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    """Return the highest resident memory of this process since it began or since `start_peak`.

    Raises:
        MeasurementError: not on Linux.
    """
    return _status_bytes("VmHWM")


def start_peak() -> int:
    """Forget the peak so far, and return resident memory now.

    Memory that was freed but is still held by the allocator goes back to the system first, so that what comes next is
    not hidden in it.

    Raises:
        MeasurementError: the kernel does not let a process do that (Linux does).
    """
    _trim()
    try:
        (_PROC / "self/clear_refs").write_text("5")
    except OSError as error:
        raise MeasurementError(f"The peak of resident memory cannot be measured here ({error}); Linux can.") from error
    return resident_bytes()


def available_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Return how much more memory processes can take before the system or a container's limit ends one.

    The least of what the system calls available, and, for each control group this process is in, its limit less its use
    (without file pages that the kernel drops when it needs room).

    Args:
        proc: where the kernel shows processes.
        cgroups: where it shows control groups.

    Raises:
        MeasurementError: not on Linux.
    """
    rooms = [_field_bytes(proc / "meminfo", "MemAvailable:", 1024)]
    for line in _lines(proc / "self/cgroup"):
        number, controllers, name = line.split(":", 2)
        if number == "0":
            rooms += _rooms(cgroups, name, _CGROUP_2)
        elif "memory" in controllers.split(","):
            rooms += _rooms(cgroups / "memory", name, _CGROUP_1)
    return max(0, min(rooms))


def _rooms(root: Path, name: str, files: tuple[str, str, str]) -> list[int]:
    """Return the room in a control group and in those above it, where they have a limit."""
    limit_file, use_file, inactive = files
    group, rooms = root / name.strip("/"), []
    while group == root or root in group.parents:
        limit = _text(group / limit_file)
        if limit and limit != "max":
            use = int(_text(group / use_file) or 0)
            rooms.append(int(limit) - use + _field_bytes(group / "memory.stat", inactive, 1))
        group = group.parent
    return rooms


def _status_bytes(field: str) -> int:
    return _field_bytes(_PROC / "self/status", f"{field}:", 1024)


def _field_bytes(path: Path, field: str, unit: int) -> int:
    for line in _lines(path):
        words = line.split()
        if words and words[0] == field:
            return unit * int(words[1])
    raise MeasurementError(f"{path} has no line {field!r}: memory is measured on Linux only.")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError as error:
        raise MeasurementError(f"Memory is measured on Linux only ({error}).") from error


def _text(path: Path) -> str:
    return path.read_text().strip() if os.access(path, os.R_OK) and path.is_file() else ""


def _trim() -> None:
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # Of the GNU C library; others hold back less.
        if trim is not None:
            trim(0)
