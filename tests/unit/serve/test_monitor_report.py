"""What a log says: logs are written line by line here, so that every number has its derivation."""

import json
import random

import numpy as np
import pytest

import kopt
from kopt.cli import main
from kopt.core.errors import ConfigError, DataError, LoadError
from kopt.core.records.shipping.monitoring import ExampleReference, MonitoringProfile, MonitoringReport
from kopt.report.parts.statistics import unpaired_interval, wilson_interval
from kopt.serve.monitoring import predictions
from kopt.serve.monitoring.lines import encoded, packed
from kopt.serve.monitoring.profiles import profile_path, read_profile


class LogText:
    """Lines of a server's log."""

    def __init__(self):
        self.lines = []
        self.up = 0.0
        self("start", model="m")

    def __call__(self, kind, **told):
        self.up += 1.0
        self.lines.append(encoded({"kind": kind, "t": 1e9 + self.up, "up": self.up, "run": "r", **told}))

    def request(self, identity, x, y, version=1, role="main", ms=1.0):
        x, y = np.array(x, np.float32), np.array(y, np.float32)
        arrays = {"x": packed({"x": x}), "y": packed({"y": y})}
        classes = [int(one) for one in y.argmax(axis=1)]
        told = {"code": 200, "version": version, "role": role, "n": len(x), "nonfinite": int(np.isnan(x).sum())}
        self("request", id=identity, method="predict", ms=ms, classes=classes, **told, **arrays)

    def write(self, path):
        path.write_bytes(b"".join(self.lines))
        return path


def scores(number, classes=3, sure=0.8):
    """Return probabilities of which class `number` has the largest."""
    return [sure if one == number else (1 - sure) / (classes - 1) for one in range(classes)]


def profiled(tmp_path, x, score=None):
    """Write the profile of version 1 with inputs `x`, whose predictions are those of class 0; return its path."""
    y = np.array([scores(0)] * len(x), np.float32) + np.random.default_rng(1).normal(0, 0.01, (len(x), 3))
    profile = MonitoringProfile(
        "0" * 64, len(x), kopt.measure.drift_profile({"x": x}), kopt.measure.drift_profile({"y": y}), score
    )
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"")
    profile_path(tmp_path / "1").write_text(profile.to_json())


def test_requests_times_and_statuses_add_up(tmp_path):
    log = LogText()
    for number, ms in enumerate((1.0, 2.0, 3.0, 4.0, 10.0)):
        log.request(str(number), [[0.0], [np.nan if number == 4 else 1.0]], [scores(0), scores(2)], ms=ms)
    log("request", id="x", method="predict", code=429, ms=0.1)
    report = kopt.serve.monitoring_report(log.write(tmp_path / "log"))
    (use,) = report.versions
    assert (use.requests, use.examples, use.kept, use.labelled, use.score) == (5, 10, 10, 0, None)
    # Quantiles between order statistics: the 99th percent lies 0.96 of the way from 4 to 10.
    assert (use.p50_ms, use.p99_ms) == (3.0, pytest.approx(9.76))
    assert use.predictions == {"0": 5, "2": 5}
    assert (report.statuses, report.nonfinite) == ({"200": 5, "429": 1}, 1)
    assert (report.model, report.lines, report.damaged, report.runs, report.seconds) == ("m", 7, 0, 1, 7.0)
    assert use.note == "no profile beside the version"
    assert [one.kind for one in report.advice] == ["check inputs"]  # 1 of 5 with NaN
    assert report.advice[0].reason == "1 of 5 requests have NaN or infinity among their inputs."


def test_garbage_between_the_lines_is_counted_and_changes_nothing(tmp_path):
    log = LogText()
    for number in range(20):
        log.request(str(number), [[float(number)]], [scores(0)])
    clean = kopt.serve.monitoring_report(log.write(tmp_path / "log"))
    generator = random.Random(0)
    for place in (5, 9, 13):
        log.lines.insert(place, generator.randbytes(300).replace(b"\n", b"") + b"\n")
    log.lines.insert(3, log.lines[4][:50] + b"\n")
    log.lines.append(log.lines[-1][:-20])
    found = kopt.serve.monitoring_report(log.write(tmp_path / "log"))
    assert found.damaged == 5
    assert (found.lines, found.versions, found.statuses) == (clean.lines, clean.versions, clean.statuses)


def test_older_files_are_read_first(tmp_path):
    log = LogText()
    log.request("a", [[0.0]], [scores(1)])
    log("label", id="a", labels=[1])
    (tmp_path / "log.2").write_bytes(log.lines[0])
    (tmp_path / "log.1").write_bytes(log.lines[1])
    (tmp_path / "log").write_bytes(log.lines[2])
    (tmp_path / "log.lock").write_bytes(b"")
    assert kopt.serve.monitoring_report(tmp_path / "log").versions[0].score == 1.0


def test_labels_make_a_score_and_a_fallen_one_asks_for_training(tmp_path):
    generator = np.random.default_rng(0)
    profiled(tmp_path, generator.normal(size=(2000, 1)), score=0.95)
    log = LogText()
    for number in range(200):
        log.request(str(number), generator.normal(size=(1, 1)), [scores(0)])
        log("label", id=str(number), labels=[int(number % 4 == 0)])  # every fourth is wrong
        log("label", id=str(number), labels=[1])  # a second one does not count
    report = kopt.serve.monitoring_report(log.write(tmp_path / "log"), models=tmp_path)
    (use,) = report.versions
    assert (use.labelled, use.score) == (200, 0.75)
    assert (use.score_low, use.score_high) == wilson_interval(0.75, 200)
    assert use.inputs.drifted == ()
    (advice,) = (one for one in report.advice if one.kind == "retrain")
    assert advice.reason.startswith("Accuracy is 75.0% on 200 labelled examples, at most 80.")
    assert len(advice.examples) == 200
    assert advice.examples[0] == ExampleReference("199", 0, 0.0)  # the latest first
    x, y = kopt.serve.logged_examples(tmp_path / "log", advice.examples[:3])
    assert (x.shape, x.dtype, y.tolist(), y.dtype) == ((3, 1), np.float32, [0, 0, 0], np.int64)
    # 13 of 200 wrong are 93.5 %, less than it was, but 95 % is inside the interval: no advice.
    log = LogText()
    for number in range(200):
        log.request(str(number), generator.normal(size=(1, 1)), [scores(0)])
        log("label", id=str(number), labels=[int(number % 16 == 0)])
    assert "retrain" not in {
        one.kind for one in kopt.serve.monitoring_report(log.write(tmp_path / "log"), models=tmp_path).advice
    }


def test_moved_inputs_ask_for_calibration_and_for_labels_of_the_least_sure(tmp_path):
    generator = np.random.default_rng(0)
    profiled(tmp_path, generator.normal(size=(2000, 2)))
    log = LogText()
    for number in range(300):
        x = generator.normal([[0.0, 2.0]], 1.0)
        log.request(str(number), x, [scores(0, sure=0.5 if number in (7, 8) else 0.8)])
    log("label", id="7", labels=[0])
    report = kopt.serve.monitoring_report(log.write(tmp_path / "log"), models=tmp_path)
    by_kind = {one.kind: one for one in report.advice}
    assert [one.name for one in report.versions[0].inputs.drifted] == ["x[1]"]
    assert by_kind["recalibrate"].features == ("x[1]",)
    assert [one.id for one in by_kind["recalibrate"].examples[:2]] == ["299", "298"]
    assert by_kind["label"].examples[0] == ExampleReference("8", 0)  # "7" has its label
    x, y = kopt.serve.logged_examples(tmp_path / "log", by_kind["recalibrate"].examples)
    assert (x.shape, y) == ((300, 2), None)
    assert x[:, 1].mean() == pytest.approx(2.0, abs=0.25)  # 4 standard deviations of the mean of 300


def test_a_shadow_is_compared_on_the_same_examples(tmp_path):
    log = LogText()
    for number in range(40):
        right = number % 2
        log.request(str(number), [[0.0]], [scores(0)])
        y = packed({"y": np.array([scores(right)], np.float32)})
        log("shadow", id=str(number), version=2, n=1, same=int(right == 0), ms=2.0, y=y)
        log("label", id=str(number), labels=[right])
    report = kopt.serve.monitoring_report(log.write(tmp_path / "log"))
    (comparison,) = report.comparisons
    assert (comparison.how, comparison.a, comparison.b, comparison.examples) == ("shadow", 1, 2, 40)
    assert comparison.agreement == 0.5
    assert (comparison.low, comparison.high) == wilson_interval(0.5, 40)
    # Version 1 says 0 always and is right on 20; version 2 is right on all: 20 pairs tell them apart.
    assert (comparison.test.only_a, comparison.test.only_b, comparison.test.verdict) == (0, 20, "better")
    assert [(one.kind, one.version) for one in report.advice] == [("promote", 2)]
    assert {use.version: use.score for use in report.versions} == {1: 0.5, 2: 1.0}


def test_a_shadow_with_larger_errors_is_worse(tmp_path):
    log = LogText()
    for number in range(60):
        log.request(str(number), [[0.0]], [[0.01]])
        y = packed({"y": np.array([[1.0 + number / 100]], np.float32)})
        log("shadow", id=str(number), version=2, n=1, same=0, ms=2.0, y=y)
        log("label", id=str(number), labels=[0.0])
    report = kopt.serve.monitoring_report(log.write(tmp_path / "log"), score="absolute error")
    (comparison,) = report.comparisons
    assert (comparison.test.metric, comparison.test.verdict) == ("absolute error", "worse")
    assert [(one.kind, one.version) for one in report.advice] == [("keep", 1)]


def test_a_canary_is_compared_on_examples_of_its_own(tmp_path):
    log = LogText()
    for number in range(400):
        is_canary = number % 4 == 0
        log.request(str(number), [[0.0]], [scores(0)], 2 if is_canary else 1, "canary" if is_canary else "main")
        wrong = number % 8 == 0 if is_canary else number % 16 == 1
        log("label", id=str(number), labels=[int(wrong)])
    report = kopt.serve.monitoring_report(log.write(tmp_path / "log"))
    (comparison,) = report.comparisons
    # 100 of the canary, 50 wrong; 300 others, 25 wrong.
    assert (comparison.how, comparison.examples, comparison.test) == ("canary", 100, None)
    assert (comparison.low, comparison.high) == unpaired_interval(0.5, 100, 275 / 300, 300)
    assert [(one.kind, one.version) for one in report.advice] == [("keep", 1)]


def test_logged_examples_of_several_inputs_and_of_none(tmp_path):
    log = LogText()
    x = {"a": np.array([[1.0], [2.0]], np.float32), "b": np.array([3, 4])}
    told = {"code": 200, "ms": 1.0, "version": 1, "role": "main", "n": 2, "method": "predict"}
    log("request", id="q", x=packed(x), **told)
    log("label", id="q", labels=[0.5, 1.5])
    path = log.write(tmp_path / "log")
    found, labels = kopt.serve.logged_examples(path)
    assert {name: array.tolist() for name, array in found.items()} == {"a": [[1.0], [2.0]], "b": [3, 4]}
    assert labels.tolist() == [0.5, 1.5]
    with pytest.raises(DataError, match="are not in the log"):
        kopt.serve.logged_examples(path, [ExampleReference("other", 0)])
    with pytest.raises(LoadError, match="There is no log"):
        kopt.serve.logged_examples(tmp_path / "absent")


def test_versions_answer_the_labelled_examples_of_a_log(tmp_path, half_plus):
    log = LogText()
    for number in range(30):
        value = np.array([number % 2], np.float32)
        told = {"code": 200, "ms": 1.0, "version": 1, "role": "main", "n": 1, "method": "predict"}
        log("request", id=str(number), x=packed({"x": value}), **told)
        log("label", id=str(number), labels=[number % 2])
    path = log.write(tmp_path / "log")
    half_plus(tmp_path / "1", 0.0)  # 0 or 0.5: never above 0.5, so that it says 0 always
    half_plus(tmp_path / "2", 0.25)  # 0.25 or 0.75: right on all
    test = kopt.serve.compare_versions(path, tmp_path, 1, 2)
    assert (test.value_a, test.value_b, test.verdict) == (0.5, 1.0, "better")
    with pytest.raises(ConfigError, match="There is no version 9"):
        kopt.serve.compare_versions(path, tmp_path, 1, 9)


def test_the_profile_holds_distributions_and_the_score(tmp_path, half_plus):
    half_plus(tmp_path / "3", 0.25)
    x = np.arange(100, dtype=np.float32) / 80  # y = x / 2 + 0.25 is above 0.5 from x = 0.5 on, which is number 40
    labels = (np.arange(100) > 40).astype(int)
    labels[:5] = 1  # so that 5 of 100 are wrong
    made = kopt.serve.write_profile(tmp_path, (x, labels), labelled=True)
    assert read_profile(tmp_path / "3") == made
    assert (made.examples, made.score) == (100, 0.95)
    assert made.sha256 == kopt.core.files.sha256(tmp_path / "3")
    (feature,), (answer,) = made.inputs.features, made.outputs.features
    assert (feature.name, feature.count, feature.counts) == ("x", 100, (9, 10, 10, 10, 10, 10, 10, 10, 10, 11))
    assert (answer.name, answer.quantiles[0]) == ("y", 0.25)
    with pytest.raises(ConfigError, match="There is no version 9"):
        kopt.serve.write_profile(tmp_path, x, version=9)
    profile_path(tmp_path / "3").write_text("{" * 100_000)
    with pytest.raises(LoadError, match="holds no profile"):
        read_profile(tmp_path / "3")


def test_the_command_shows_writes_and_says_by_its_exit_code(tmp_path, capsys):
    log = LogText()
    log.request("a", [[0.0]], [scores(0)])
    path = log.write(tmp_path / "log")
    page = tmp_path / "page.html"
    assert main(["monitor", str(path), "--html", str(page)]) == 0
    assert "1 requests in 2.0 s over 1 run(s), 1 answered with 200" in " ".join(capsys.readouterr().out.split())
    assert '<h2 id="drift">Drift</h2>' in page.read_text()
    log("alert", name="slow", state="firing", value=70.5)
    log.write(path)
    assert main(["monitor", str(path), "--json"]) == 1
    report = MonitoringReport.from_json(capsys.readouterr().out)
    assert (report.fired, report.alerts[0].value, report.advice[0].kind) == ({"slow": 1}, 70.5, "look at alerts")
    assert main(["monitor", str(tmp_path / "absent"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "LoadError"


def test_inputs_of_too_many_columns_have_no_profile_and_no_features(tmp_path, models, monkeypatch):
    wide = np.zeros((3, 1001), np.float32)
    assert predictions.features({"x": wide}) == {}
    assert len(predictions.features({"x": wide[:, 1:]})) == 1000
    monkeypatch.setattr(predictions, "MOST_FEATURES", 3)
    path = tmp_path / "dense.tflite"
    path.write_bytes((models / "dense.tflite").read_bytes())
    with pytest.raises(DataError, match="columns, which are not watched"):
        kopt.serve.write_profile(path, np.zeros((20, 4), np.float32))
    assert not profile_path(path).exists()


def test_an_id_that_is_used_again_has_labels_of_its_own_each_time(tmp_path):
    log = LogText()
    for value, label in ((0.0, 1), (1.0, 2)):
        log.request("again", [[value]], [scores(0)])
        log("label", id="again", labels=[label])
    x, y = kopt.serve.logged_examples(log.write(tmp_path / "log"))
    assert (x[:, 0].tolist(), y.tolist()) == ([0.0, 1.0], [1, 2])


def test_alerts_of_a_run_that_ended_are_not_those_of_the_next(tmp_path):
    log = LogText()
    log("alert", name="slow", state="firing", value=9.0)
    assert [one.state for one in kopt.serve.monitoring_report(log.write(tmp_path / "log")).alerts] == ["firing"]
    log("start", model="m")
    report = kopt.serve.monitoring_report(log.write(tmp_path / "log"))
    assert [one.state for one in report.alerts] != ["firing"]


def test_an_id_that_was_used_again_is_two_requests(tmp_path):
    log = LogText()
    for x, label in ((1.0, 0), (2.0, 1)):
        log.request("daily", [[x]], [scores(label)])
        log("label", id="daily", labels=[label])
    log.write(tmp_path / "log")
    first, second = (ExampleReference("daily", 0, float(number - 1), number) for number in (1, 2))
    for examples, rows in (([second], ([[2.0]], [1])), ([first, second], ([[1.0], [2.0]], [0, 1]))):
        x, y = kopt.serve.logged_examples(tmp_path / "log", examples)
        assert (x.tolist(), y.tolist()) == rows


def test_paths_that_hold_nothing_of_a_server_are_errors(tmp_path):
    log = LogText()
    log.request("1", [[0.0]], [scores(0)], ms=1.0)
    path = log.write(tmp_path / "log")
    with pytest.raises(LoadError, match=r"There is no file or directory .*nowhere"):
        kopt.serve.monitoring_report(path, models=tmp_path / "nowhere")
    np.savez(tmp_path / "data.npz", x=np.arange(1000))
    with pytest.raises(DataError, match="has no line that a server has written"):
        kopt.serve.monitoring_report(tmp_path / "data.npz")
