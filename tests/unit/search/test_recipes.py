import re

import pytest

from kopt.core.errors import ConfigError
from kopt.core.records.candidates import ExportConfig
from kopt.core.records.search.recipes import Recipe
from kopt.core.records.search.techniques import ChannelsConfig, MagnitudeConfig, RecoverConfig, Step
from kopt.search.techniques.catalog import CATALOG, select, transforms, ways
from kopt.search.techniques.recipes import needs, why_illegal

INT8, FLOAT = ExportConfig("tflite", "int8"), ExportConfig("tflite", "float32")


def recipe(*names, export=INT8):
    return Recipe(tuple(CATALOG[name].step() for name in names), export)


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("constant_channels", "channels", "recover", "recover", "aware"),
        ("low_rank", "heads", "recover", "cluster", "aware"),
        ("magnitude", "cluster", "post_training"),
        ("channels", "channels"),
    ],
)
def test_what_may_follow_each_other(names):
    assert why_illegal(recipe(*names)) == ""


@pytest.mark.parametrize(
    ("names", "export", "reason"),
    [
        (("recover", "channels"), INT8, r"'channels' \(prune\) may not come after 'recover' \(recover\)"),
        # A training without masks fills the zeros again.
        (("magnitude", "recover"), INT8, "only cluster and quantize and ship may follow"),
        (("fold_batch_norm", "aware"), INT8, "'aware' .* may not come after 'fold_batch_norm'"),
        # Each may follow the one before it, but not all that came before.
        (("fold_batch_norm", "constant_channels", "channels"), INT8, "'channels' .* not come after 'fold_batch_norm'"),
        (("constant_channels", "aware", "recover"), INT8, "may not come after 'aware'"),
        (("aware",), FLOAT, "'aware' does not show in 'tflite-float32'"),
        (("post_training",), ExportConfig("tflite", "int16x8"), "made for int8, and 'tflite-int16x8' is int16x8"),
        (("cluster",), ExportConfig("tflite", "int4"), "'cluster' does not show in 'tflite-int4'"),
        (("fold_batch_norm",), ExportConfig("onnx"), "it pays on saved_model"),
    ],
)
def test_what_may_not_and_why(names, export, reason):
    assert re.search(reason, why_illegal(recipe(*names, export=export)))


def test_a_recipe_is_named_by_what_matters_in_it_and_travels():
    steps = (Step("channels", ChannelsConfig(0.35)), Step("recover", RecoverConfig(4, 0.5)))
    one = Recipe(steps, ExportConfig("tflite", "int8", "uint8", ("head",)))
    assert one.name == "channels-0.35+recover-4-rate=0.5+tflite-int8-io=uint8-fallback=head"
    assert Recipe(export=ExportConfig("onnx", "int8")).name == "onnx-int8"
    assert Recipe(export=ExportConfig("saved_model")).name == "saved_model"
    assert Recipe.from_json(one.to_json()) == one


def test_a_step_refuses_settings_of_another_technique():
    with pytest.raises(ConfigError, match="settings of 'channels' are a ChannelsConfig"):
        Step("channels", MagnitudeConfig())
    with pytest.raises(ConfigError, match="Did you mean 'channels'"):
        Step.from_dict({"technique": "channel", "config": {}})
    with pytest.raises(ConfigError, match=r"Unknown key 'kep' in ChannelsConfig\. Did you mean 'keep'"):
        Step.from_dict({"technique": "channels", "config": {"kep": 0.5}})
    with pytest.raises(ConfigError, match=r"'channels' has no setting 'kept'\. Did you mean 'keep'"):
        CATALOG["channels"].step(kept=0.5)
    with pytest.raises(ConfigError, match="`keep` must be below 1"):
        CATALOG["channels"].step(keep=1.0)


def test_needs_are_those_of_all_steps():
    assert needs(recipe("constant_channels", "channels").steps) == {"calibration"}
    assert needs(recipe("channels", "recover").steps) == {"training data", "labels", "teacher"}


def test_names_of_techniques_alone_leave_all_ways_to_ship():
    rows = select(("channels", "aware"))
    assert set(transforms(rows)) == {"channels", "aware"}
    assert {row.name for row in ways(rows)} >= {"saved_model", "onnx", "tflite-int8"}
    assert [row.name for row in ways(select(("channels", "tflite-int8")))] == ["tflite-int8"]
