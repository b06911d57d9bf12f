"""The fewest layers in float: the search by itself, the model that rounds as the file does, and the file."""

import hard_networks
import keras
import numpy as np
import pytest

import kopt
from kopt.core.errors import ConfigError, DataError, OutputExistsError, UnsupportedModelError
from kopt.core.records.changes.fallback import FallbackPlan
from kopt.quantize.diagnosis.calibrating import Batches, find_extremes, set_ranges
from kopt.quantize.diagnosis.tracing import RoundedTrace
from kopt.quantize.mixed.float_layers import MixedModel
from kopt.quantize.mixed.searching import search

L = keras.layers

NOISE = {"a": 1.0, "b": 8.0, "c": 4.0, "d": 0.5}
TAKERS = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("d"), "d": frozenset()}


def found(judge, least, most=4):
    return search(list(NOISE), NOISE, TAKERS, judge, least, most)


def test_nothing_goes_to_float_where_integers_are_good_enough():
    [state] = found(lambda layers: 5.0, 5.0)
    assert (state.layers, state.added) == (frozenset(), ())


def test_the_layer_that_suffices_is_taken_and_no_other():
    states = found(lambda layers: 9.0 if "c" in layers else len(layers) / 10, 9.0)
    assert states[-1].layers == {"c"}


def test_a_layer_and_its_taker_go_together_where_neither_helps_alone():
    states = found(lambda layers: 9.0 if {"a", "b"} <= layers else 0.0, 9.0)
    assert [state.added for state in states] == [(), ("a", "b")]


def test_what_turns_out_not_to_be_needed_goes_back():
    """One step takes `b`, which gains most; with `c` and `d`, the next step, it is not needed."""

    def judge(layers):
        return 9.0 if {"c", "d"} <= layers else 3.0 if "b" in layers else 0.0

    states = found(judge, 9.0)
    assert states[-1].layers == {"c", "d"}


def test_the_search_ends_where_nothing_gains_and_at_the_limit():
    assert len(found(lambda layers: -1.0, 9.0)) == 1
    states = found(lambda layers: float(len(layers)), 4.0, most=2)
    assert len(states[-1].layers) == 2


@pytest.mark.slow
def test_types_that_no_file_can_mix_are_refused():
    model, x = hard_networks.chain(), hard_networks.images(20)
    with pytest.raises(ConfigError, match="cannot mix activations of 8 and 16 bits"):
        kopt.quantize.fallback(model, x, to="int16x8")
    with pytest.raises(ConfigError, match="Did you mean 'float16'"):
        kopt.quantize.fallback(model, x, to="float17")
    with pytest.raises(ConfigError, match="goes with the schemes int8 and int16x8"):
        kopt.export.tflite(model, "m.tflite", fallback_dtype="float16")
    with pytest.raises(UnsupportedModelError, match="quantization-aware already"):
        kopt.quantize.fallback(kopt.quantize.aware(model)[0], x)
    with pytest.raises(DataError, match="20 inputs and 3 labels"):
        kopt.quantize.fallback(model, x, evaluate=(x, np.zeros(3)))


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    model, x = hard_networks.spread(hard_networks.chain(), 1), hard_networks.images()
    path = tmp_path_factory.mktemp("fallback") / "m.tflite"
    return model, x, path, kopt.quantize.fallback(model, x, path)


def ratio(model, path, x):
    exact, outputs = model.predict(x, verbose=0), kopt.measure.load(path).predict(x)
    return 10 * np.log10((exact**2).sum() / ((outputs - exact) ** 2).sum())


@pytest.mark.slow
def test_the_layer_that_was_made_hard_is_returned_and_no_other(hard):
    """Its kernel costs all but 24 dB, and 20 are wanted."""
    model, x, path, plan = hard
    assert plan.layers == ("pw1",)
    assert plan.within_budget
    assert plan.steps[0].output_db < 10 < 20 < plan.measured_db
    assert plan.steps[-1].output_db == pytest.approx(plan.measured_db, abs=0.3)
    assert plan.measured_db == pytest.approx(ratio(model, path, x), abs=1e-3)
    counts = {(one.name, one.dtype): one.count for one in kopt.export.read_manifest(path).operators}
    assert (counts["CONV_2D", "float32"], counts["CONV_2D", "int8"]) == (1, 3)
    assert "1 layer(s) in float32: pw1. The budget holds" in str(plan)
    assert "pw1" in plan.table()


@pytest.mark.slow
def test_a_plan_that_was_saved_makes_the_same_file(hard, tmp_path):
    model, x, path, plan = hard
    again = FallbackPlan.from_json(plan.to_json())
    artifact = kopt.export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x, fallback=again)
    assert (tmp_path / "m.tflite").read_bytes() == path.read_bytes()
    assert artifact.options["fallback"] == "pw1"
    with pytest.raises(ConfigError, match="plan is for the scheme 'int8'"):
        kopt.export.tflite(model, tmp_path / "n.tflite", scheme="int16x8", calibration=x, fallback=again)
    with pytest.raises(OutputExistsError):
        kopt.quantize.fallback(model, x, path)


@pytest.mark.slow
def test_an_output_that_spoils_the_rest_leaves_with_its_taker(hard):
    """The output of `dw1` is rounded unless `pw1`, which takes it, is in float, too."""
    model, x, _, _ = hard
    plan = kopt.quantize.fallback(model, x, least_db=35.0)
    assert plan.layers == ("dw1", "pw1")
    assert plan.measured_db == pytest.approx(plan.steps[-1].output_db, abs=0.3)
    assert plan.measured_db > 35


@pytest.mark.slow
@pytest.mark.parametrize("layers", [(), ("dw1",), ("dw1", "pw1"), ("stem", "gap")])
def test_the_model_that_is_searched_answers_what_the_file_answers(hard, tmp_path, layers):
    """The last layer computes integers, so that both answer in steps; few fall to the other side of a tie."""
    model, x, _, _ = hard
    copy, _ = kopt.quantize.aware(model)
    trace = RoundedTrace(copy)
    batches = Batches([x], 50)
    set_ranges(trace, find_extremes(trace, batches))
    [expected] = MixedModel(copy, trace).outputs(batches, layers)
    artifact = kopt.export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x, fallback=layers)
    step = next(one.grid.scale for one in copy.layers if one.name.startswith("out") and hasattr(one, "ranges"))
    apart = np.abs(kopt.measure.load(artifact.path).predict(x) - expected) / step
    assert apart.max() < 1.01
    assert np.mean(apart > 0.5) < 0.03


@pytest.mark.slow
def test_accuracy_is_what_the_budget_says_it_is():
    """Labels are the answers of the float model, which is right in all of them."""
    model, x = hard_networks.spread(hard_networks.chain(), 1), hard_networks.images()
    kernel, bias = model.get_layer("out").get_weights()
    model.get_layer("out").set_weights([kernel, bias - model.predict(x, verbose=0).mean(0)])
    labels = model.predict(x, verbose=0).argmax(1)
    plan = kopt.quantize.fallback(model, x, evaluate=(x, labels), max_drop=0.1)
    assert (plan.metric, plan.reference, plan.examples) == ("accuracy", 1.0, 100)
    assert plan.steps[0].metric < 0.9 <= plan.measured
    assert plan.within_budget
    assert "pw1" in plan.layers


@pytest.mark.slow
def test_float16_weights_take_half_and_answer_the_same(tmp_path):
    """131,072 weights: 262,144 bytes less."""
    i = keras.Input((256,), name="x")
    hidden = keras.layers.Dense(512, activation="relu", name="hidden")(i)
    model = keras.Model(i, keras.layers.Dense(10, name="out")(hidden))
    x = np.random.default_rng(0).random((50, 256), np.float32)
    full, half = (
        kopt.export.tflite(
            model, tmp_path / f"{kind}.tflite", scheme="int8", calibration=x, fallback=["hidden"], fallback_dtype=kind
        )
        for kind in ("float32", "float16")
    )
    assert full.size_bytes - half.size_bytes == pytest.approx(262_144, abs=2_000)
    assert half.options["fallback_dtype"] == "float16"
    outputs = [kopt.measure.load(one.path).predict(x) for one in (full, half)]
    np.testing.assert_allclose(
        outputs[0], outputs[1], atol=2 * full.outputs[0].scale if full.outputs[0].scale else 0.02
    )


@pytest.mark.slow
def test_an_output_layer_without_activation_stays_in_float(tmp_path):
    model, x = hard_networks.chain(), hard_networks.images(20)
    artifact = kopt.export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x, fallback=["out"])
    counts = {(one.name, one.dtype): one.count for one in artifact.operators}
    assert counts["FULLY_CONNECTED", "float32"] == counts["MEAN", "int8"] == 1
    artifact = kopt.export.tflite(model, tmp_path / "n.tflite", scheme="int8", calibration=x, fallback=["gap"])
    counts = {(one.name, one.dtype): one.count for one in artifact.operators}
    assert counts["FULLY_CONNECTED", "int8"] == counts["MEAN", "float32"] == 1


@pytest.mark.slow
def test_layers_without_an_integer_operator_are_in_float_anyway(tmp_path):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, activation="elu", name="elu"), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    x = np.random.default_rng(0).normal(size=(24, 8, 8, 3)).astype("float32")
    plan = kopt.quantize.fallback(model, x, tmp_path / "mixed.tflite", least_db=10.0)
    assert plan.layers == ("elu",)
    assert plan.notes[0].startswith("elu went to float32 for the converter's sake")
    assert plan.within_budget


def test_what_is_wrong_is_said_before_the_search(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    x = np.zeros((24, 4), "float32")
    (tmp_path / "there.tflite").write_bytes(b"x")
    monkeypatch.setattr(kopt.quantize.mixed.fallback, "numbered", None)
    with pytest.raises(OutputExistsError):
        kopt.quantize.fallback(model, x, tmp_path / "there.tflite", least_db=10.0)
    with pytest.raises(ConfigError, match="`most`"):
        kopt.quantize.fallback(model, x, least_db=10.0, most=-1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "end",
    [
        lambda a, b: L.Concatenate()([a, b]),
        lambda a, b: [L.Reshape((2, 3))(a), b],
        lambda a, b: L.MaxPooling1D(2)(L.Reshape((12, 1))(L.Concatenate()([a, b]))),
    ],
)
def test_what_stays_in_integers_behind_layers_in_float_is_foreseen(end, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    small = L.Dense(6)
    x = L.Dense(16, activation="relu")(inputs)
    model = keras.Model(inputs, end(L.Dense(6)(x), small(x)))
    small.kernel.assign(small.kernel * 0.1)
    plan = kopt.quantize.fallback(
        model, np.random.default_rng(0).normal(size=(64, 8)), tmp_path / "m.tflite", least_db=60
    )
    assert len(plan.layers) == 3
    assert plan.steps[-1].output_db == pytest.approx(plan.measured_db, abs=0.1)
    assert plan.measured_db < 60


def recurrent(layer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5, 4)), layer(6, name="cells"), L.Dense(3, name="last")])
    return model, np.random.default_rng(0).normal(size=(40, 5, 4)).astype("float32")


def test_an_rnn_without_an_integer_operator_is_refused_before_the_search(monkeypatch):
    model, x = recurrent(L.GRU)
    monkeypatch.setattr(kopt.quantize.mixed.fallback, "rounded_copy", None)
    with pytest.raises(UnsupportedModelError, match=r"'cells' \(GRU\) cannot be quantized to int8"):
        kopt.quantize.fallback(model, x)


@pytest.mark.slow
def test_beside_a_fused_lstm_layers_of_outputs_are_tried_and_no_others():
    model, x = recurrent(L.LSTM)
    plan = kopt.quantize.fallback(model, x, least_db=60.0)
    assert (plan.layers, plan.within_budget) == (("last",), False)
    assert "Beside an LSTM, which is one operator, cells cannot stay in float so; `skip` of" in plan.notes[0]


@pytest.mark.slow
def test_an_lstm_that_is_to_stay_in_float_is_refused_with_what_leaves_it_there(tmp_path):
    model, x = recurrent(L.LSTM)
    settings = {"scheme": "int8", "calibration": x}
    with pytest.raises(UnsupportedModelError, match=r"cells of .* are those of the model \(last\).*skip=\['cells'\]"):
        kopt.export.tflite(model, tmp_path / "m.tflite", fallback=["cells", "last"], **settings)
    copy, _ = kopt.quantize.aware(model, calibration=x, skip=["cells"])
    made = kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int8")
    assert ("TANH", "float32") in {(one.name, one.dtype) for one in made.operators}


@pytest.mark.slow
def test_a_plan_for_an_argmax_says_that_places_were_compared():
    i = keras.Input((8,))
    model = keras.Model(i, keras.ops.argmax(L.Dense(3)(i), axis=-1))
    plan = kopt.quantize.fallback(model, np.random.default_rng(0).normal(size=(24, 8)))
    assert "An output is an argmax" in plan.notes[0]


@pytest.mark.slow
def test_a_plan_names_a_layer_that_computes_in_float_beside_those_that_were_chosen(tmp_path):
    keras.utils.set_random_seed(0)
    i = keras.Input((8,), name="x")
    model = keras.Model(i, L.Dense(3, name="last")(L.ELU(name="elu")(L.Dense(16, name="first")(i))))
    x = np.random.default_rng(0).normal(size=(40, 8)).astype("float32")
    plan = kopt.quantize.fallback(model, x, tmp_path / "m.tflite", least_db=60.0, most=1)
    assert plan.layers == ("elu", "last")
    assert plan.notes[0].startswith("elu would be in float32 anyway")
    kopt.export.tflite(model, tmp_path / "n.tflite", scheme="int8", calibration=x, fallback=plan)
    assert (tmp_path / "n.tflite").read_bytes() == (tmp_path / "m.tflite").read_bytes()
