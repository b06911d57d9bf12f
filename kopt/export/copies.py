"""`kopt.export.backup`: several verified copies of an exported file in several places, and the newest good one back."""

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from kopt.core.errors import ConfigError, KoptError, LoadError, OutputError, OutputExistsError
from kopt.core.files import atomic_path, check_output, sha256, writing_to
from kopt.core.records.artifacts import Artifact, FileHash
from kopt.core.records.shipping.safekeeping import BackupCopy, BackupReport, CopyContent
from kopt.core.settings import whole
from kopt.export.copy_places import CONTENT, Place, open_place
from kopt.export.manifest import is_manifest, require_intact, require_reference

# Milliseconds since 1970, or one more than the newest that is there, by which the newest is known across places that
# were not always written together; the beginning of the hash of the list of files; what keeps two writers apart.
_COPY = re.compile(r"(\d{8,})-([0-9a-f]{16})-[0-9a-f]{8}")
_CHUNK = 1 << 20
_PROFILE = ".profile.json"  # what `kopt.serve.write_profile` keeps of the examples that judged the file
_OPTIONAL = (".reference.npz", ".data", _PROFILE)
_BESIDE = (".json", *_OPTIONAL)
Places = Sequence[str | os.PathLike[str]]


def backup(path: str | os.PathLike[str], places: Places, *, keep: int = 3) -> BackupReport:
    """Put a copy of an exported file, with all that lies beside it, into every place, and remove the oldest there.

    Beside a file lie its manifest, its reference, external weights, and the profile that monitoring compares with. The
    file is held against its manifest first, and every copy is read back and hashed. A place whose newest good copy
    is the same already gets none. A copy goes only when `keep` newer ones in its place were read and found good just
    before, so the last good one stays whatever happens. Several processes may do this at once, and a kill leaves old
    copies whole.

    Args:
        path: of the file or directory, with `<path>.json` beside it.
        places: directories, or URLs that fsspec opens (extra `backup`).
        keep: good copies that stay in each place.

    Raises:
        LoadError: the file is not the one that its manifest describes; nothing was copied.
        OutputError: a place cannot be written; the other places have their copies.
        ConfigError: `keep` or `places` cannot be used.

    Example:
        >>> report = kopt.export.backup("model.tflite", ["disk-1", "disk-2"])
        >>> report.written, [copy.status for copy in report.copies]
        (2, ['good', 'good'])
        >>> kopt.export.backup("model.tflite", ["disk-1", "disk-2"]).written  # the same is there already
        0
    """
    whole("keep", keep)
    path = Path(path)
    artifact = require_intact(path)
    require_reference(artifact)
    opened = _opened(places)
    files = _files(artifact)
    content = CopyContent(path.name, artifact.sha256, tuple(_hash(name, file) for name, file in files.items()))
    numbers = [_number(copy) for place in opened for copy in _names(place, path.name)]
    copy = _copy_name(max(max(numbers, default=0) + 1, time.time_ns() // 1_000_000), content)
    written, removed, failures = 0, 0, []
    for place in opened:
        try:
            written += _written(place, copy, content, files)
            removed += _thinned(place, path.name, keep)
        except (KoptError, OSError) as error:
            failures.append(f"{place.name}: {error}")
    if failures:
        raise OutputError(
            f"{len(failures)} of {len(opened)} places have no new copy of {path.name}. {' '.join(failures)}"
        )
    return BackupReport(check_backup(path, places).copies, written, removed)


def check_backup(path: str | os.PathLike[str], places: Places) -> BackupReport:
    """Read every copy of a file in every place and hold it against what was written, to find bits that have rotted.

    A place without any copy, such as a disk that is not mounted, has a row of its own, with the status `"none"`.

    Args:
        path: of the file; only its name matters.
        places: see `backup`.

    Raises:
        OutputError: a place cannot be read.

    Example:
        >>> report = kopt.export.backup("model.tflite", ["disk-1", "disk-2"])
        >>> kopt.export.check_backup("model.tflite", ["disk-1", "disk-2"]).damaged
        ()
    """
    name = Path(path).name
    copies: list[BackupCopy] = []
    for place in _opened(places):
        with _reading(place):
            found = [_looked_at(place, name, copy) for copy in _names(place, name)]
        copies += found or [BackupCopy(place.name, name, "", "none", f"{place.name} has no copy of {name}")]
    return BackupReport(tuple(copies))


def restore(path: str | os.PathLike[str], places: Places, *, overwrite: bool = False) -> BackupCopy:
    """Bring back the newest copy that is good, with all that lay beside it.

    Args:
        path: where the file goes; its name is the one under which it was copied.
        places: see `backup`.
        overwrite: replace what is at `path`.

    Returns:
        The copy that was taken.

    Raises:
        LoadError: no place has a good one.
        OutputError: `path` cannot be written or exists.

    Example:
        >>> report = kopt.export.backup("model.tflite", ["disk"])
        >>> with open("model.tflite", "wb") as file:
        ...     size = file.write(b"lost")
        >>> kopt.export.restore("model.tflite", ["disk"], overwrite=True).place
        'disk'
        >>> kopt.export.verify("model.tflite").ok
        True
    """
    path = check_output(path, overwrite=overwrite)
    if not overwrite:
        _require_nothing_beside(path)
    found, failures = [], []
    for place in _opened(places):
        try:
            found += [(copy, place) for copy in _names(place, path.name)]
        except OSError as error:
            failures.append(f"{place.name}: {error}.")
    for copy, place in sorted(found, key=lambda one: (_number(one[0]), one[0]), reverse=True):
        looked_at = _looked_at(place, path.name, copy)
        if looked_at.status == "good":
            _bring(place, path, copy)
            return looked_at
        failures.append(f"{place.name}: {looked_at.found}.")
    raise LoadError(
        f"No good copy of {path.name} in {', '.join(str(place) for place in places)}. {' '.join(failures)}".rstrip()
    )


def _require_nothing_beside(path: Path) -> None:
    """Raise if a file of somebody else is where one that belongs to `path` goes.

    Raises:
        OutputExistsError: names it.
    """
    if is_manifest(Path(f"{path}.json")):
        return  # What lies there belongs to the file that was lost.
    for beside in (Path(f"{path}{ending}") for ending in _BESIDE):
        if beside.exists():
            raise OutputExistsError(
                f"{beside} exists, and what is restored has a file there. Move it away, or replace it: "
                f"`overwrite=True`, `--force` on the command line."
            )


def _opened(places: Places) -> list[Place]:
    if isinstance(places, (str, os.PathLike)) or not places:
        raise ConfigError(f"`places` is a sequence of directories or URLs, at least one. Received: {places!r}.")
    return [open_place(place) for place in places]


def _files(artifact: Artifact) -> dict[str, Path]:
    path = Path(artifact.path)
    inside = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    beside = [artifact.manifest_path]
    beside += [artifact.reference_path] if artifact.reference is not None else []
    beside += [artifact.external_path] if artifact.external is not None else []
    profile = Path(f"{path}{_PROFILE}")
    beside += [profile] if profile.is_file() else []
    return {file.relative_to(path.parent).as_posix(): file for file in [*inside, *beside]}


def _hash(name: str, file: Path) -> FileHash:
    return FileHash(name, file.stat().st_size, sha256(file))


def _copy_name(number: int, content: CopyContent) -> str:
    return f"{number:08d}-{hashlib.sha256(_bytes(content)).hexdigest()[:16]}-{secrets.token_hex(4)}"


def _bytes(content: CopyContent) -> bytes:
    return content.to_json().encode()


def _names(place: Place, name: str) -> list[str]:
    """Return the copies of a place, the newest first."""
    copies = (copy for copy in place.copies(name) if _COPY.fullmatch(copy))
    return sorted(copies, key=lambda copy: (_number(copy), copy), reverse=True)


def _number(copy: str) -> int:
    return int(copy.split("-")[0])


def _digest(copy: str) -> str:
    return copy.split("-")[1]


def _written(place: Place, copy: str, content: CopyContent, files: dict[str, Path]) -> bool:
    """Write a copy and read it back, unless the newest good one is the same."""
    for older in _names(place, content.name):
        found = _looked_at(place, content.name, older)
        if found.status == "good":
            if _digest(older) == _digest(copy):
                return False
            break
    place.write(content.name, copy, files, _bytes(content))
    found = _looked_at(place, content.name, copy)
    if found.status != "good":
        place.remove(content.name, copy)
        raise OutputError(f"The new copy was not what was written ({found.found}), so it was removed.")
    return True


def _thinned(place: Place, name: str, keep: int) -> int:
    """Remove what is older than `keep` copies that are good."""
    good, removed = 0, 0
    for copy in _names(place, name):
        if good >= keep:
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                place.remove(name, copy)
                removed += 1
        elif _looked_at(place, name, copy).status == "good":
            good += 1
    return removed


def _looked_at(place: Place, name: str, copy: str) -> BackupCopy:
    try:
        content = _content(place, name, copy)
        for file in content.files:
            _require_same(place, name, copy, file)
    except (LoadError, OSError) as error:
        return BackupCopy(place.name, name, copy, "damaged", str(error))
    return BackupCopy(place.name, name, copy, "good", "", content.sha256)


def _content(place: Place, name: str, copy: str) -> CopyContent:
    with place.open(name, copy, CONTENT) as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest()[:16] != _digest(copy):
        raise LoadError(f"{copy}/{CONTENT} is not the one that the copy is named after")
    try:
        content = CopyContent.from_json(data.decode())
    except ValueError as error:
        raise LoadError(f"{copy}/{CONTENT} cannot be read: {error}") from error
    for one in content.files:
        parts = PurePosixPath(one.name).parts
        if not parts or ".." in parts or parts[0] not in (name, *(name + ending for ending in _BESIDE)):
            raise LoadError(f"{copy}/{CONTENT} names {one.name!r}, which is no part of {name}")
    return content


def _require_same(place: Place, name: str, copy: str, expected: FileHash) -> None:
    digest, size = hashlib.sha256(), 0
    with place.open(name, copy, expected.name) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    if size != expected.size_bytes:
        raise LoadError(f"{copy}/{expected.name} has {size} bytes, expected {expected.size_bytes}")
    if digest.hexdigest() != expected.sha256:
        raise LoadError(f"{copy}/{expected.name} has other content than was written: bits have changed")


def _bring(place: Place, path: Path, copy: str) -> None:
    """Write the file and what lies beside it; the manifest comes last and, before the file changes, goes first."""
    manifest = Path(f"{path}.json")
    content = _content(place, path.name, copy)
    names = {file.name for file in content.files}
    with (
        atomic_path(manifest, overwrite=True) as staged_manifest,
        contextlib.ExitStack() as stack,
        atomic_path(path, overwrite=True) as staged,
    ):
        targets = {manifest.name: staged_manifest}
        for beside in (Path(path.parent, path.name + ending) for ending in _OPTIONAL):
            if beside.name in names:
                targets[beside.name] = stack.enter_context(atomic_path(beside, overwrite=True))
        for file in content.files:
            inside = PurePosixPath(file.name).relative_to(path.name) if file.name not in targets else None
            _download(place, path.name, copy, file, targets[file.name] if inside is None else staged / inside)
        manifest.unlink(missing_ok=True)
        for beside in (Path(path.parent, path.name + ending) for ending in _OPTIONAL):
            if beside.name not in names:  # it belongs to the file that was here before
                beside.unlink(missing_ok=True)
    require_intact(path)


def _download(place: Place, name: str, copy: str, file: FileHash, target: Path) -> None:
    with writing_to(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with place.open(name, copy, file.name) as source, open(target, "wb") as sink:
            while chunk := source.read(_CHUNK):
                sink.write(chunk)
    if sha256(target) != file.sha256:
        raise LoadError(f"{copy}/{file.name} in {place.name} changed while it was read. Try again.")


@contextlib.contextmanager
def _reading(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"Cannot read {place.name}: {error}.") from error
