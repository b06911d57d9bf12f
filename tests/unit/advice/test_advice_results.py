import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from advice_cases import FAULTS, HEALTHY
from report_records import make_result

import kopt
from kopt.advice.judging import judge
from kopt.advice.result import Advice
from kopt.advice.runs import deployment_of, from_run
from kopt.advice.troubleshooting import troubleshooting
from kopt.cli.main import main
from kopt.core.environment import machine
from kopt.core.errors import ConfigError, InputError
from kopt.core.records.search.advice import LookTaken, ModelAdvice


def advice_on(facts):
    judgement = judge(facts, {})
    looks = (LookTaken("cost", "parameters by layer", 0.1), LookTaken("pipeline", "the input", None, "It needs data."))
    return Advice(
        "net", "quick", judgement.items, looks, judgement.checked, judgement.unchecked, ("A note.",), machine(), 1.5
    )


def test_a_table_has_evidence_remedy_and_what_was_left():
    text = advice_on(FAULTS["hostile-layers"]).table(100)
    for words in (
        "hostile-layers",
        "40%",
        "5.0 dB",
        "kopt.quantize.post_training",
        "basic",
        "It needs data.",
        "A note.",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 100
    assert "Nothing to change" in advice_on(HEALTHY).table()
    assert "1 thing to change, 1 of them basic; begin with hostile-layers." in str(advice_on(FAULTS["hostile-layers"]))


@pytest.mark.parametrize("fault", ["hostile-layers", "plateau", "python-input"])
def test_advice_travels_and_is_drawn(fault, tmp_path):
    advice = advice_on(FAULTS[fault])
    assert ModelAdvice.from_json(advice.to_json()) == ModelAdvice.from_dict(advice.to_dict())
    page = advice.html(tmp_path / "advice.html").read_text()
    assert all(item.rule in page and item.gain.source in page for item in advice.items)
    assert "It needs data." in page
    if any(item.gain.share is not None for item in advice.items):
        assert "<svg" in page
        advice.plot(tmp_path / "gains.svg")
    else:
        with pytest.raises(InputError, match="nothing to draw"):
            advice.plot(tmp_path / "gains.svg")


def test_code_of_a_page_cannot_end_it(tmp_path):
    broken = advice_on(FAULTS["wrong-data"])
    items = tuple(dataclasses.replace(one, evidence="<script>") for one in broken.items)
    page = Advice(**{**vars(broken), "items": items}).html(tmp_path / "advice.html").read_text()
    assert "<script>" not in page.split("<body")[1]


def test_a_run_gives_advice_from_its_records():
    result = make_result()
    advice = from_run(result)
    found = deployment_of(result)
    assert found.files[0].name == "keras"
    assert found.max_drop == result.budget.max_drop
    assert {"slow-integers", "large-embedding"} <= set(advice.checked)
    assert "kopt.advise(model, train, validation)" in advice.unchecked["input-bound"]
    failed = [one.name for one in result.candidates if one.status == "failed"]
    assert [item.where for item in advice.of("failed-export")] == failed
    more = from_run(result, kopt.advice.Facts(parameters=FAULTS["useless-zeros"].parameters))
    assert [item.rule for item in more.items if item.rule != "failed-export"] == ["useless-zeros"]


@pytest.mark.slow
def test_advice_on_records_loads_no_tensorflow():
    code = "import sys, kopt; kopt.advice.from_run; kopt.advice.RULES; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_troubleshooting_page_is_that_of_the_table():
    page = Path(kopt.__file__).parents[1] / "docs/troubleshooting.md"
    assert page.read_text(encoding="utf-8") == troubleshooting(), "python docs/make_troubleshooting.py writes it anew"


def small(tmp_path=None):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax", name="head")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    if tmp_path is not None:
        model.save(tmp_path / "net.keras")
    return model


def test_unknown_words_are_refused_before_any_look():
    with pytest.raises(ConfigError, match="'quick'"):
        kopt.advise(small(), depth="quik")
    with pytest.raises(ConfigError, match="'cost'"):
        kopt.advise(small(), looks=["costs"])
    with pytest.raises(InputError):
        kopt.advise("net.keras")


def test_what_cannot_be_looked_at_has_its_reason_and_takes_nothing_else_away():
    advice = kopt.advise(small(), looks=["cost", "settings", "gradients", "pipeline", "deployment", "trends"])
    reasons = {look.name: look.reason for look in advice.looks}
    assert reasons["cost"] == reasons["settings"] == ""
    assert "pass `train` as (x, y)" in reasons["gradients"]
    assert "tf.data.Dataset" in reasons["pipeline"]
    assert 'depth="full"' in reasons["deployment"]
    assert "history" in reasons["trends"]
    assert reasons["memory"] == "It was not asked for."
    assert set(advice.checked) | set(advice.unchecked) == {rule.id for rule in kopt.advice.RULES}
    assert "run-eagerly" in advice.checked


def test_a_layer_that_fails_takes_one_look_away():
    @keras.saving.register_keras_serializable("kopt_tests")
    class Broken(keras.layers.Layer):
        def call(self, x):
            if not isinstance(x, keras.KerasTensor):
                raise ZeroDivisionError("in the user's layer")
            return x

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(Broken()(inputs)))
    advice = kopt.advise(model, np.zeros((8, 4), "float32"), looks=["inference", "settings"])
    reasons = {look.name: look.reason for look in advice.looks}
    assert "ZeroDivisionError" in reasons["inference"]
    assert reasons["settings"] == ""


@pytest.mark.slow
def test_the_model_comes_out_as_it_went_in():
    model = small()
    x, y = np.random.default_rng(0).normal(size=(96, 4)).astype("float32"), np.arange(96) % 3
    model.fit(x, y, verbose=0)
    state = [value.numpy().copy() for value in (*model.variables, *model.optimizer.variables)]
    kopt.advise(model, (x, y), (x, y), looks=["data", "inference", "fit", "memory", "gradients"])
    after = [value.numpy() for value in (*model.variables, *model.optimizer.variables)]
    assert all((one == other).all() for one, other in zip(state, after, strict=True))


def test_doctor_of_a_model(tmp_path, capsys):
    small(tmp_path)
    history = tmp_path / "history.json"
    history.write_text(json.dumps({"loss": [2.0, 1.0, 0.6, 0.4, 0.3, 0.2], "val_loss": [2.0, 1.2, 1.0, 1.1, 1.2, 1.3]}))
    arguments = ["doctor", str(tmp_path / "net.keras"), "--history", str(history)]
    assert main([*arguments, "--json"]) == 0
    found = ModelAdvice.from_json(capsys.readouterr().out)
    assert found.items[0].rule == "over-fitting"
    assert main([*arguments, "--html", str(tmp_path / "advice.html")]) == 0
    assert "over-fitting" in capsys.readouterr().out
    assert (tmp_path / "advice.html").exists()


def test_doctor_takes_the_training_from_the_file_or_a_loss(tmp_path, capsys):
    small(tmp_path)
    bare = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    bare.save(tmp_path / "bare.keras")
    seen = []
    for name, more in (("net", []), ("bare", []), ("bare", ["--loss", "sparse_categorical_crossentropy"])):
        assert main(["doctor", str(tmp_path / f"{name}.keras"), "--json", *more]) == 0
        looks = ModelAdvice.from_json(capsys.readouterr().out).looks
        seen.append(next(look for look in looks if look.name == "memory"))
    reasons = [look.reason for look in seen]
    assert reasons[0] == reasons[2] == ""
    assert "not compiled" in reasons[1]
    assert main(["doctor", str(tmp_path / "bare.keras"), "--loss", "msee"]) == 2
    assert "'mse'" in capsys.readouterr().err


def test_doctor_without_a_model_is_the_installation(capsys):
    main(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out)[0]["name"] == "python"
    assert main(["doctor", "--data", "digits"]) == 2
    assert "kopt doctor MODEL --data" in capsys.readouterr().err


def test_doctor_of_what_is_no_model_or_history(tmp_path, capsys):
    assert main(["doctor", str(tmp_path / "none.keras")]) == 2
    small(tmp_path)
    (tmp_path / "bad.json").write_text("{")
    assert main(["doctor", str(tmp_path / "net.keras"), "--history", str(tmp_path / "bad.json")]) == 2
    assert "json.dump" in capsys.readouterr().err
