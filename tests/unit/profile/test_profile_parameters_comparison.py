"""What changed between models, checkpoints and baselines, against arithmetic on the arrays."""

import math

import keras
import numpy as np
import pytest

from kopt.core.errors import InputError, LoadError
from kopt.core.records.profiles.parameter_changes import ParameterComparison, StatisticsComparison
from kopt.profile.weights.comparison import compare
from kopt.profile.weights.differences import difference
from kopt.profile.weights.profile import parameters

L = keras.layers


def network(width=3, name="network"):
    layers = [keras.Input((2,), name="x"), L.Dense(width, name="a"), L.Dense(2, name="b")]
    return keras.Sequential(layers, name=name)


def test_differences_by_hand():
    a, b = np.array([3.0, 0.0, 4.0, 0.0], "float32"), np.array([3.0, 0.0, 0.0, 5.0], "float32")
    found = difference(a, b)
    assert (found.norm_a, found.max_abs, found.changed) == (5, 5, 2)
    assert found.norm_b == pytest.approx(math.sqrt(34))
    assert found.change_norm == pytest.approx(math.sqrt(16 + 25))
    assert found.cosine == pytest.approx(9 / (5 * math.sqrt(34)))
    assert difference(a, np.zeros(4, "float32")).cosine is None
    assert difference(a, -a).cosine == -1


def test_nan_equals_nan_and_is_left_out_of_the_norms():
    a = np.array([1.0, np.nan, np.nan, np.inf, np.inf, 2.0])
    b = np.array([1.0, np.nan, 7.0, np.inf, 8.0, 5.0])
    found = difference(a, b)
    assert (found.changed, found.nonfinite_a, found.nonfinite_b) == (3, 4, 2)
    assert found.norm_a == pytest.approx(math.sqrt(5))
    assert (found.change_norm, found.max_abs) == (3, 3)


def test_blocks_add_up():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 200_000))
    found = difference(a.astype("float32"), b.astype("float16"))
    a, b = a.astype("float32").astype("float64"), b.astype("float16").astype("float64")
    assert found.change_norm == pytest.approx(np.linalg.norm(b - a))
    assert found.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert found.max_abs == np.abs(b - a).max()


def test_one_changed_variable_is_found_and_measured():
    before, after = network(), network()
    after.set_weights(before.get_weights())
    assert compare(before, after).identical
    kernel = before.get_layer("b").kernel.numpy()
    after.get_layer("b").kernel.assign(kernel + np.array([[1, 0], [0, 0], [0, 0]]))
    result = compare(before, after)
    assert not result.identical
    [change] = result.changed
    assert (change.path, change.changed, change.fraction_changed) == ("b/kernel", 1, 1 / 6)
    assert change.max_abs == pytest.approx(1, rel=1e-6)
    assert change.relative_change == pytest.approx(1 / np.linalg.norm(kernel), rel=1e-6)
    assert result.fraction_changed == 1 / 17
    everything = np.concatenate([value.ravel() for value in before.get_weights()])
    assert result.relative_change == pytest.approx(1 / np.linalg.norm(everything), rel=1e-6)
    assert "b/kernel changed most" in result.figure().axes[0].get_title(loc="left")


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5", "m.h5"])
def test_models_and_files_compare_in_every_combination(name, tmp_path):
    model = network()
    first, second = tmp_path / f"first-{name}", tmp_path / f"second-{name}"
    save = model.save_weights if name == "m.weights.h5" else model.save
    save(first)
    assert compare(first, model).identical
    model.get_layer("a").bias.assign([1, 0, 2])
    save(second)
    results = [compare(first, model), compare(model, first), compare(first, second), compare(str(second), model)]
    assert [len(result.changed) for result in results] == [1, 1, 1, 0]
    assert [result.changed[0].path for result in results[:2]] == ["a/bias", "a/bias"]
    assert results[0].changed[0].change_norm == results[1].changed[0].change_norm == pytest.approx(math.sqrt(5))
    assert results[0].changed[0].relative_change == math.inf
    assert results[1].changed[0].relative_change == 1
    assert results[2].changed[0].path.startswith("a/")


def test_a_dtype_that_differs_is_no_change_of_values():
    single, double = network(), keras.Sequential([keras.Input((2,)), L.Dense(3, name="a"), L.Dense(2, name="b")])
    half = keras.Sequential(
        [keras.Input((2,)), L.Dense(3, name="a", dtype="float64"), L.Dense(2, name="b", dtype="float64")]
    )
    for model in (double, half):
        model.set_weights(single.get_weights())
    result = compare(single, half)
    assert result.fraction_changed == 0
    assert not result.identical
    assert {change.dtype_b for change in result.changes} == {"float64"}
    assert compare(single, double).identical


def test_structures_that_differ_in_part_are_listed():
    other = keras.Sequential(
        [keras.Input((2,)), L.Dense(3, name="a"), L.Dense(4, name="b"), L.Dense(1, use_bias=False, name="c")]
    )
    result = compare(network(), other)
    assert {change.path for change in result.changes} == {"a/kernel", "a/bias"}
    assert [(one.path, one.shape_a, one.shape_b) for one in result.reshaped] == [
        ("b/kernel", (3, 2), (3, 4)),
        ("b/bias", (2,), (4,)),
    ]
    assert (result.only_in_a, result.only_in_b) == ((), ("c/kernel",))
    table = result.table()
    assert "b/kernel (3, 2) > (3, 4)" in table
    assert "c/kernel" in table


def test_the_same_code_run_twice_is_matched_by_order():
    first, second = (keras.Sequential([keras.Input((2,)), L.Dense(3), L.Dense(2)]) for _ in range(2))
    second.set_weights(first.get_weights())
    result = compare(first, second)
    assert result.matched_by == "order"
    assert result.identical
    assert result.changes[0].path != result.changes[0].path_b
    assert "matched by their order" in compare(first, second).table()


def test_what_cannot_be_compared_is_refused_with_what_differs(tmp_path):
    other = keras.Sequential([keras.Input((9,)), L.Dense(7, name="a"), L.Dense(1, name="z")], name="other")
    with pytest.raises(InputError) as caught:
        compare(network(), other)
    message = str(caught.value)
    assert "network and other cannot be compared" in message
    assert "a/kernel has the shape (2, 3) in network and (9, 7) in other" in message
    assert "Only in network: b/kernel, b/bias." in message
    assert "Only in other: z/kernel, z/bias." in message
    with pytest.raises(InputError, match=r"Received: builtins\.int"):
        compare(3, other)
    with pytest.raises(InputError, match="not built"):
        compare(network(), keras.Sequential([L.Dense(2)]))
    with pytest.raises(LoadError, match="There is no file"):
        compare(network(), tmp_path / "none.keras")


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_two_layouts_of_files_do_not_meet(tmp_path):
    network().save(tmp_path / "m.h5")
    network().save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=r"legacy HDF5, .*m\.keras in that of Keras 3.*`kopt\.load_model`"):
        compare(tmp_path / "m.h5", tmp_path / "m.keras")


def test_a_baseline_sees_what_changed_in_a_distribution(tmp_path):
    model = network(width=200)
    baseline = parameters(model)
    path = tmp_path / "baseline.json"
    path.write_text(baseline.to_json())
    same = compare(path, model)
    assert all(change.percentile_shift == change.mean_shift == 0 for change in same.changes)
    assert all(change.std_ratio == change.l2_ratio == 1 for change in same.changes)
    kernel = model.get_layer("a").kernel.numpy()
    model.get_layer("a").kernel.assign(2 * kernel + 1)
    model.save(tmp_path / "m.keras")
    for later in (model, parameters(model), tmp_path / "m.keras"):
        result = compare(baseline, later)
        change = next(one for one in result.changes if one.path == "a/kernel")
        assert change.std_ratio == pytest.approx(2, rel=1e-5)
        assert change.mean_shift == pytest.approx((kernel.mean() + 1) / kernel.std(), rel=1e-4)
        moved = np.abs(np.percentile(kernel, (0.1, 99.9)) + 1) / kernel.std()
        assert change.percentile_shift == pytest.approx(moved.max(), rel=1e-4)
        assert "a/kernel moved most" in str(result)
    assert compare(model, baseline).changes[0].std_ratio == pytest.approx(0.5, rel=1e-5)


def test_a_baseline_is_held_against_a_model_read_in_the_same_way():
    model = network(width=500)
    baseline = parameters(model, select="a/kernel", sample=200)
    change = {one.path: one for one in compare(baseline, model).changes}["b/kernel"]
    assert change.mean_shift == 0  # The same entries were drawn.
    assert change.mean_error > 0
    counted = compare(parameters(model, select="a"), model)
    assert counted.without_statistics == ("b/kernel", "b/bias")


def test_constants_shift_by_their_magnitude_and_zeros_by_infinity():
    model = network()
    baseline = parameters(model)
    ones = keras.models.clone_model(model)
    ones.set_weights(model.get_weights())
    ones.get_layer("a").bias.assign([3, 3, 3])
    assert {c.path: c for c in compare(baseline, ones).changes}["a/bias"].mean_shift == math.inf
    back = {c.path: c for c in compare(parameters(ones), model).changes}["a/bias"]
    assert (back.mean_shift, back.l2_ratio) == (-1, 0)
    assert compare(baseline, ones).table().rstrip().count("inf") >= 1
    assert compare(baseline, ones).figure()


def test_profiles_of_other_percentiles_are_refused():
    model = network()
    with pytest.raises(InputError, match="other percentiles"):
        compare(parameters(model), parameters(model, percentiles=[50]))


def test_comparisons_come_back_from_json_and_fit_the_terminal():
    model, other = network(), network()
    values, statistics = compare(model, other), compare(parameters(model), other)
    assert ParameterComparison.from_json(values.to_json()).to_json() == values.to_json()
    assert StatisticsComparison.from_json(statistics.to_json()).to_json() == statistics.to_json()
    for result in (values, statistics):
        assert all(len(line) <= 80 for line in result.table(rows=1).splitlines())
        assert "3 more variables" in result.table(rows=1)
        assert result.table(sort="parameters", rows=None)
