"""Targets of measured latency, and reports with what was measured."""

import types

import keras
import numpy as np
import pytest

import kopt
from kopt.core.errors import ConfigError, InputError
from kopt.prune import shipping
from kopt.prune.channel_removal import latency
from kopt.prune.shipping import RUNTIMES

L = keras.layers


def network(size=8, width=16):
    keras.utils.set_random_seed(0)
    i = keras.Input((size, size, 3), name="image")
    x = L.Conv2D(width, 3, padding="same", activation="relu", name="a")(i)
    x = L.Conv2D(width, 3, padding="same", activation="relu", name="b")(x)
    return keras.Model(i, L.Dense(3, name="out")(L.GlobalAveragePooling2D(name="pool")(x)), name="net")


@pytest.fixture
def clockwork(monkeypatch):
    """A runtime in which a call takes a millisecond and a microsecond for every parameter."""

    def shipped(model, directory, name, runtime):
        assert runtime == "tflite"
        return None, types.SimpleNamespace(model=model, runtime="Clockwork 1")

    def quickest_turns(a, b):
        return tuple(1 + side.model.count_params() / 1000 for side in (a, b))

    monkeypatch.setattr(latency, "shipped", shipped)
    monkeypatch.setattr(latency, "quickest_turns", quickest_turns)


def test_the_quickest_turn_counts(monkeypatch):
    rounds = np.array([[4.0, 1.5], [2.0, 1.5], [4.0, 1.0]])
    monkeypatch.setattr(shipping, "paired_rounds", lambda *sides, **settings: rounds)
    assert shipping.quickest_turns(None, None) == (2.0, 1.0)


def test_a_target_in_milliseconds_is_measured(clockwork):
    # 448 + 2320 + 51 parameters, 3.819 ms; 2.4 ms are 1400 parameters.
    smaller, report = kopt.prune.channels(network(), target_latency_ms=2.4, round_to=1)
    (last,) = [probe for probe in report.probes if probe.parameters == smaller.count_params()]
    assert 0.95 * 2.4 <= last.latency_ms <= 2.4
    assert last.macs == report.macs_after
    assert {probe.reference_ms for probe in report.probes} == {3.819}
    assert last.share == pytest.approx(last.latency_ms / 3.819)
    assert report.goal == "target_latency_ms=2.4"
    assert type(report).from_json(report.to_json()) == report
    table = report.table(80)
    (line,) = [line for line in table.splitlines() if line.startswith("> ")]
    assert line.endswith(f"{last.share:.3f}")
    assert "Size and time are not measured" in table
    assert max(map(len, table.splitlines())) <= 80


def test_a_target_as_a_share_of_the_present_latency(clockwork):
    _, report = kopt.prune.channels(network(), target_latency=0.7, round_to=1)
    assert 0.95 * 0.7 <= report.probes[-1].share <= 0.7
    _, report = kopt.prune.channels(network(), target_latency=0.7, scope="layer", per=None)
    assert report.scope == "layer"
    assert report.groups[0].after == report.groups[1].after == 8


def test_a_measurement_that_other_work_disturbs_is_made_again(monkeypatch, clockwork):
    _, expected = kopt.prune.channels(network(), target_latency=0.7, round_to=1)
    undisturbed, calls = latency.quickest_turns, []

    def disturbed(a, b):
        calls.append(b.model.count_params())
        reference_ms, latency_ms = undisturbed(a, b)
        seems_too_slow = calls.count(calls[-1]) == 1 and 2 * latency_ms > 0.7 * reference_ms
        return reference_ms, 2 * latency_ms if seems_too_slow else latency_ms

    monkeypatch.setattr(latency, "quickest_turns", disturbed)
    _, found = kopt.prune.channels(network(), target_latency=0.7, round_to=1)
    assert (found.probes, found.macs_after) == (expected.probes, expected.macs_after)


def test_importance_for_each_millisecond(clockwork):
    _, report = kopt.prune.channels(network(), target_macs=0.6, per="latency")
    # Half of a is 8 * (28 + 144) parameters, half of b 8 * (145 + 3), at a microsecond each.
    assert [group.saving for group in report.groups[:2]] == pytest.approx([0.172, 0.148])
    assert report.groups[2].saving is None
    assert type(report).from_json(report.to_json()) == report
    rows = [line.split() for line in report.table(80).splitlines() if line.startswith(("a ", "b ", "Layers"))]
    assert [row[-1] for row in rows] == ["each", "172", "148"]
    assert report.per == "latency"


def test_what_saves_too_little_to_be_measured_stays(monkeypatch, clockwork):
    monkeypatch.setattr(latency, "quickest_turns", lambda a, b: (1.0, 0.5 if b.model.layers[2].filters == 8 else 0.995))
    # Half of a saves half a per cent, half of b half.
    _, report = kopt.prune.channels(network(), keep=0.75, per="latency", scope="global", round_to=1)
    assert [group.saving for group in report.groups[:2]] == [0.0, 0.0625]
    assert [group.after for group in report.groups[:2]] == [16, 8]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"target_latency_ms": 4}, r"not below what the model takes: 3\.82 ms, measured in Clockwork 1 with 1 thread"),
        # A channel each: 28 + 10 + 6 parameters.
        ({"target_latency_ms": 1.0, "round_to": 1}, r"cannot be reached: .* takes 1\.04 ms, 0\.273 of the 3\.82 ms"),
        ({"target_latency": 0.1}, "Lower `round_to`"),
        ({"target_latency": 1.0}, "is not below what the model takes"),
    ],
)
def test_targets_out_of_reach(clockwork, settings, text):
    with pytest.raises(ConfigError, match=text):
        kopt.prune.channels(network(), **settings)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_smaller_file_is_as_fast_as_asked_for(runtime):
    model = network(48, 64)
    smaller, report = kopt.prune.channels(model, target_latency=0.5, runtime=runtime)
    (taken,) = [probe for probe in report.probes if probe.macs == report.macs_after]
    assert taken.share <= 0.5
    # Every wider model that was measured takes too long. How far below the target the next one is, processors decide:
    # kernels work on 8, 16 or 32 channels at once.
    assert all(probe.share > 0.5 for probe in report.probes if probe.macs > taken.macs)
    report = kopt.prune.measured(report, model, smaller, runtime=runtime, seconds=1.0)
    assert report.measured.format == runtime
    assert report.measured.after.least_ms / report.measured.before.least_ms == pytest.approx(taken.share, rel=0.25)
    assert report.measured.after.size_bytes < 0.7 * report.measured.before.size_bytes


@pytest.mark.slow
def test_what_pruning_saved_is_in_the_report():
    model = network()
    smaller, report = kopt.prune.channels(model, keep=0.5)
    report = kopt.prune.measured(report, model, smaller, seconds=0.2)
    before, after = report.measured.before, report.measured.after
    assert (before.parameters, after.parameters) == (report.parameters_before, report.parameters_after)
    assert (before.macs, after.macs) == (report.macs_before, report.macs_after)
    assert before.nonzero_parameters == before.parameters == 448 + 2320 + 51
    assert after.size_bytes < before.size_bytes - 4 * (before.parameters - after.parameters) + 500
    assert type(report).from_json(report.to_json()) == report
    assert "Milliseconds a call" in report.table(80)


def _with_constants(model):
    kernel, bias = (weight.numpy() for weight in model.layers[1].weights)
    kernel[..., :8] = bias[:8] = 0
    model.layers[1].set_weights([kernel, bias])
    return kopt.prune.constant_channels(model, np.random.default_rng(0).normal(size=(8, *model.input_shape[1:])))


@pytest.mark.slow
@pytest.mark.parametrize(
    "transform",
    [
        _with_constants,
        lambda model: kopt.prune.iterative(model, target_params=0.5, rounds=1, fine_tune=lambda smaller: None),
        lambda model: kopt.restructure.low_rank(model, rank=2),
    ],
    ids=["constant_channels", "iterative", "low_rank"],
)
def test_other_reports_take_what_was_saved_too(transform):
    model = network()
    smaller, report = transform(model)
    assert "are not measured" in report.table(80)
    report = kopt.prune.measured(report, model, smaller, seconds=0.1)
    assert report.measured.after.parameters == smaller.count_params() < report.measured.before.parameters
    assert report.measured.after.size_bytes < report.measured.before.size_bytes
    assert type(report).from_json(report.to_json()) == report
    assert "Milliseconds a call" in report.table(80)
    assert max(map(len, report.table(80).splitlines())) <= 80


@pytest.mark.slow
def test_zeros_are_measured_without_their_masks():
    model = network()
    pruned, report = kopt.prune.magnitude(model, 0.75)
    report = kopt.prune.measured(report, model, pruned, seconds=0.2)
    before, after = report.measured.before, report.measured.after
    assert after.parameters == before.parameters == 448 + 2320 + 51
    # Kernels of 27 * 16, 144 * 16 and 16 * 3.
    assert after.nonzero_parameters == after.parameters - 0.75 * (432 + 2304 + 48)
    assert after.size_bytes == before.size_bytes
    assert after.gzip_bytes < before.gzip_bytes - 3000
    plain, finished = kopt.prune.finalize(pruned)
    finished = kopt.prune.measured(finished, model, plain, seconds=0.2)
    assert finished.measured.after.gzip_bytes == after.gzip_bytes
    assert max(map(len, finished.table(80).splitlines())) <= 80


def test_what_cannot_be_measured():
    model = network()
    smaller, report = kopt.prune.channels(model, keep=0.5)
    with pytest.raises(ConfigError, match="Unknown `runtime` 'tflit'"):
        kopt.prune.measured(report, model, smaller, runtime="tflit")
    with pytest.raises(ConfigError, match="seconds"):
        kopt.prune.measured(report, model, smaller, seconds=0)
    with pytest.raises(InputError, match=r"Received: keras\..*Functional"):
        kopt.prune.measured(smaller, model, report)
    with pytest.raises(InputError, match=r"came down to 835\. Received: `before` of 835 and `after` of 2,819"):
        kopt.prune.measured(report, smaller, model)
    with pytest.raises(InputError, match="not built"):
        kopt.prune.measured(kopt.prune.magnitude(model, 0.5)[1], model, keras.Sequential([L.Dense(3)]))
