"""Every row of the search's catalog: its settings travel, its space holds only what it takes, and what it makes of a
tiny model exports to every way to ship that it pays on."""

import keras
import numpy as np
import pytest
import zoo

from kopt import export, measure
from kopt.core.records.candidates import ExportConfig
from kopt.core.records.search.recipes import Recipe, ship_name
from kopt.core.records.search.techniques import CONFIGS, Step
from kopt.graph import fingerprint, load_model
from kopt.search.lessons import Lesson
from kopt.search.techniques import stages
from kopt.search.techniques.catalog import ALL_RUNTIMES, BUILD, CATALOG, GAINS, NEEDS, TRAINING, WAYS_TO_SHIP
from kopt.search.techniques.recipes import why_illegal
from kopt.search.techniques.work import Work
from kopt.search.training import Training

pytestmark = pytest.mark.long

COUNT = 32
TRANSFORMS = [row for row in CATALOG.values() if not row.ships]
# Settings that treat a model of a few thousand weights; the defaults are for larger ones.
SETTINGS = {"channels": {"keep": 0.5}, "constant_channels": {"tolerance": 1e-6}, "mixed": {"least_db": 45.0}}
# Relative root-mean-square differences; those of the export contract, with room for weights of 24 examples' training.
BOUNDS = {
    "float32": 1e-4,
    "float16": 5e-3,
    "dynamic": 5e-2,
    "weight_only": 5e-2,
    "int8": 5e-2,
    "int16x8": 5e-2,
    "int4": 0.4,
}


def attention():
    sequence = keras.Input((8, 16), name="sequence")
    x = keras.layers.MultiHeadAttention(2, 8, name="attention")(sequence, sequence)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Add()([x, sequence]))
    return keras.Model(sequence, keras.layers.Dense(3, activation="softmax")(x), name="attention")


def model_for(row):
    keras.utils.set_random_seed(0)
    model = attention() if row.name == "heads" else zoo.build("mlp" if row.name == "low_rank" else "cnn")
    if row.name == "constant_channels":  # Channel 3 is never above zero.
        norm = model.get_layer("norm0")
        gamma, beta = norm.gamma.numpy(), norm.beta.numpy()
        gamma[3], beta[3] = 0.0, -1.0
        norm.gamma.assign(gamma)
        norm.beta.assign(beta)
    return model


def work_for(model):
    x = zoo.inputs(model, COUNT)
    x = next(iter(x.values())) if isinstance(x, dict) else x
    labels = np.arange(COUNT) % model.output_shape[-1]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=model.name == "mlp")
    return Work(
        original=model,
        calibration={model.inputs[0].name: x},
        training=Training(epochs=1, batch_size=8),
        train=Lesson(x[:24], labels[:24]),
        held=Lesson(x[24:], labels[24:]),
        loss=loss,
    )


def short(row):
    settings = {"epochs": 1} if TRAINING in row.needs else {}
    return row.step(**settings, **SETTINGS.get(row.name, {}))


def test_the_table_speaks_of_what_there_is():
    assert {row.name for row in (*TRANSFORMS, BUILD)} == set(CONFIGS)
    assert {row.name for row in WAYS_TO_SHIP} == set(ALL_RUNTIMES)
    for row in CATALOG.values():
        assert row.stage in stages.STAGES
        assert set(row.then) <= set(stages.STAGES)
        assert row.needs <= set(NEEDS)
        assert set(row.improves) <= set(GAINS)
        assert set(row.pays_on) <= set(ALL_RUNTIMES)
        assert (row.apply is None) == row.ships
        assert (row.cost.kind == "training") == (TRAINING in row.needs)


@pytest.mark.parametrize("row", [*TRANSFORMS, BUILD], ids=lambda row: row.name)
def test_settings_travel_and_the_space_holds_what_they_take(row):
    for setting in row.space:
        for value in setting.choices:
            step = row.step(**{setting.name: value})
            assert getattr(step.config, setting.name) == value
            assert Step.from_json(step.to_json()) == step
    assert row.strength in {"", *(setting.name for setting in row.space)}


@pytest.mark.slow
@pytest.mark.parametrize("row", TRANSFORMS, ids=lambda row: row.name)
def test_what_a_technique_makes_saves_loads_and_exports_where_it_pays(row, tmp_path):
    model = model_for(row)
    before, work = fingerprint(model), work_for(model)
    step = short(row)
    outcome = row.apply(model, step.config, work)
    assert fingerprint(model) == before
    assert outcome.changed
    assert outcome.summary
    assert outcome.model is not model
    outcome.model.save(tmp_path / "model.keras")
    made = load_model(tmp_path / "model.keras")
    assert fingerprint(made) == fingerprint(outcome.model)
    x = next(iter(work.calibration.values()))
    expected = np.asarray(made(x, training=False))
    tried = []
    with export.traced(made) as source:
        for way in (CATALOG[name] for name in row.pays_on):
            recipe = Recipe((step,), way.export)
            if why_illegal(recipe):
                continue
            path = tmp_path / f"{way.name}{way.suffix}"
            write(source, way.export, path, work, outcome.in_float)
            found = measure.load(path).predict(x)
            error = np.sqrt(np.mean((found - expected) ** 2)) / np.sqrt(np.mean(expected**2))
            assert error < BOUNDS[way.export.scheme], way.name
            tried.append(ship_name(way.export))
    assert tried, "it pays nowhere"


@pytest.mark.slow
def test_training_with_rounding_begins_where_rounding_alone_ends():
    """Channels spread 1,000 times: with plain ranges and kernels hardly an answer is left after an epoch."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    spread = 10 ** generator.uniform(-1.5, 1.5, 16).astype("float32")
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(16, 3, activation="relu", name="wide")(inputs)
    x = keras.layers.DepthwiseConv2D(3, activation="relu", name="deep")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(16, 1, activation="relu", name="narrow")(x))
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax", name="last")(x))
    wide, deep, narrow, last = (model.get_layer(name) for name in ("wide", "deep", "narrow", "last"))
    wide.kernel.assign(wide.kernel * spread)
    deep.kernel.assign(deep.kernel * spread[::-1][:, None])
    narrow.kernel.assign(narrow.kernel / (spread * spread[::-1])[:, None])
    last.kernel.assign(100.0 * last.kernel)  # classes that are told apart
    work = work_for(model)
    x = next(iter(work.calibration.values()))
    expected, errors = np.log(model(x, training=False)), {}
    for name, settings in (("aware", {"epochs": 1, "rate": 1e-6}), ("post_training", {})):
        row = CATALOG[name]
        made = row.apply(model, row.step(**settings).config, work)
        found = np.log(made.model(x, training=False))
        errors[name] = np.sqrt(np.mean((found - expected) ** 2)) / np.std(expected)
    assert errors["aware"] < 1.5 * errors["post_training"] < 0.3, errors


def write(source, config: ExportConfig, path, work, in_float):
    if config.format == "tflite":
        calibration = {"calibration": work.calibration, "samples": COUNT}
        return export.tflite(source, path, scheme=config.scheme, fallback=in_float, **calibration)
    exporter = {"onnx": export.onnx, "saved_model": export.saved_model}[config.format]
    return exporter(source, path, data=work.calibration)
