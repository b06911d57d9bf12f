import dataclasses
import io
import json

import pytest
from report_records import (
    MACHINE,
    make_artifact,
    make_candidate,
    make_latency,
    make_measurement,
    make_profile,
    make_result,
)
from rich.console import Console

from kopt import report
from kopt.core.records.checks import Check
from kopt.core.records.measurements import Energy, Measurement
from kopt.core.records.profiles.cost import LayerCost
from kopt.core.records.search.budget import Budget
from kopt.report import COSTS
from kopt.report.run.rows import baseline_row, candidate_rows


def render(renderable, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()


def cells(text, name):
    return next(line for line in text.splitlines() if line.lstrip("> ").startswith(f"{name} ")).split()


def test_candidates_at_160_columns_have_every_number_on_their_line(result):
    text = render(report.candidates_table(result), 160)
    assert cells(text, "int8")[:12] == [
        ">", "int8", "LiteRT", "tflite", "97.90%", "0.10~", "1.00", "4.0x", "100", "25%", "≈0.500", "99.00%",
    ]  # fmt: skip
    assert "fastest inside the budget" in next(line for line in text.splitlines() if "> int8" in line)
    assert cells(text, "int4")[3:9] == ["93.00%", "5.00", "1.60", "2.5x", "60.0", "15%"]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_candidates_never_wrap_or_cut_a_number(result, width):
    text = render(report.candidates_table(result), width)
    assert max(map(len, text.splitlines())) <= width
    row = cells(text, "int8")
    assert {"97.90%", "0.10~", "1.00", "100"} <= set(row)
    assert "…" not in text


def test_failed_candidate_shows_its_reason_at_any_width(result):
    for width in (80, 160):
        words = " ".join(render(report.candidates_table(result), width).split())
        assert "failed: The converter stopped: Empty min/max" in words


def test_a_long_name_is_shortened_not_its_numbers():
    candidate = make_candidate("int8-with-a-very-long-name-" + "x" * 60, 1.0, 102400, 0.979, 0.001)
    text = render(report.candidates_table(make_result(candidates=(candidate,), best_name=None)), 80)
    line = next(line for line in text.splitlines() if "int8-with" in line and "97.90%" in line)
    assert "…" in line
    assert line.split()[-3:] == ["100", "25%", "99.00%"]


def test_markup_in_names_is_text():
    candidate = make_candidate("[red]int8[/]", 1.0, 102400, 0.979, 0.001)
    assert "[red]int8[/]" in render(report.candidates_table(make_result(candidates=(candidate,))), 120)


def test_candidates_are_ordered_by_objective_then_outside_then_failed(result):
    assert [row.name for row in candidate_rows(result)] == [
        "int8", "float32", "float16", "onnx-float32", "int4", "int16x8",
    ]  # fmt: skip
    by_size = dataclasses.replace(result, budget=Budget(objective="size"))
    assert [row.name for row in candidate_rows(by_size)][:3] == ["int8", "float16", "float32"]


def test_speedup_is_not_claimed_across_batch_sizes(result):
    fixed = dataclasses.replace(result.candidates[2], measurement=make_measurement("int8", 1.0, batch_sizes=(8,)))
    row = candidate_rows(dataclasses.replace(result, candidates=(fixed,)))[0]
    assert row.speedup is None
    assert "batch size 1, 8" in render(report.candidates_table(dataclasses.replace(result, candidates=(fixed,))), 80)


def test_headline_numbers(result):
    assert report.headline(result) == (
        "int8 is 4.0x as fast as the model as given (1.00 ms against 4.00 ms), 25% of the size of its file "
        "(100 KiB of 400 KiB); it loses 0.10 points of accuracy (97.90% on 2,000 examples, within noise)."
    )


def test_headline_without_a_winner_names_the_closest(result):
    lost = (result.candidates[4], dataclasses.replace(result.candidates[4], name="int2", drop=0.4))
    text = report.headline(dataclasses.replace(result, candidates=lost, best_name=None))
    assert text.startswith("No candidate stays inside the budget of 1.00 points of accuracy. The closest is int4")
    assert "loses 5.00 points" in text


def test_headline_when_all_failed_or_nothing_was_tried(result):
    failed = dataclasses.replace(result, candidates=result.candidates[5:], best_name=None)
    assert report.headline(failed) == "None of the 1 candidates could be made and measured."
    assert report.headline(dataclasses.replace(failed, candidates=())) == "No candidate was tried."


def test_headline_calls_slower_slower_and_an_estimate_an_estimate(result):
    baseline = dataclasses.replace(
        result.baseline, measurement=make_measurement("k", 1.0, energy=Energy(1.0, "m", True))
    )
    slow = make_candidate("int8", 2.0, 100 * 1024, 0.98, 0.0, energy=Energy(0.25, "assumed", False))
    text = report.headline(dataclasses.replace(result, baseline=baseline, candidates=(slow,)))
    assert "2.0x slower than the model as given (2.00 ms against 1.00 ms)" in text
    assert "25% of its energy (0.250 mJ an example, an estimate)" in text
    assert "keeps the accuracy" in text


def test_drop_interval_uses_the_lowest_plausible_agreement(result):
    # 2,000 examples, drop 0.1 points, agreement 99 % of 2,000, whose Wilson interval begins at `agreement`.
    paired = candidate_rows(result)[0].drop_interval
    agreement, _ = report.wilson_interval(0.99, 2000)
    center, discordant = 2 / 2002, ((1 - agreement) * 2000 + 2) / 2002
    assert paired[0] == pytest.approx(center - 1.959964 * ((discordant - center**2) / 2002) ** 0.5, abs=1e-8)
    other = dataclasses.replace(result.candidates[2], artifact=make_artifact("int8", 102400, agreement=None))
    unpaired = candidate_rows(dataclasses.replace(result, candidates=(other,)))[0].drop_interval
    assert unpaired[1] - unpaired[0] > paired[1] - paired[0]


def test_measurements_side_by_side():
    first, second = make_measurement("a.tflite", 4.0), make_measurement("b.tflite", 1.0)
    text = render(report.measurements_table([first, second], {"b.tflite": 2048}), 120)
    assert cells(text, "b.tflite") == [
        "b.tflite", "LiteRT", "1", "1.00", "1.20", "1.50", "1,000", "4.0x", "2.0", "12.0",
    ]  # fmt: skip
    assert cells(text, "a.tflite")[-3:] == ["1.0x", "-", "12.0"]


def test_a_batch_the_first_file_lacks_has_no_speed():
    first = Measurement("a", "LiteRT", 1, (make_latency(4.0, 1),), MACHINE)
    second = Measurement("b", "LiteRT", 1, (make_latency(4.0, 8),), MACHINE)
    assert cells(render(report.measurements_table([first, second], {}), 100), "b")[-3:] == ["2,000", "-", "-"]


def test_artifact_shows_sizes_signature_operators_and_parity():
    text = render(report.artifact_table(make_artifact("int8", 102400, notes=("mind the step",))), 120)
    assert "100 KiB (75.0 KiB after gzip)" in text
    assert "image (?, 28, 28, 1) float32" in text
    assert "int8, scale 0.00391, zero point -128" in text
    assert cells(text, "CONV_2D") == ["CONV_2D", "int8", "4"]
    assert "largest difference 0.0310, rmse 0.00420, argmax agreement 99.00% (2,000 examples)" in text
    assert "Note: mind the step" in text


def test_profile_shares_add_up_and_unknown_macs_are_said():
    profile = make_profile(4)  # 1,000 + 2,000 + 3,000 + 640 + 650 parameters
    text = COSTS.text(profile, 100)
    assert cells(text, "conv_3")[-4:] == ["3,000", "41%", "600,000", "50%"]
    assert cells(text, "mystery")[-1] == "?"
    assert "7,290 parameters (7,250 trainable" in text
    assert "no formula for 1 layer(s)" in text


def test_profile_without_parameters():
    profile = dataclasses.replace(
        make_profile(), layers=(LayerCost("relu", "ReLU", (None, 3), 0, 0),), parameters=0, trainable_parameters=0
    )
    assert cells(COSTS.text(profile, 80), "relu")[-2:] == ["0", "0"]


def test_checks_show_the_remedy():
    checks = [Check("tensorflow", "ok", "2.21.0"), Check("GPU", "missing", "no device", "Install the driver")]
    text = render(report.checks_table(checks), 80)
    assert cells(text, "tensorflow") == ["tensorflow", "ok", "2.21.0"]
    assert "no device. Install the driver" in text


def test_json_is_the_record(result):
    values = json.loads(report.json_text(result))
    assert values["schema"] == "OptimizationResult/1"
    assert values["best_name"] == "int8"


def test_missing_numbers_show_as_missing(result):
    bare = dataclasses.replace(result.baseline, artifact=None, evaluation=None, measurement=None)
    row = baseline_row(dataclasses.replace(result, baseline=bare, profile=None))
    assert (row.metric, row.latency_ms, row.size_bytes, row.runtime) == (None, None, None, "")
    text = render(report.candidates_table(dataclasses.replace(result, baseline=bare, profile=None)), 120)
    assert cells(text, "int8")[4:8] == ["97.90%", "0.10", "1.00", "-"]


def test_energy_is_said_to_be_measured_or_an_estimate():
    estimate = make_measurement("a", 2.0, energy=Energy(0.5, "1 W assumed", False))
    meter = make_measurement("b", 2.0, energy=Energy(0.25, "RAPL", True))
    text = render(report.measurements_table([estimate, meter], {}), 120)
    assert "a: 0.500 mJ an example (estimate: 1 W assumed)." in text
    assert "b: 0.250 mJ an example (measured: RAPL)." in text


def test_files_in_one_long_folder_keep_their_distinct_ends():
    folder = "/a/very/long/path/that/goes/on/and/on/until/it/no/longer/fits/the/console"
    measured = [make_measurement(f"{folder}/{name}.tflite", 2.0) for name in ("one", "two")]
    text = render(report.measurements_table(measured, {f"{folder}/two.tflite": 1024}), 80)
    assert cells(text, "two.tflite")[1:4] == ["LiteRT", "1", "2.00"]
    assert " 1.0 " in next(line for line in text.splitlines() if line.startswith("two.tflite"))


def test_a_baseline_without_a_file_is_weighed_by_its_float32_weights(result):
    # 16,290 parameters of 4 bytes are 65,160 bytes, 63.6 KiB; int8 has 102,400 bytes, 157 % of that.
    bare = dataclasses.replace(result, baseline=dataclasses.replace(result.baseline, artifact=None))
    text = render(report.candidates_table(bare), 120)
    assert "63.6" in cells(text, "keras")
    assert "157%" in cells(text, "int8")
    assert "Size: against its float32 weights." in text
    assert "157% of the size of its float32 weights (100 KiB of 63.6 KiB)" in report.headline(bare)


def test_without_a_profile_either_there_is_no_ratio(result):
    bare = dataclasses.replace(result, baseline=dataclasses.replace(result.baseline, artifact=None), profile=None)
    assert "(1.00 ms against 4.00 ms), 100 KiB in size; it loses" in report.headline(bare)
    assert "Size: against" not in render(report.candidates_table(bare), 120)


def test_rounding_of_a_subtraction_is_no_drop(result):
    same = dataclasses.replace(result.candidates[2], drop=1e-17)
    row = candidate_rows(dataclasses.replace(result, candidates=(same,)))[0]
    assert not row.within_noise
    assert "keeps the accuracy" in report.headline(dataclasses.replace(result, candidates=(same,)))


def test_only_the_first_line_of_a_long_reason_is_in_the_table(result):
    failed = dataclasses.replace(result.candidates[5], reason="ExportError: it died\nline of a log\nanother")
    text = render(report.candidates_table(dataclasses.replace(result, candidates=(failed,))), 80)
    assert "failed: ExportError: it died" in text
    assert "line of a log" not in text
