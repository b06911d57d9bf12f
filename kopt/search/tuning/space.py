"""The catalog as a search space of keras-tuner: which way to ship, which techniques take part, and their settings."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_tuner

from kopt.core.errors import ConfigError, KoptError
from kopt.core.files import scratch_directory
from kopt.core.records.changes.channel_pruning import NEED_DATA
from kopt.core.records.search.recipes import Recipe
from kopt.core.records.search.techniques import Step, TrainedConfig
from kopt.search.techniques import building
from kopt.search.techniques.catalog import BUILD, CATALOG, Setting, Technique
from kopt.search.training import Training
from kopt.search.tuning.internals import quiet
from kopt.search.tuning.participation import SCHEME, ordered, participants, step_of

SHIP, YES, NO = "ship", "yes", "no"
_EPOCHS, _BUILDER = "epochs", "builder"
# Names of hyperparameters, and the values of which each must have one.
_Conditions = tuple[tuple[str, tuple[Any, ...]], ...]


@dataclasses.dataclass(frozen=True)
class SpaceConfig:
    """What a space is made of.

    Attributes:
        ways: names of the ways to ship.
        techniques: names of the techniques that may take part.
        training: how they are trained; `None`: none of them is.
        builder: where the user's own architectures are found; empty without.
        by_rounds: epochs come from the tuner, round by round, and are no hyperparameter.
    """

    ways: tuple[str, ...]
    techniques: tuple[str, ...]
    training: Training | None = None
    builder: str = ""
    by_rounds: bool = False


class RecipeSpace(keras_tuner.HyperModel):
    """A `HyperModel` whose `build` gives a recipe, of which a model is made in another process."""

    def __init__(self, config: SpaceConfig):
        self._config = config
        self._ways = {name: CATALOG[name] for name in config.ways}
        rows = [CATALOG[name] for name in config.techniques] + ([BUILD] if config.builder else [])
        self.participants = participants(rows, tuple(self._ways.values()))
        self._builder = explored(config.builder) if config.builder else ()
        self._source_sha256 = building.source_sha256(config.builder) if config.builder else ""
        super().__init__()

    @property
    def trains(self) -> bool:
        """Whether anything in it is trained."""
        return any(isinstance(one.row.config, TrainedConfig) for one in self.participants)

    def hyperparameters(self) -> keras_tuner.HyperParameters:
        """Return the whole space."""
        found = keras_tuner.HyperParameters()
        self.build(found)
        return found

    def build(self, hp: keras_tuner.HyperParameters) -> Recipe:
        """Declare the space in `hp`, and return the recipe that its values describe."""
        return self.recipe(hp)

    def recipe(self, hp: keras_tuner.HyperParameters, rounds: Sequence[int] = ()) -> Recipe:
        """Return the recipe that hyperparameters describe.

        Args:
            hp: in which the space is declared as far as it is not.
            rounds: epochs after each round of halving so far, added up; none where epochs are a hyperparameter.
        """
        way = self._ways[hp.Choice(SHIP, list(self._ways))]
        taken = {}
        for one in self.participants:
            conditions = ((SHIP, one.ways), *((name, (NO,)) for name in one.without))
            takes_part = _choice(hp, one.row.name, (NO, YES), conditions)
            values = self._declared(hp, one.row, (*conditions, (one.row.name, (YES,))))
            if takes_part == YES:
                taken[one.row.name] = values
        rows = ordered(one.row for one in self.participants if one.row.name in taken)
        steps = [step_of(row, way, **taken[row.name]) for row in rows]
        return Recipe(continued(steps, rounds) if rounds else tuple(steps), way.export)

    def _declared(self, hp: keras_tuner.HyperParameters, row: Technique, conditions: _Conditions) -> dict[str, Any]:
        """Declare the settings of a technique, and return their values."""
        values = {one.name: _setting(hp, row, one, conditions) for one in self._settings(row)}
        if row is BUILD:
            own = {one.name: _builder_value(hp, one, conditions) for one in self._builder}
            known = json.dumps({name: value for name, value in own.items() if value is not None})
            values.update(builder=self._config.builder, source_sha256=self._source_sha256, values=known)
        return values

    def _settings(self, row: Technique) -> Iterator[Setting]:
        training = self._config.training
        for one in row.space:
            choices = one.choices
            if one.name == _EPOCHS and training is not None:
                choices = tuple(count for count in choices if count <= training.epochs) or (training.epochs,)
            if one.name == "criterion" and training is None:
                choices = tuple(name for name in choices if name not in NEED_DATA)
            if one.name == SCHEME or (one.name == _EPOCHS and self._config.by_rounds):
                continue
            yield Setting(one.name, choices)


def continued(steps: Sequence[Step], rounds: Sequence[int]) -> tuple[Step, ...]:
    """Return steps with the epochs of a round, such that what was trained in rounds before is trained on where it can.

    A recovery, or the training of another architecture where no recovery follows, begins with the epochs of the first
    round and goes on with recoveries of the epochs that each round adds, so that the model of the round before is its
    beginning. Whatever else trains is trained anew, with the epochs of all rounds.

    Args:
        steps: of a recipe, with any epochs.
        rounds: epochs after each round, added up, e.g. `(1, 3, 9)`.
    """
    names = [step.technique for step in steps]
    going_on = next((name for name in ("recover", BUILD.name) if name in names), "")
    found: list[Step] = []
    for step in steps:
        config = step.config
        if not isinstance(config, TrainedConfig):
            found.append(step)
        elif step.technique != going_on:
            found.append(Step(step.technique, dataclasses.replace(config, epochs=rounds[-1])))
        else:
            found.append(Step(step.technique, dataclasses.replace(config, epochs=rounds[0])))
            more = [after - before for before, after in itertools.pairwise(rounds)]
            found += [CATALOG["recover"].step(epochs=count, rate=config.rate) for count in more if count > 0]
    return tuple(found)


def explored(where: str) -> tuple[keras_tuner.engine.hyperparameters.HyperParameter, ...]:
    """Return the hyperparameters of a builder, which is called until every condition in it held once.

    Raises:
        ConfigError: the builder fails.
    """
    with scratch_directory() as folder, quiet():
        try:
            return tuple(_explored(where, folder).space)
        except KoptError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise ConfigError(f"`builder` {where} fails: {type(error).__name__}: {error}") from error


def _explored(where: str, folder: Path) -> keras_tuner.HyperParameters:
    oracle = keras_tuner.oracles.RandomSearchOracle(seed=1)
    keras_tuner.engine.base_tuner.BaseTuner(oracle, building.hypermodel(where), str(folder))
    return oracle.get_space()  # The tuner's own may be that of a chief by now, which has another space.


def _setting(hp: keras_tuner.HyperParameters, row: Technique, one: Setting, conditions: _Conditions) -> Any:
    """Declare a setting where there is a choice, and return its value."""
    if len(one.choices) == 1:
        return one.choices[0]
    return _choice(hp, f"{row.name}/{one.name}", one.choices, conditions)


def _choice(hp: keras_tuner.HyperParameters, name: str, choices: Sequence[Any], conditions: _Conditions) -> Any:
    settings = {"values": list(choices), "ordered": None, "default": None}
    return _value(hp, keras_tuner.engine.hyperparameters.Choice, name, settings, conditions)


def _builder_value(
    hp: keras_tuner.HyperParameters,
    one: keras_tuner.engine.hyperparameters.HyperParameter,
    conditions: _Conditions,
) -> Any:
    """Declare a hyperparameter of the builder as one of the whole space, and return its value."""
    own = tuple((f"{_BUILDER}/{condition.name}", tuple(condition.values)) for condition in one.conditions)
    return _value(hp, type(one), f"{_BUILDER}/{one.name}", one.get_config(), (*conditions, *own))


def _value(
    hp: keras_tuner.HyperParameters,
    kind: type[keras_tuner.engine.hyperparameters.HyperParameter],
    name: str,
    settings: Mapping[str, Any],
    conditions: _Conditions,
) -> Any:
    """Declare a hyperparameter unless it is there, and return its value; `None` where its conditions do not hold.

    The scopes of `HyperParameters` take a parent only inside the very scopes it was declared in, so that conditions are
    given here as keras-tuner writes them to files.
    """
    parents = [{"class_name": "Parent", "config": {"name": key, "values": list(held)}} for key, held in conditions]
    declared = kind.from_config({**settings, "name": name, "conditions": parents})
    hp.merge([declared], overwrite=False)
    return hp.values[name] if hp.is_active(declared) else None
