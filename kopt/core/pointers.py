"""Files that stand for others: what Git LFS and DVC leave where the content was not fetched."""

import os
import re
from pathlib import Path

_LFS = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\n(?:.*\n)*oid sha256:([0-9a-f]{64})\nsize (\d+)\n?")
_LARGEST_POINTER_BYTES = 1024  # of Git LFS' specification


def pointer(path: str | os.PathLike[str]) -> str:
    """Return what is to be said if `path`, or a file in it, is a pointer instead of content; empty if it is none.

    Source: the specification of Git LFS' pointer files, https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    """
    path = Path(path)
    tracked = Path(f"{path}.dvc")
    if not path.exists():
        return f"{path} is tracked by DVC and was not fetched: run `dvc pull {tracked}`." if tracked.is_file() else ""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        found = _lfs(file)
        if found:
            return (
                f"{file} is a Git LFS pointer, not the file of {int(found[2])} bytes with SHA-256 {found[1].decode()} "
                f"that it stands for: run `git lfs pull`."
            )
    return ""


def _lfs(file: Path) -> re.Match[bytes] | None:
    if not file.is_file() or file.stat().st_size >= _LARGEST_POINTER_BYTES:
        return None
    return _LFS.fullmatch(file.read_bytes())
