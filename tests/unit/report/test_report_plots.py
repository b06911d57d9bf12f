import dataclasses
import math
import re
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import pytest
from report_records import make_candidate, make_profile

from kopt.core.errors import ConfigError, InputError
from kopt.core.records.measurements import Evaluation
from kopt.core.records.profiles.cost import LayerCost
from kopt.core.records.search.budget import Budget
from kopt.report import COSTS, bars, pareto_plot
from kopt.report.parts.labels import Box, place_labels
from kopt.report.run.rows import baseline_row, candidate_rows
from kopt.report.run.scatter import metric_range


def texts(svg):
    root = ElementTree.fromstring(svg)
    return ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("}text")]


def test_equal_records_give_equal_bytes(result):
    assert pareto_plot(result) == pareto_plot(result)
    assert "Matplotlib" not in pareto_plot(result)


def test_drawing_leaves_matplotlib_settings_alone(result):
    before = dict(mpl.rcParams)
    pareto_plot(result)
    assert dict(mpl.rcParams) == before


def test_pareto_names_all_but_the_failed_and_draws_the_budget(result):
    shown = texts(pareto_plot(result))
    assert {"int8", "float32", "float16", "onnx-float32", "keras (as given)", "budget: 97.00%"} <= set(shown)
    assert not any("int16x8" in text for text in shown)
    assert "int4: 93.00%" in shown  # five points down, below the range, so its value is written out


def test_metric_axis_shows_the_budget_and_not_the_abyss(result):
    # Baseline 0.98, budget 0.01, margins of 12 %. What lies more than three budgets down does not stretch the axis.
    rows = (baseline_row(result), *candidate_rows(result)[:5])
    assert [row.metric for row in rows if row.metric < 0.95] == [0.93]
    low, high = metric_range(result, rows)
    assert low == pytest.approx(0.97 - 0.12 * 0.01)
    assert high == pytest.approx(0.98 + 0.12 * 0.01)
    shallow = dataclasses.replace(rows[-1], metric=0.955)
    assert metric_range(result, (*rows[:-1], shallow))[0] == pytest.approx(0.955 - 0.12 * 0.025)


def test_latency_axis_is_logarithmic_beyond_a_factor_of_ten(result):
    def decades(slow):
        candidate = make_candidate("slow", slow, 1024, 0.98, 0.0)
        plot = pareto_plot(dataclasses.replace(result, candidates=(result.candidates[2], candidate)))
        return {"0.1", "100"} & set(texts(plot)), {"0", "6"} & set(texts(plot))

    assert decades(200.0)[0] == {"100"}
    assert decades(8.0)[1] == {"0", "6"}


def test_one_candidate_is_enough_and_none_is_an_error(result):
    only = dataclasses.replace(result, candidates=(), best_name=None)
    assert "keras (as given)" in texts(pareto_plot(only))
    bare = dataclasses.replace(only, baseline=dataclasses.replace(result.baseline, measurement=None))
    with pytest.raises(InputError, match="nothing to plot"):
        pareto_plot(bare)


def test_the_axis_is_the_cost_that_is_to_improve(result):
    sized = pareto_plot(dataclasses.replace(result, budget=Budget(objective="size")))
    assert "KiB on disk  (left is smaller)" in texts(sized)
    assert "int8: 97.90% at 100.0 KiB" in sized
    both = pareto_plot(dataclasses.replace(result, budget=Budget(objective=("size", "latency"))))
    assert "Median ms a call at batch 1  (left is faster)" in texts(both)
    # All but the failed have 12 MiB of memory, of energy int8 alone is known.
    assert pareto_plot(dataclasses.replace(result, budget=Budget(objective="memory"))).count("at 12.0 MiB") == 6
    energy = pareto_plot(dataclasses.replace(result, budget=Budget(objective="energy")))
    assert "Accuracy against energy. int8: 97.90% at 0.500 mJ, 100 KiB." in energy


def test_nan_metric_is_left_out(result):
    broken = dataclasses.replace(result.candidates[0], evaluation=Evaluation("x", "LiteRT", 10, {"accuracy": math.nan}))
    plot = pareto_plot(dataclasses.replace(result, candidates=(broken, result.candidates[2])))
    assert "float32" not in texts(plot)
    assert "int8" in texts(plot)


def test_nan_in_the_baseline_leaves_only_the_budget_out(result):
    broken = dataclasses.replace(result.baseline, evaluation=Evaluation("x", "Keras", 10, {"accuracy": math.nan}))
    shown = texts(pareto_plot(dataclasses.replace(result, baseline=broken)))
    assert "int8" in shown
    assert not any(text.startswith("budget") for text in shown)


def test_bars_are_sorted_and_carry_their_values(result):
    shown = texts(bars(result, "size"))
    assert [text for text in shown if re.fullmatch(r"[\d.]+", text)] == ["60.0", "100", "200", "392", "396", "400"]
    names = [text for text in shown if text in {"int4", "int8", "float16", "float32", "onnx-float32", "keras"}]
    assert names == ["int4", "int8", "float16", "float32", "onnx-float32", "keras"]
    assert "Latency, ms a call at batch 1" in texts(bars(result, "latency"))


def test_bars_refuse_an_unknown_quantity(result):
    with pytest.raises(ConfigError, match="'energy'"):
        bars(result, "energy")
    bare = dataclasses.replace(result.baseline, artifact=None)
    bare = dataclasses.replace(result, baseline=bare, candidates=(), profile=None)
    with pytest.raises(InputError, match="nothing to plot"):
        bars(bare, "size")


def test_layers_beyond_twenty_are_the_largest_in_model_order():
    shown = texts(COSTS.svg(make_profile(30)))  # conv_1 to conv_29, mystery and dense
    assert [text for text in shown if text.startswith("conv_")] == [f"conv_{i}" for i in range(10, 30)]
    assert "29.0 K" in shown
    assert "5.80 M" in shown


def test_a_layer_without_a_formula_has_a_question_mark():
    assert "?" in texts(COSTS.svg(make_profile()))


def test_a_model_without_costs_cannot_be_plotted():
    free = dataclasses.replace(make_profile(), layers=(LayerCost("relu", "ReLU", (None,), 0, None),))
    with pytest.raises(InputError, match="nothing to plot"):
        COSTS.svg(free)


def test_dollars_and_foreign_letters_are_drawn_as_they_are(result):
    odd = make_candidate("a $x^2$ 模型 <b>", 1.0, 1024, 0.98, 0.0)
    assert "a $x^2$ 模型 <b>" in texts(pareto_plot(dataclasses.replace(result, candidates=(odd,))))


def test_ids_of_two_plots_do_not_meet(result):
    first, second = (set(re.findall(r'\bid="([^"]+)"', bars(result, what))) for what in ("size", "latency"))
    assert first
    assert not first & second


def test_labels_of_crowded_points_do_not_overlap():
    points = [(100.0 + 6 * i, 100.0 + (i % 2)) for i in range(5)]
    boxes = place_labels(points, [5.0] * 5, [(40.0, 10.0)] * 5, Box(0, 0, 300, 200))
    for i, box in enumerate(boxes):
        assert 0 <= box.left <= box.right <= 300
        assert all(box.overlap(other) == 0 for other in boxes[:i])


def test_a_label_at_the_border_turns_inward():
    (box,) = place_labels([(195.0, 50.0)], [5.0], [(40.0, 10.0)], Box(0, 0, 200, 100))
    assert box.right <= 190  # left of the point
    assert (box.top - box.bottom, box.right - box.left) == (10.0, 40.0)
