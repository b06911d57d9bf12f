"""What `kopt.tune` refuses before it reads or writes anything, and who a process is by its environment."""

import pytest
import tuning_architectures

from kopt.core.errors import ConfigError
from kopt.search.proposing.facts import Facts, Share
from kopt.search.training import Training
from kopt.search.tuning.environment import Role, role_of
from kopt.search.tuning.request import reaching, request

VARIABLES = {"KERASTUNER_TUNER_ID": "chief", "KERASTUNER_ORACLE_IP": "10.0.0.1", "KERASTUNER_ORACLE_PORT": "8000"}


def asked(techniques=None, ways=None, **settings):
    defaults = {"tuner": "random", "max_trials": 3, "training": None, "builder": None}
    return request(techniques, ways, **{**defaults, **settings})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tuner": "hyperbnd"}, "Unknown tuner 'hyperbnd'. Did you mean 'hyperband'"),
        ({"max_trials": 0}, "`max_trials` must be a whole number of at least 1"),
        ({"techniques": ["chanels"]}, "Did you mean 'channels'"),
        ({"techniques": []}, "`techniques` is empty"),
        ({"ways": ["tflite-int-8"]}, "Unknown way to ship 'tflite-int-8'. Did you mean 'tflite-int8'"),
        ({"ways": []}, "`ways` is a sequence of names"),
        ({"ways": "onnx"}, "`ways` is a sequence of names"),
        ({"ways": ["channels"]}, "Unknown way to ship 'channels'"),
        (
            {"techniques": ["post_training"], "ways": ["onnx"]},
            "no legal recipe with 'post_training': it pays on tflite-int8, tflite-int16x8, and the ways to ship are on",
        ),
        ({"techniques": ["channels"]}, "'channels' needs training: pass `training=kopt.Training"),
        ({"techniques": ["recover"]}, "'recover' needs training"),
        ({"builder": tuning_architectures.build}, "Architectures of `builder` are trained"),
        ({"builder": 3}, "`builder` is a function `build\\(hp\\)`"),
        ({"training": 4}, "`training` must be a kopt.Training"),
        ({"tuner": "hyperband"}, "nothing that may take part is trained"),
        (
            {"tuner": "hyperband", "techniques": ["constant_channels"], "training": Training()},
            "nothing that may take part is trained",
        ),
    ],
)
def test_what_cannot_be_carried_out_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        asked(**settings)


def test_ways_are_those_named_or_those_among_the_techniques_or_litert():
    assert asked().ways == ("tflite-float32", "tflite-int8")
    assert asked(["post_training", "tflite-int8"]).ways == ("tflite-int8",)
    assert asked(["constant_channels"], ["onnx", "onnx"]).ways == ("onnx",)
    assert asked(["constant_channels", "tflite-int8"]).techniques == ("constant_channels",)


def test_a_request_comes_back_from_disk():
    one = asked(training=Training(epochs=2), builder=tuning_architectures.build, tuner="hyperband")
    assert type(one).from_json(one.to_json()) == one
    assert one.builder == "tuning_architectures:build"


def test_what_finds_nothing_in_a_model_does_not_take_part():
    facts = Facts(removable=Share(0.5, 0.5), dense=Share(0.1, 0.1))
    kept, notes = reaching(facts, ("channels", "heads", "low_rank", "fold_batch_norm", "depthwise_separable"))
    assert kept == ("channels", "low_rank")
    assert notes[0] == "heads does not take part: the model has no attention layer."
    assert len(notes) == 3


def test_a_process_is_what_the_environment_says():
    assert role_of({}) is None
    chief = role_of(VARIABLES)
    assert chief == Role("chief", "10.0.0.1", 8000)
    assert chief.is_chief
    worker = role_of({**VARIABLES, "KERASTUNER_TUNER_ID": "second"})
    assert not worker.is_chief
    assert role_of(worker.variables) == worker


@pytest.mark.parametrize("missing", VARIABLES)
def test_variables_that_are_half_set_are_refused(missing):
    half = {name: value for name, value in VARIABLES.items() if name != missing}
    with pytest.raises(ConfigError, match=f"are set, and {missing} is not. Set all three"):
        role_of(half)


def test_a_name_that_is_no_name_of_a_file_is_refused():
    with pytest.raises(ConfigError, match=r"part of the names of files.*'a/b'"):
        role_of({**VARIABLES, "KERASTUNER_TUNER_ID": "a/b"})


@pytest.mark.parametrize("port", ["eight", "0", "65536", "-1"])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ConfigError, match="must be a port, from 1 to 65535"):
        role_of({**VARIABLES, "KERASTUNER_ORACLE_PORT": port})
