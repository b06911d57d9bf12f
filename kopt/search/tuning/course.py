"""Trials in this process: what `Search.run` asks for, by a tuner of keras-tuner in place of rounds."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from kopt.core.errors import ConfigError
from kopt.core.files import remove_leftovers
from kopt.core.records.candidates import Candidate
from kopt.search.plan import Plan
from kopt.search.searching import Search
from kopt.search.techniques.catalog import BUILD, CATALOG
from kopt.search.trials.bench import Bench
from kopt.search.trials.limits import RunEnded
from kopt.search.tuning import outcomes
from kopt.search.tuning.desk import Desk
from kopt.search.tuning.internals import forget
from kopt.search.tuning.oracles import oracle
from kopt.search.tuning.request import HYPERBAND, Request, reaching
from kopt.search.tuning.scores import DROP
from kopt.search.tuning.space import RecipeSpace, SpaceConfig
from kopt.search.tuning.tuner import SINGLE, ArtifactTuner

PROPOSERS = {
    "random": "random search",
    "hyperband": "Hyperband",
    "bayesian": "Bayesian optimization",
    "pareto": "the search for the Pareto front",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Tuning:
    """A tuning of one model in its directory.

    Attributes:
        search: prepared.
        request: what to look through.
        space: of recipes.
        place: directory of the tuning.
        seed: of what is proposed.
        notes: techniques that do not take part, and why.
    """

    search: Search
    request: Request
    space: RecipeSpace
    place: Path
    seed: int
    notes: tuple[str, ...]

    @property
    def trials(self) -> Path:
        """Where the outcomes lie."""
        return self.place / "trials"

    def why(self, number: int) -> str:
        """Return what spoke for a trial."""
        return f"{PROPOSERS[self.request.tuner]} proposed it, in trial {number + 1}"

    def oracle(self) -> Any:
        """Return what proposes."""
        training, objectives = self.request.training, self.search.given.budget.objectives
        return oracle(
            self.request.tuner,
            self.space.hyperparameters(),
            axes=(DROP, *objectives),
            max_trials=self.request.max_trials,
            epochs=training.epochs if training else 1,
            seed=self.seed,
        )

    def ended(self, made: int, why: str) -> str:
        """Return why no more trials were made."""
        if why:
            return why
        count = "1 trial was" if made == 1 else f"{made} trials were"
        if made >= self.request.max_trials:
            return f"{count} made, all that `max_trials` allows."
        return f"{count} made, after which no recipe was left that had not been tried."


def tuning_of(search: Search, request: Request, place: Path, seed: int) -> Tuning:
    """Return the tuning of a search that is prepared.

    Raises:
        ConfigError: Hyperband, and nothing is left that is trained.
    """
    kept, notes = reaching(search.plan.facts, [name for name in search.plan.changes if name != BUILD.name])
    builder = request.builder if BUILD.name in search.plan.changes else ""
    by_rounds = request.tuner == HYPERBAND
    config = SpaceConfig(request.ways, kept, search.plan.training, builder, by_rounds)
    space = RecipeSpace(config)
    if by_rounds and not space.trains:
        raise ConfigError(
            f"'hyperband' gives promising recipes more epochs, and nothing that is trained can take part. "
            f"{' '.join((*search.plan.notes, *notes))} Use tuner='random'."
        )
    taking_part = [one.row.name for one in space.participants]
    notes += tuple(
        f"{name} does not take part: it pays on {', '.join(CATALOG[name].pays_on)}."
        for name in kept
        if name not in taking_part
    )
    return Tuning(search, request, space, place, seed, notes)


def run_here(tuning: Tuning, bench: Bench, plan: Plan) -> tuple[str, tuple[str, ...]]:
    """Run all trials in this process; models are made in child processes of it."""
    del plan
    desk = Desk(tuning.search, tuning.trials, SINGLE, bench)
    proposes = tuning.oracle()
    proposes.closed = lambda: desk.ended or time_used(tuning)
    tuner = ArtifactTuner(proposes, tuning.space, tuning.place, desk, tuning.why)
    for name in [name for name in proposes.ongoing_trials if name != SINGLE]:
        proposes.leave(name)  # workers of an earlier run
    why = ""
    try:
        tuner.go()
    except RunEnded as end:
        why = str(end)
    finally:
        forget(proposes)
    tidy(tuning)
    fill(bench, tuning)
    return tuning.ended(len(proposes.end_order), why or desk.ended or time_used(tuning)), tuning.notes


def time_used(tuning: Tuning) -> str:
    """Return that the time of the run is used up; empty if it is not."""
    left = tuning.search.given.limits.seconds_left()
    return "The time that `seconds` allows was used up." if left is not None and left <= 0 else ""


def fill(bench: Bench, tuning: Tuning) -> None:
    """Bring the candidates of all trials to the bench, in the order of the trials, each once.

    Those of earlier runs and of other processes are on disk; a file that was damaged since is made again.
    """
    there = {one.name: one for one in bench.candidates}
    found: dict[str, Candidate] = {}
    for one in outcomes.read(tuning.trials):
        if one.recipe.name not in found and one.status != outcomes.UNCHANGED:
            found[one.recipe.name] = there.get(one.recipe.name) or _candidate(bench, tuning, one)
    rest = [one for name, one in there.items() if name not in found]
    bench.candidates[:] = [*found.values(), *rest]


def tidy(tuning: Tuning, untouched_s: float = 0.0) -> None:
    """Remove what writers that were killed have left; see `remove_leftovers`."""
    for folder in (tuning.place, *(child for child in tuning.place.iterdir() if child.is_dir())):
        remove_leftovers(folder, untouched_s=untouched_s)


def _candidate(bench: Bench, tuning: Tuning, one: outcomes.Outcome) -> Candidate:
    why, reason = tuning.why(one.number), one.reason
    if one.status == outcomes.OK:
        known = tuning.search.files.trials.finished(one.recipe)
        with contextlib.suppress(RunEnded):
            known = known or bench.attempt(one.recipe, why)
        if known is not None:
            return known
        reason = "Its file is gone or damaged, and there was no time to make it again."
    recipe = one.recipe
    return Candidate(recipe.name, recipe.export, "failed", reason=reason, steps=recipe.steps, why=why)
