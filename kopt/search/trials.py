"""What a run has finished, on disk, so that a killed run goes on where it stopped.

```
workdir/
  candidates/<technique>-<key>/   the exported file, its manifest, outcomes.npz (what it scored on each example), and
                                  candidate.json once it is finished
  baseline-<key>.json, .npz       evaluation of the model as it was given, and what it scored on each example
  measurements-<key>.json         latencies of all candidates from one interleaved round
  report.json  report.html  report.md  report-pareto.svg
```
A key is the hash of everything the result depends on: request, model, data, settings and package versions. What has no
`candidate.json`, or whose file is not the one its manifest describes, is made again.
"""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

from kopt.core.environment import versions
from kopt.core.errors import ConfigError, LoadError
from kopt.core.files import atomic_write, remove_leftovers, writing_to
from kopt.core.records import Candidate, Evaluation, Measurement
from kopt.core.serialization import Record
from kopt.export.manifest import require_intact
from kopt.search.catalog import Technique


@dataclasses.dataclass(frozen=True)
class MeasuredTogether(Record):
    """Measurements from one interleaved round, by candidate name."""

    measurements: dict[str, Measurement]


class Trials:
    """The finished candidates of one model, data set and set of settings in a work directory."""

    def __init__(self, workdir: Path, identity: dict[str, str]):
        self._workdir = workdir
        self._identity = {**identity, **versions()}

    def directory(self, technique: Technique) -> Path:
        """Return where the candidate of `technique` lives."""
        key = _key(self._identity, technique.config.to_json())
        return self._workdir / "candidates" / f"{technique.name}-{key}"

    def finished(self, technique: Technique) -> Candidate | None:
        """Return the finished candidate of `technique`, or `None` if it is still to be made."""
        directory = self.directory(technique)
        if not directory.is_dir():
            return None
        try:
            candidate = Candidate.from_json((directory / "candidate.json").read_text())
            assert candidate.artifact is not None
            path = require_intact(directory / candidate.artifact.path).path
            remove_leftovers(directory)  # of a run that was killed just after it had finished
            return dataclasses.replace(candidate, artifact=dataclasses.replace(candidate.artifact, path=path))
        except (FileNotFoundError, ConfigError, LoadError):
            shutil.rmtree(directory)
            return None

    def start(self, technique: Technique) -> Path:
        """Return an existing directory for a new candidate, free of what a killed run left."""
        directory = self.directory(technique)
        with writing_to(directory):
            directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(directory)
        return directory

    def finish(self, technique: Technique, candidate: Candidate) -> None:
        """Record that `candidate` is finished."""
        assert candidate.artifact is not None
        relative = dataclasses.replace(candidate.artifact, path=Path(candidate.artifact.path).name)
        record = dataclasses.replace(candidate, artifact=relative)
        atomic_write(self.directory(technique) / "candidate.json", record.to_json() + "\n", overwrite=True)

    def outcomes_path(self, technique: Technique | None = None) -> Path:
        """Return where the scores of each example are kept: of a candidate, or of the model as it was given."""
        if technique is None:
            return self._baseline_path().with_suffix(".npz")
        return self.directory(technique) / "outcomes.npz"

    def baseline(self) -> Evaluation | None:
        """Return the finished evaluation of the model as it was given, or `None`."""
        path = self._baseline_path()
        return Evaluation.from_json(path.read_text()) if path.is_file() else None

    def finish_baseline(self, evaluation: Evaluation) -> None:
        """Record the evaluation of the model as it was given."""
        atomic_write(self._baseline_path(), evaluation.to_json() + "\n", overwrite=True)

    def measurements(self, names: list[str], settings: str) -> dict[str, Measurement] | None:
        """Return the measurements of exactly these candidates if they were taken together, else `None`."""
        path = self._measurements_path(names, settings)
        if not path.is_file():
            return None
        return MeasuredTogether.from_json(path.read_text()).measurements

    def finish_measurements(self, names: list[str], settings: str, measured: dict[str, Measurement]) -> None:
        """Record measurements that were taken together."""
        atomic_write(
            self._measurements_path(names, settings), MeasuredTogether(measured).to_json() + "\n", overwrite=True
        )

    def _baseline_path(self) -> Path:
        return self._workdir / f"baseline-{_key(self._identity)}.json"

    def _measurements_path(self, names: list[str], settings: str) -> Path:
        return self._workdir / f"measurements-{_key(self._identity, settings, *sorted(names))}.json"


def _key(identity: dict[str, str], *parts: str) -> str:
    return hashlib.sha256(json.dumps([identity, *parts], sort_keys=True).encode()).hexdigest()[:12]
