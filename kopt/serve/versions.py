"""The directory of a model's versions: numbers, labels, rollback; whoever writes there, one after another.

`<name>/<version>/` is what TF Serving looks for. Beside the versions lie their manifests, `serving.json` (what is
withdrawn and labelled) and the files that servers are configured with.
"""

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from kopt.core.errors import ConfigError, LoadError, OutputExistsError
from kopt.core.files import atomic_write, writing_to
from kopt.core.records.shipping.serving import ServingState
from kopt.core.settings import whole

STATE = "serving.json"
_LOCK = ".serving.lock"
_CLAIM = ".claimed"
_MOST = 2**63 - 1  # TF Serving keeps versions as int64


def present(directory: Path) -> tuple[int, ...]:
    """Return the numbers that directories beside each other have as names, ascending, as TF Serving reads them."""
    if not directory.is_dir():
        return ()
    found = {int(child.name) for child in directory.iterdir() if _is_version(child.name) and child.is_dir()}
    return tuple(sorted(found))


def path_of(directory: Path, version: int) -> Path:
    """Return where a version lies, whose name may begin with zeros; where it would lie if there is none."""
    plain = directory / str(version)
    if plain.is_dir() or not directory.is_dir():
        return plain
    named = (child for child in directory.iterdir() if _is_version(child.name) and int(child.name) == version)
    return next((child for child in named if child.is_dir()), plain)


def read_state(directory: Path) -> ServingState:
    """Return what `serving.json` says; nothing withdrawn and nothing labelled if there is none.

    Raises:
        LoadError: it is damaged.
    """
    path = directory / STATE
    if not path.is_file():
        return ServingState()
    try:
        return ServingState.from_json(path.read_text())
    except (ConfigError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be read: {error} Remove it to serve the newest version.") from error


@contextlib.contextmanager
def claimed(directory: Path, version: int | None) -> Iterator[int]:
    """Yield a version number that no other process gets, the next one unless `version` asks for one.

    A number that was withdrawn is not given again, as no server would take it. A number stays claimed until the block
    ends, so that writers who take minutes do not meet. The claim of a writer that was killed stays behind and costs one
    number.

    Raises:
        OutputExistsError: `version` is there, or claimed by another writer.
        ConfigError: it was withdrawn, or is no number of a version.
        LoadError: `serving.json` is damaged.
    """
    if version is not None and whole("version", version, least=0) > _MOST:
        raise ConfigError(f"TF Serving's versions go up to {_MOST}. Received: version={version}.")
    with writing_to(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        withdrawn = read_state(directory).withdrawn
        taken = {*present(directory), *_claims(directory), *_manifests(directory)}
        if version is None:
            version = max(taken | set(withdrawn), default=0) + 1
        elif version in withdrawn and version not in taken:
            raise ConfigError(
                f"Version {version} of {directory} was withdrawn by a rollback, so that no server would take it. Leave "
                f"`version` out for the next one."
            )
        elif version in taken:
            raise OutputExistsError(
                f"Version {version} is in {directory}, or another process is writing it; it has {_listed(taken)}. "
                f"Leave `version` out for the next one. A claim that nobody holds is removed by hand: "
                f"{_claim(directory, version)}."
            )
        _claim(directory, version).write_text(f"{os.getpid()}\n")
    try:
        yield version
    finally:
        # Under the lock: another writer that is counting must see the claim or the directory, and looks at one first.
        with _locked(directory):
            _claim(directory, version).unlink(missing_ok=True)


def change_state(
    directory: Path,
    change: Callable[[ServingState, tuple[int, ...]], ServingState],
    then: Callable[[ServingState], None],
) -> ServingState:
    """Apply `change` to the state and `then` write what follows from it, while no other process does either."""
    with _locked(directory):
        state = change(read_state(directory), present(directory))
        atomic_write(directory / STATE, state.to_json() + "\n", overwrite=True)
        then(state)
    return state


def labelled(state: ServingState, versions: tuple[int, ...], labels: dict[str, int | None]) -> ServingState:
    """Return the state with labels set, or taken away where the version is `None`.

    Raises:
        ConfigError: no such version, or one that was withdrawn.
    """
    kept = {**state.labels}
    for label, version in labels.items():
        if not isinstance(label, str) or not label or not label.replace("-", "_").isidentifier():
            raise ConfigError(f"A label is a word of letters, digits, '_' and '-'. Received: {label!r}.")
        if version is None:
            kept.pop(label, None)
            continue
        if version not in versions or version in state.withdrawn:
            raise ConfigError(
                f"Label {label!r} cannot stand for version {version!r}; there are {_listed(versions)}, withdrawn "
                f"{_listed(state.withdrawn)}."
            )
        kept[label] = version
    return dataclasses.replace(state, labels=kept)


def rolled_back(state: ServingState, versions: tuple[int, ...], version: int | None) -> ServingState:
    """Return the state with every version above `version` withdrawn, and their labels on `version`.

    Args:
        state: as it is.
        versions: on the disk.
        version: to go back to; the one before the newest that stands if `None`.

    Raises:
        ConfigError: there is nothing to go back to.
    """
    standing = [number for number in versions if number not in state.withdrawn]
    if version is None:
        if len(standing) < 2:
            raise ConfigError(f"There is no version to go back to: standing are {_listed(standing)}.")
        version = standing[-2]
    if version not in versions:
        raise ConfigError(f"There is no version {version!r} to go back to; there are {_listed(versions)}.")
    gone = {number for number in versions if number > version} | (set(state.withdrawn) - {version})
    labels = {label: version if number in gone else number for label, number in state.labels.items()}
    return ServingState(withdrawn=tuple(sorted(gone)), labels=labels)


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and int(name) <= _MOST


def _claim(directory: Path, version: int) -> Path:
    return directory / f".{version}{_CLAIM}"


def _claims(directory: Path) -> set[int]:
    names = (path.name[1 : -len(_CLAIM)] for path in directory.glob(f".*{_CLAIM}"))
    return {int(name) for name in names if _is_version(name)}


def _manifests(directory: Path) -> set[int]:
    # The manifest of a version that was removed still says what that number was.
    return {int(path.stem) for path in directory.glob("*.json") if _is_version(path.stem)}


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, which the system lets go of when its holder dies."""
    with writing_to(directory), open(directory / _LOCK, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _listed(versions: object) -> str:
    return ", ".join(map(str, sorted(versions))) or "none"  # type: ignore[call-overload]
