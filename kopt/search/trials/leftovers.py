"""What lies in a work directory and was not used: of other models, data, settings or versions."""

from collections import Counter
from pathlib import Path

from kopt.core.errors import ConfigError
from kopt.core.records.artifacts import Artifact
from kopt.core.records.candidates import Candidate

_MOST_NAMES = 3


def unused(workdir: Path, used: tuple[Path, ...], made: tuple[Artifact, ...]) -> tuple[str, ...]:
    """Say in sentences what a work directory holds beside this run.

    Args:
        workdir: of the run.
        used: directories of its candidates.
        made: files of this run, by which others are told apart.
    """
    own = {path.resolve() for path in used}
    found = Counter(
        _why(path, made)
        for path in sorted(workdir.glob("candidates/*/candidate.json"))
        if path.parent.resolve() not in own
    )
    return tuple(
        f"{workdir} also holds {count} finished candidate{'' if count == 1 else 's'} {why}; not used and left as "
        f"{'it is' if count == 1 else 'they are'}."
        for why, count in found.items()
    )


def _why(path: Path, made: tuple[Artifact, ...]) -> str:
    try:
        candidate = Candidate.from_json(path.read_text())
    except (ConfigError, OSError, UnicodeDecodeError):
        return "that cannot be read"
    artifact = candidate.artifact
    if artifact is None or not made:
        return "of other runs"
    if candidate.steps:  # its model is another one in any case
        return "that were trained or changed in other runs"
    if all(artifact.source_sha256 != one.source_sha256 for one in made):
        return "of another model"
    changed = _changed(artifact.versions, made[0].versions)
    if changed:
        more = ", ..." if len(changed) > _MOST_NAMES else ""
        return f"made with other versions ({', '.join(changed[:_MOST_NAMES])}{more})"
    return (
        "of this model with other data or settings (a `tf.data.Dataset` whose examples change each time it is read, as "
        "augmentation changes them, is other data)"
    )


def _changed(before: dict[str, str], now: dict[str, str]) -> list[str]:
    names = sorted(set(before) | set(now))
    return [
        f"{name} {before.get(name, 'absent')}, now {now.get(name, 'absent')}"
        for name in names
        if before.get(name) != now.get(name)
    ]
