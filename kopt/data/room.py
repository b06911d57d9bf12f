"""How much memory and disk there is to hold data: what this process may use, not what the machine has."""

import os
import shutil
from pathlib import Path

_UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2^63 where there is no limit


def available_memory_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory that can still be taken without swapping, in bytes; `None` where the system does not say.

    The smallest of what the machine has free and what each control group around this process still allows: in a
    container the machine's own number is far too large. Memory that a group uses for file pages counts as free,
    because the kernel drops them first.

    Args:
        root: where `proc` and `sys` are mounted.
    """
    free = [value for value in (_machine_free(root), *_group_free(root)) if value is not None]
    return max(0, min(free)) if free else None


def free_disk_bytes(path: Path) -> int:
    """Return the bytes that can still be written below `path`, which need not exist yet."""
    place = next(ancestor for ancestor in (path.absolute(), *path.absolute().parents) if ancestor.exists())
    return shutil.disk_usage(place).free


def _machine_free(root: Path) -> int | None:
    if (meminfo := _read(root / "proc/meminfo")) is not None:
        for line in meminfo.splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    names: dict[str, int] = getattr(os, "sysconf_names", {})
    if "SC_AVPHYS_PAGES" in names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return None


def _group_free(root: Path) -> list[int]:
    groups = _read(root / "proc/self/cgroup") or ""
    free: list[int] = []
    for line in groups.splitlines():
        hierarchy, controllers, name = line.split(":", 2)
        if hierarchy == "0" and not controllers:
            top, limit, usage, reclaimable = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, usage = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            reclaimable = "total_inactive_file"
        else:
            continue
        # A limit of a parent binds too; inside a container the group may be mounted as the top itself.
        place = top / name.lstrip("/")
        for directory in (place, *place.parents):
            if (value := _left(directory, limit, usage, reclaimable)) is not None:
                free.append(value)
            if directory == top:
                break
    return free


def _left(directory: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    allowed, used = _read(directory / limit), _read(directory / usage)
    if allowed is None or used is None or not allowed.strip().isdigit() or int(allowed) >= _UNLIMITED:
        return None
    pages = 0
    for line in (_read(directory / "memory.stat") or "").splitlines():
        key, _, value = line.partition(" ")
        if key == reclaimable:
            pages = int(value)
    return int(allowed) - max(0, int(used) - pages)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:  # Not on every system, and a group may go away while it is read.
        return None
