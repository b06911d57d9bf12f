"""What `kopt.quantize.diagnose` finds: against arithmetic by hand, against the file, and on networks that are hard."""

import dataclasses
import math

import hard_networks
import keras
import numpy as np
import pytest

import kopt
from kopt.core.errors import ConfigError, NonFiniteError, UnsupportedModelError
from kopt.core.records.changes.quantization_diagnosis import (
    FINDINGS,
    ExampleError,
    Finding,
    QuantizationDiagnosis,
    noise_share,
)
from kopt.quantize.diagnosis.calibrating import growth
from kopt.quantize.diagnosis.findings import findings_of
from kopt.quantize.diagnosis.kernel_ranges import measured
from kopt.quantize.diagnosis.measuring import Answers
from kopt.quantize.diagnosis.signals import decibels, middle_share, outside, spread
from kopt.quantize.grids import grid_of

L = keras.layers


@pytest.fixture(scope="module")
def dense():
    """A dense layer of three inputs and two outputs, its inputs, and what was found."""
    rng = np.random.default_rng(0)
    i = keras.Input((3,), name="x")
    model = keras.Model(i, L.Dense(2, name="dense")(i), name="one")
    model.get_layer("dense").set_weights([rng.normal(size=(3, 2)), rng.normal(size=2)])
    x = rng.normal(size=(64, 3)).astype("float32")
    return model, x, kopt.quantize.diagnose(model, x)


@pytest.fixture(scope="module")
def hard():
    return kopt.quantize.diagnose(hard_networks.spread(hard_networks.chain(), 1), hard_networks.images())


def round_to(x, low, high):
    """Round to 256 values from `low` to `high`, of which one is 0."""
    scale = (high - low) / 255
    zero = np.rint(-128 - low / scale)
    return (np.clip(np.rint(x / scale) + zero, -128, 127) - zero) * scale


def by_hand(model, x):
    """Return the exact outputs, those with rounded weights, all rounded, and only the outputs rounded."""
    kernel, bias = model.get_layer("dense").get_weights()
    steps = np.abs(kernel).max(0) / 127
    weights = np.rint(kernel / steps) * steps
    inputs = round_to(x, x.min(), x.max())
    input_step = (x.max() - x.min()) / 255
    biases = np.rint(bias / (input_step * steps)) * input_step * steps
    exact = x @ kernel + bias
    ends = exact.min(), exact.max()
    own = x @ weights + biases
    return exact, own, round_to(inputs @ weights + biases, *ends), round_to(exact, *ends), round_to(own, *ends)


def ratio(signal, disturbed):
    return 10 * np.log10((signal**2).sum() / ((disturbed - signal) ** 2).sum())


def test_ratios_are_those_of_arithmetic_by_hand(dense):
    model, x, found = dense
    exact, weights, everything, rounding, alone = by_hand(model, x)
    one = found.layer("dense")
    assert one.kernel_db == pytest.approx(ratio(exact, weights), abs=0.01)
    assert one.rounding_db == pytest.approx(ratio(exact, rounding), abs=0.01)
    assert one.alone_db == pytest.approx(ratio(exact, alone), abs=0.01)
    assert one.sqnr_db == pytest.approx(ratio(exact, everything), abs=0.01)
    assert one.output_db == pytest.approx(one.alone_db)  # its output is the model's
    assert found.output_db == pytest.approx(one.sqnr_db)
    assert found.layer("x").rounding_db == pytest.approx(ratio(x, round_to(x, x.min(), x.max())), abs=0.01)
    assert (found.agreement, found.flips) == (
        1 - found.flips / 64,
        int((exact.argmax(1) != everything.argmax(1)).sum()),
    )


def test_the_range_is_the_smallest_and_the_largest_value(dense):
    _, x, found = dense
    one = found.layer("x")
    assert (one.low, one.high) == pytest.approx((x.min(), x.max()), abs=float(x.max() - x.min()) / 255)
    assert one.saturated == 0.0


def test_the_example_that_suffers_most_is_named_by_its_row(dense):
    model, x, found = dense
    exact, _, everything, _, _ = by_hand(model, x)
    errors = np.sqrt(((everything - exact) ** 2).sum(1) / (exact**2).sum(1).mean())
    assert [one.row for one in found.worst[:3]] == list(np.argsort(-errors)[:3])
    assert found.worst[0].error == pytest.approx(errors.max(), rel=1e-3)


def test_spread_channels_are_found_at_their_layer_and_nowhere_else(hard):
    kinds = [(one.layer, one.kind) for one in hard.findings]
    assert kinds == [("pw1", "most of the error"), ("pw1", "spread kernel"), ("dw1", "spread output")]
    assert hard.layer("dw1").output_spread == pytest.approx(1000, rel=0.5)
    assert "The channels of its output differ" in hard.findings[2].words
    others = [one for one in hard.layers if one.layer not in ("dw1", "pw1")]
    assert all(one.output_spread < 100 and one.alone_db > 40 for one in others)
    assert hard.layer("pw1").output_db < 10 < 40 < min(one.output_db for one in others)


@pytest.mark.slow
def test_a_network_without_spread_has_no_finding():
    found = kopt.quantize.diagnose(hard_networks.chain(), hard_networks.images())
    assert found.findings == ()
    assert found.output_db > 25


@pytest.mark.slow
def test_a_layer_alone_costs_what_running_it_alone_costs(hard):
    """Rounding the kernel of `pw1` and its output by hand in a plain copy of the model gives the same ratio."""
    model, x = hard_networks.spread(hard_networks.chain(), 1), hard_networks.images()
    exact = model.predict(x, verbose=0)
    layer = model.get_layer("pw1")
    inner = keras.Model(model.input, model.get_layer("pw1_relu").output).predict(x, verbose=0)
    kernel, bias = layer.get_weights()
    steps = np.abs(kernel).max((0, 1, 2)) / 127
    layer.set_weights([np.rint(kernel / steps) * steps, bias])
    own = keras.Model(model.input, model.get_layer("pw1_relu").output).predict(x, verbose=0)
    behind = keras.Model(model.get_layer("pw1_relu").output, model.output)
    disturbed = behind.predict(round_to(own, 0.0, inner.max()), verbose=0)
    assert hard.layer("pw1").output_db == pytest.approx(ratio(exact, disturbed), abs=0.05)
    assert hard.layer("pw1").alone_db == pytest.approx(ratio(inner, round_to(own, 0.0, inner.max())), abs=0.05)


@pytest.mark.slow
def test_the_file_has_the_error_that_was_found(hard, tmp_path):
    model, x = hard_networks.spread(hard_networks.chain(), 1), hard_networks.images()
    kopt.export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x, overwrite=True)
    outputs = kopt.measure.load(tmp_path / "m.tflite").predict(x)
    assert hard.output_db == pytest.approx(ratio(model.predict(x, verbose=0), outputs), abs=0.5)


def test_a_trained_copy_is_judged_by_its_own_ranges(dense):
    """A range of half the inputs' leaves outside it what is outside it."""
    model, x, _ = dense
    copy, _ = kopt.quantize.aware(model, calibration=x)
    half = float(np.abs(x).max()) / 2
    copy.get_layer("x_range").ranges.assign([[-half, half]])
    found = kopt.quantize.diagnose(copy, x)
    expected = float(np.mean(np.abs(x) > half))
    assert found.layer("x").saturated == pytest.approx(expected, abs=0.02)
    assert ("x", "saturated") in [(one.layer, one.kind) for one in found.findings]
    assert found.notes == ()
    with pytest.raises(ConfigError, match="with its float layers"):
        kopt.quantize.diagnose(copy, x, skip=["dense"])


@pytest.mark.slow
def test_nested_and_shared_layers_have_their_paths():
    i = keras.Input((4,), name="x")
    inner = keras.Sequential([keras.Input((4,)), L.Dense(4, activation="relu", name="dense")], name="inner")
    model = keras.Model(i, L.Add(name="add")([inner(inner(i)), i]))
    found = kopt.quantize.diagnose(model, np.random.default_rng(0).random((32, 4), np.float32))
    assert [one.layer for one in found.layers] == ["x", "inner/dense", "inner/dense", "add"]
    assert all(math.isfinite(one.output_db) for one in found.layers)


def test_what_a_softmax_cuts_off_at_the_end_of_its_fixed_range_is_no_finding():
    """TFLite's range ends at 255/256, and answers that are certain are 1."""
    i = keras.Input((4,), name="x")
    model = keras.Model(i, L.Dense(4, activation="softmax", kernel_initializer="identity", name="out")(i))
    found = kopt.quantize.diagnose(model, 100 * np.tile(np.eye(4, dtype="float32"), (10, 1)))
    assert [one.saturated for one in found.layers] == [0.0, 0.0, 0.0]
    assert "saturated" not in [one.kind for one in found.findings]


@pytest.mark.slow
def test_layers_in_float_stay_and_are_listed(dense):
    model, x, _ = dense
    wide = keras.Sequential([keras.Input((3,)), L.Dense(3, name="first"), model])
    found = kopt.quantize.diagnose(wide, x, skip=["first"])
    assert [one.layer for one in found.left] == ["first"]
    assert found.layer("first").kernel is None
    assert found.layer("one/dense").kernel is not None


def test_sixteen_bits_are_finer(dense):
    """Each further bit halves the step, and the noise loses 6 dB."""
    model, x, coarse = dense
    fine = kopt.quantize.diagnose(model, x, scheme="int16x8")
    assert fine.layer("x").rounding_db - coarse.layer("x").rounding_db == pytest.approx(48, abs=3)


def test_few_examples_are_said_with_their_effect(dense):
    model, x, _ = dense
    with pytest.warns(UserWarning, match=r"ranges widened by \d+%.* probability of up to 40%") as caught:
        found = kopt.quantize.diagnose(model, x[:4])
    assert [one.filename for one in caught if one.category is UserWarning] == [__file__]
    assert found.notes[0].startswith("Only 4 example(s): ranges are still growing.")


def test_a_nan_is_named_by_its_row(dense):
    model, x, _ = dense
    broken = x.copy()
    broken[17, 2] = np.nan
    with pytest.raises(NonFiniteError, match=r"at index \(17, 2\) of the arrays that were given"):
        kopt.quantize.diagnose(model, broken)


def test_the_record_goes_through_json(hard):
    assert QuantizationDiagnosis.from_json(hard.to_json()) == QuantizationDiagnosis.from_json(
        QuantizationDiagnosis.from_json(hard.to_json()).to_json()
    )
    assert QuantizationDiagnosis.from_json(hard.to_json()).layer("pw1_relu").layer == "pw1"
    with pytest.raises(ConfigError, match="Did you mean 'stem'"):
        hard.layer("stm")


def test_it_is_shown_as_a_table_a_plot_and_a_page(hard, tmp_path):
    table = hard.table(120, sort="error", rows=2)
    assert [line.split()[0] for line in table.splitlines()[4:6]] == ["pw1", "dw1"]
    assert "8 more layers" in table
    page = hard.html(tmp_path / "page.html").read_text()
    assert "pw1: spread kernel" in page
    assert page.count("<svg") == 1
    assert hard.plot(tmp_path / "plot.svg").exists()
    assert "pw1 costs the output most" in str(hard)


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    model = Own()
    model(np.zeros((1, 2), np.float32))
    with pytest.raises(UnsupportedModelError):
        kopt.quantize.diagnose(model, np.zeros((20, 2), np.float32))


def test_small_errors_that_add_up_are_said_where_no_layer_stands_out(dense):
    """Ten layers of 25 dB each make 10 * 10^-2.5 of the signal, 15 dB."""
    layers = [dataclasses.replace(dense[2].layer("dense"), layer=f"d{n}", output_db=25.0) for n in range(10)]
    [found] = findings_of(layers, 15.0)
    assert (found.kind, found.value) == ("everywhere", 15.0)
    assert "the errors of 10 operators add up" in found.words
    assert findings_of(layers, 25.0) == ()
    worst = dataclasses.replace(layers[0], output_db=5.0)
    assert [one.kind for one in findings_of([worst, *layers[1:]], 4.0)] == ["most of the error"]


def test_decibels():
    assert decibels(100.0, 1.0) == pytest.approx(20.0)
    assert decibels(1.0, 0.0) == math.inf
    assert decibels(0.0, 1.0) == -math.inf
    assert noise_share(20.0) == pytest.approx(0.01)
    assert noise_share(math.inf) == 0.0


def test_values_outside_a_grid_are_those_beyond_half_a_step():
    grid = grid_of(0.0, 255.0)
    assert outside(np.array([-0.6, -0.4, 255.4, 255.6, 10.0], np.float32), grid) == 2


def test_the_middle_of_a_range():
    counts = np.zeros(256, int)
    counts[10:20], counts[255] = 1000, 1
    assert middle_share(counts) == pytest.approx(10 / 256)
    assert middle_share(np.zeros(256, int)) == 0.0


def test_spread_leaves_out_zeros_and_the_smallest_tenth():
    assert spread(np.array([0.0, 0.5, 2.0])) == 4.0
    assert spread(np.array([1e-9, *[1.0] * 8, 3.0])) == 3.0
    assert spread(np.zeros(3)) == 1.0


def test_what_a_kernel_loses_and_what_its_biases_cannot_hold():
    """Steps are 1 and 1e-9; 0.4 rounds to 0; 3e-9 * 2^31 is less than 10."""
    kernel = np.array([[127.0, 127e-9], [0.4, 0.0]])
    found = measured(kernel, np.array([10.0, 10.0]), (1,), (0,), 8, 1.0)
    assert (found.weights, found.outside) == (4, 1)
    assert found.lost == pytest.approx(1 / 3)
    assert found.spread == pytest.approx(1e9)
    assert found.input_spread == pytest.approx(127 / 0.4)
    assert measured(kernel, np.array([1.0, 1.0]), (1,), (0,), 8, 1.0).outside == 0


def test_growth_is_what_the_second_half_adds():
    extremes = np.zeros((1, 4, 2))
    extremes[0, :, 1] = [1.0, 2.0, 4.0, 3.0]
    assert growth(extremes) == pytest.approx(1.0)
    assert growth(extremes[:, :1]) == 0.0


def test_an_unknown_kind_of_finding_is_refused():
    assert Finding(FINDINGS[0], "a", 1.0, 0.5, "").kind == "spread output"
    with pytest.raises(ConfigError, match="Did you mean 'saturated'"):
        Finding("saturate", "a", 1.0, 0.5, "")
    assert ExampleError(0, 0.1, 1, 2).is_flipped


@pytest.mark.slow
@pytest.mark.parametrize("end", [lambda y: y, lambda y: [keras.ops.cast(y, "float32")]])
def test_an_argmax_is_judged_by_what_it_is_taken_of(end, dense):
    model, x, plain = dense
    found = kopt.quantize.diagnose(keras.Model(model.input, end(keras.ops.argmax(model.output, axis=-1))), x)
    assert found.output_db == pytest.approx(plain.output_db)
    assert (found.agreement, found.flips) == (plain.agreement, plain.flips)


def test_answers_are_of_the_first_output_that_has_classes():
    one, classes = np.zeros((3, 1)), np.eye(3)
    answers = Answers()
    answers.add([np.zeros(3), one, classes, one], [np.zeros(3), one, classes[::-1], one])
    assert (answers.exact.tolist(), answers.rounded.tolist()) == ([0, 1, 2], [2, 1, 0])
