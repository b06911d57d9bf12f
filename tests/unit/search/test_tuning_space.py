"""The catalog as a search space: only legal recipes, all of them, and each with its settings."""

import itertools
import json

import keras_tuner
import pytest
import tuning_architectures

from kopt.core.errors import ConfigError
from kopt.core.records.search.recipes import Recipe
from kopt.search.techniques import building
from kopt.search.techniques.catalog import BUILD, CATALOG, WAYS_TO_SHIP
from kopt.search.techniques.recipes import why_illegal
from kopt.search.training import Training
from kopt.search.tuning.participation import ordered, participants, step_of
from kopt.search.tuning.space import NO, YES, RecipeSpace, SpaceConfig, continued

TECHNIQUES = [row for row in CATALOG.values() if not row.ships]
NAMES = tuple(row.name for row in TECHNIQUES)
BUILDER = "tuning_architectures:build"


def space(techniques=NAMES, ways=("tflite-float32", "tflite-int8"), training=None, **settings):
    return RecipeSpace(SpaceConfig(ways, techniques, training or Training(epochs=2), **settings))


def drawn(one, count):
    """Recipes of random values, drawn as keras-tuner draws them."""
    oracle = keras_tuner.oracles.RandomSearchOracle(seed=1, hyperparameters=one.hyperparameters())
    for _ in range(count):
        hyperparameters = oracle.get_space()
        hyperparameters.values = oracle._random_values()
        yield hyperparameters, one.recipe(hyperparameters)


def asked_about(found, way, taken):
    """What the conditions of a space let take part: one on a parent that is not asked about never holds."""
    active = set()
    for one in found:
        names = set(one.without)
        if way in one.ways and names <= active and not names & taken:
            active.add(one.row.name)
    return active


@pytest.mark.parametrize("way", ["saved_model", "tflite-int8", "tflite-int4"])
def test_every_legal_combination_can_be_proposed_and_no_other(way):
    found = participants([BUILD, *TECHNIQUES], WAYS_TO_SHIP)
    rows = {one.row.name: one.row for one in found}
    counts = {True: 0, False: 0}
    for several in itertools.chain.from_iterable(itertools.combinations(rows, count) for count in range(5)):
        steps = tuple(
            step_of(row, CATALOG[way]) if way in row.pays_on else row.step()
            for row in ordered(rows[name] for name in several)
        )
        legal = not why_illegal(Recipe(steps, CATALOG[way].export))
        assert legal == (set(several) <= asked_about(found, way, set(several))), several
        counts[legal] += 1
    assert min(counts.values()) > 50


def test_drawn_recipes_are_legal_and_have_their_settings():
    kinds = set()
    for hyperparameters, recipe in drawn(space(ways=("saved_model", "tflite-int8")), 40):
        assert why_illegal(recipe) == ""
        taken = {name for name in NAMES if hyperparameters.values.get(name) == YES}
        assert {step.technique for step in recipe.steps} == taken
        for step in recipe.steps:
            for setting in CATALOG[step.technique].space:
                assert getattr(step.config, setting.name) in setting.choices
        kinds.add(tuple(step.technique for step in recipe.steps))
    assert len(kinds) > 20


def test_settings_exist_only_where_their_technique_takes_part():
    for hyperparameters, _ in drawn(space(("channels", "recover")), 30):
        values = hyperparameters.values
        assert ("channels/keep" in values) == (values["channels"] == YES)
        assert ("recover/rate" in values) == (values["recover"] == YES)


def test_epochs_are_at_most_those_of_the_training_and_examples_are_needed_for_some_criteria():
    trained = {one.name: one.values for one in space(("channels", "recover")).hyperparameters().space}
    assert trained["recover/epochs"] == [1, 2]
    assert "taylor" in trained["channels/criterion"]
    few = {one.name for one in space(("recover",), training=Training(epochs=1)).hyperparameters().space}
    assert "recover/epochs" not in few  # nothing to choose
    bare = RecipeSpace(SpaceConfig(("tflite-int8",), ("channels",))).hyperparameters()
    assert "taylor" not in next(one for one in bare.space if one.name == "channels/criterion").values


def test_a_scheme_follows_from_the_way_and_is_no_choice():
    for _, recipe in drawn(space(("post_training",), ("tflite-int8", "tflite-int16x8")), 20):
        assert all(step.config.scheme == recipe.export.scheme for step in recipe.steps)


def test_epochs_of_rounds_train_on_what_was_trained():
    steps = (CATALOG["channels"].step(keep=0.5), CATALOG["recover"].step(epochs=7, rate=0.3), CATALOG["aware"].step())
    first, second, third = (continued(steps, rounds) for rounds in ((1,), (1, 3), (1, 3, 9)))
    assert [step.label for step in first] == ["channels-0.5", "recover-1-rate=0.3", "aware-1"]
    assert [step.label for step in third[:4]] == [
        "channels-0.5", "recover-1-rate=0.3", "recover-2-rate=0.3", "recover-6-rate=0.3",
    ]  # fmt: skip
    assert third[:3] == second[:3]
    assert third[:2] == first[:2]
    assert third[-1].config.epochs == 9


def test_another_architecture_is_trained_on_by_recoveries():
    build = BUILD.step(builder=BUILDER, values='{"width": 4}', epochs=8)
    assert [step.label for step in continued((build,), (2, 4))] == ["build-width=4-2", "recover-2"]
    recover = CATALOG["recover"].step()
    assert [step.label for step in continued((build, recover), (2, 4))] == ["build-width=4-4", "recover-2", "recover-2"]


def test_a_builder_brings_its_own_hyperparameters_with_their_conditions():
    one = space(("channels",), builder=BUILDER)
    by_name = {hp.name: hp for hp in one.hyperparameters().space}
    assert {"build", "builder/width", "builder/deep", "builder/second"} <= set(by_name)
    values = set()
    for hyperparameters, recipe in drawn(one, 60):
        built = [step for step in recipe.steps if step.technique == "build"]
        assert bool(built) == (hyperparameters.values["build"] == YES)
        if built:
            found = json.loads(built[0].config.values)
            assert ("second" in found) == found["deep"]
            values.add((found["width"], found["deep"]))
    assert {deep for _, deep in values} == {True, False}


def test_a_worker_asks_the_builder_and_not_its_chief(monkeypatch):
    for key, value in (("TUNER_ID", "worker-0"), ("ORACLE_IP", "127.0.0.1"), ("ORACLE_PORT", "1")):
        monkeypatch.setenv(f"KERASTUNER_{key}", value)
    own = {hp.name for hp in space((), builder=BUILDER).hyperparameters().space if hp.name.startswith("builder/")}
    assert own == {"builder/width", "builder/deep", "builder/second"}


def test_nothing_by_default_takes_part():
    values = space().hyperparameters().values
    assert {values[name] for name in NAMES if name in values} == {NO}


@pytest.mark.parametrize(
    ("builder", "where"),
    [
        (tuning_architectures.build, "tuning_architectures:build"),
        (tuning_architectures.Shapes, "tuning_architectures:Shapes"),
        (tuning_architectures.shapes, "tuning_architectures:shapes"),
        ("tuning_architectures:build", "tuning_architectures:build"),
    ],
)
def test_builders_are_found_by_name(builder, where):
    assert building.reference(builder) == where
    assert isinstance(building.hypermodel(where), keras_tuner.HyperModel)


@pytest.mark.parametrize(
    ("builder", "words"),
    [
        (lambda hp: None, "put it into a module of its own"),
        (3, "`builder` is a function"),
        (tuning_architectures.Shapes(), "put it into a module of its own"),
        ("nowhere:build", "a module that can be imported"),
        ("tuning_architectures", "module:name"),
    ],
)
def test_builders_that_other_processes_cannot_find_are_refused(builder, words):
    with pytest.raises(ConfigError, match=words):
        building.reference(builder)


def test_labels_of_architectures_are_names_of_files_and_differ():
    label = BUILD.step(values=json.dumps({"kind": "a/b", "units": 3}), epochs=2).label
    assert "/" not in label
    assert label != BUILD.step(values=json.dumps({"kind": "a_b", "units": 3}), epochs=2).label
    assert len(BUILD.step(values=json.dumps({f"units_{n}": n for n in range(50)})).label) < 90
