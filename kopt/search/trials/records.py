"""What a run has finished, on disk, so that a killed run goes on where it stopped.

```
workdir/
  candidates/<technique>-<key>/   the exported file, its manifest, outcomes.npz (what it scored on each example), and
                                  candidate.json once it is finished
  baseline-<key>.json, .npz       evaluation of the model as it was given, and what it scored on each example
  sensitivity-<key>.json          of the layers of the model as it was given
  measurements-<key>.json         latencies of all candidates from one interleaved round
  report.json  report.html  report.md  report-pareto.svg
```
A key is the hash of everything the result depends on: recipe, model, data, settings and package versions. What has no
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
from kopt.core.records.candidates import Candidate
from kopt.core.records.measurements import Evaluation, Measurement
from kopt.core.records.profiles.sensitivity import SensitivityProfile
from kopt.core.records.search.recipes import Recipe
from kopt.core.serialization import Record
from kopt.export.manifest import require_intact
from kopt.search.techniques.catalog import TRAINING
from kopt.search.techniques.recipes import needs
from kopt.search.trials.made import LOG, RECIPE

# Names of directories stay readable and within what file systems take.
_LONGEST_NAME = 120


@dataclasses.dataclass(frozen=True)
class MeasuredTogether(Record):
    """Measurements from one interleaved round, by candidate name."""

    measurements: dict[str, Measurement]


class Trials:
    """The finished candidates of one model, data set and set of settings in a work directory.

    Args:
        workdir: of the run.
        identity: all that a candidate depends on beside its recipe.
        lessons: what trained ones depend on in addition.
    """

    def __init__(self, workdir: Path, identity: dict[str, str], lessons: dict[str, str] | None = None):
        self._workdir = workdir
        self._identity, self._lessons = {**identity, **versions()}, dict(lessons or {})

    def directory(self, recipe: Recipe) -> Path:
        """Return where the candidate of `recipe` lives."""
        identity = {**self._identity, **(self._lessons if TRAINING in needs(recipe.steps) else {})}
        steps = [recipe.to_json()] if recipe.steps else []
        key = _key(identity, recipe.export.to_json(), *steps)
        return self._workdir / "candidates" / f"{recipe.name[:_LONGEST_NAME]}-{key}"

    def finished(self, recipe: Recipe) -> Candidate | None:
        """Return the finished candidate of `recipe`, or `None` if it is still to be made."""
        directory = self.directory(recipe)
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

    def start(self, recipe: Recipe) -> Path:
        """Return an existing directory for a new candidate, free of what a killed run left."""
        directory = self.directory(recipe)
        with writing_to(directory):
            directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(directory)
        atomic_write(directory / RECIPE, recipe.to_json() + "\n", overwrite=True)
        return directory

    def log(self, recipe: Recipe, text: str) -> None:
        """Note beside a candidate what happened to it."""
        path = self.directory(recipe) / LOG
        with writing_to(path), open(path, "a") as file:
            file.write(text.rstrip() + "\n")

    def finish(self, recipe: Recipe, candidate: Candidate) -> None:
        """Record that `candidate` is finished."""
        assert candidate.artifact is not None
        relative = dataclasses.replace(candidate.artifact, path=Path(candidate.artifact.path).name)
        record = dataclasses.replace(candidate, artifact=relative)
        atomic_write(self.directory(recipe) / "candidate.json", record.to_json() + "\n", overwrite=True)

    def outcomes_path(self, recipe: Recipe | None = None) -> Path:
        """Return where the scores of each example are kept: of a candidate, or of the model as it was given."""
        if recipe is None:
            return self._baseline_path().with_suffix(".npz")
        return self.directory(recipe) / "outcomes.npz"

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

    def sensitivity(self) -> SensitivityProfile | None:
        """Return the sensitivity of the model as it was given, or `None`."""
        path = self._sensitivity_path()
        return SensitivityProfile.from_json(path.read_text()) if path.is_file() else None

    def finish_sensitivity(self, found: SensitivityProfile) -> None:
        """Record the sensitivity of the model as it was given."""
        atomic_write(self._sensitivity_path(), found.to_json() + "\n", overwrite=True)

    def _sensitivity_path(self) -> Path:
        return self._workdir / f"sensitivity-{_key(self._identity)}.json"

    def _baseline_path(self) -> Path:
        return self._workdir / f"baseline-{_key(self._identity)}.json"

    def _measurements_path(self, names: list[str], settings: str) -> Path:
        return self._workdir / f"measurements-{_key(self._identity, settings, *sorted(names))}.json"


def _key(identity: dict[str, str], *parts: str) -> str:
    return hashlib.sha256(json.dumps([identity, *parts], sort_keys=True).encode()).hexdigest()[:12]
