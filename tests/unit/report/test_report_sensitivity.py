import math

import pytest
from sensitivity_cases import profile_of

from kopt.core.errors import ConfigError

NAMES = ("noise_10", "int8", "int4", "pruned_30", "pruned_50", "pruned_70", "removed")


def deep(count=60, metric="accuracy"):
    drops = {
        f"backbone/stage{i // 10}/block{i % 10}/convolution": {
            name: 0.001 * i * (place + 1) for place, name in enumerate(NAMES)
        }
        for i in range(count)
    }
    return profile_of(drops, metric=metric)


def test_the_table_fits_80_columns_and_says_what_was_left_out():
    text = deep().table(80, rows=10)
    assert max(map(len, text.splitlines())) <= 80
    assert "Left out: the 50 least sensitive of 60 layers." in text
    # Layer 59 of 60 with the seventh perturbation: 0.001 * 59 * 7 = 41.3 points.
    assert "41.30" in text


def test_all_perturbations_have_a_column_at_80_columns():
    header = deep().table(80).split("──")[0]
    assert all(part in header for part in ("int8", "int4", "removed", "noise", "pruned"))


def test_a_narrow_console_keeps_some_columns():
    text = deep().table(40)
    assert max(map(len, text.splitlines())) <= 40
    assert "int4" in text


def test_rows_are_sorted_by_what_was_asked():
    profile = profile_of(
        {"a": {"int8": 0.1, "int4": 0.3}, "b": {"int8": 0.2, "int4": 0.1}}, parameters={"a": 1, "b": 9}
    )
    order = {
        sort: [line[0] for line in profile.table(sort=sort).splitlines() if line[:2] in ("a ", "b ")]
        for sort in ("order", "int8", "parameters")
    }
    assert order == {"order": ["a", "b"], "int8": ["b", "a"], "parameters": ["b", "a"]}


def test_an_unknown_order_is_refused():
    with pytest.raises(ConfigError, match="Did you mean 'parameters'"):
        deep().table(sort="parameter")


def test_the_words_name_the_layer_that_matters_most_and_how():
    profile = profile_of({"a": {"int8": 0.001, "pruned_50": 0.02}, "b": {"int8": 0.002, "pruned_50": 0.3}})
    assert "`b` matters most: with 50% of its weights pruned, it makes accuracy worse by 30.00 points" in str(profile)
    assert "int8 0.20, pruned_50 30.00" in str(profile)


def test_a_model_that_nothing_hurts_is_said_to_be_one():
    profile = profile_of({"a": {"int8": 0.0}, "b": {"int8": -0.1}})
    assert "No perturbation of a single layer makes accuracy worse than 90.00%" in str(profile)
    assert "No layer matters" in profile.figure().axes[0].get_title(loc="left")


def test_a_loss_is_not_shown_in_points():
    text = deep(3, metric="loss").table()
    assert "points" not in text
    assert "How much worse loss gets" in text


def test_the_heat_map_shows_the_most_sensitive_layers_in_order_and_says_how_many_are_missing():
    axes = deep().figure().axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == 40
    assert labels[0].endswith("stage2/block0/convolution")
    assert labels[-1].endswith("stage5/block9/convolution")
    assert "20 least sensitive of 60 layers are not shown" in axes.get_xlabel()
    assert len(axes.texts) == 40 * len(NAMES)


def test_a_broken_model_has_a_cell_of_its_own():
    profile = profile_of({"a": {"int8": 0.0}, "b": {"int8": math.nan}})
    axes = profile.figure().axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.00", "NaN"]
    assert "`b` matters most" in str(profile)


def test_the_plan_shows_bits_and_sparsity(tmp_path):
    plan = profile_of({"a": {"int8": 0.0, "pruned_50": 0.5}, "b": {"int8": 0.3, "pruned_50": 0.001}}).plan(0.01)
    text = plan.table()
    assert [line.split() for line in text.splitlines() if line[:2] in ("a ", "b ")] == [
        ["a", "Dense", "100", "8", "0.00", "dense", "-"],
        ["b", "Dense", "100", "float", "-", "50%", "0.10"],
    ]
    words = " ".join(text.split())
    assert "20 bits a weight on average" in words
    assert "Not measured with all layers together." in words
    assert plan.plot(tmp_path / "plan.svg").read_text().startswith("<svg")
    assert [text.get_text() for text in plan.figure().axes[1].texts] == ["dense", "50%"]


def test_a_long_plan_says_how_many_layers_are_missing():
    plan = deep().plan(0.01)
    assert "Left out: the 55 smallest of 60 layers." in plan.table(rows=5)
    assert "20 smallest layers not shown" in plan.figure().get_suptitle()


def test_plots_are_written(tmp_path):
    assert deep(5).plot(tmp_path / "heat.png").stat().st_size > 10_000
    assert deep(5).plot(tmp_path / "heat.svg").read_text().startswith("<svg")
