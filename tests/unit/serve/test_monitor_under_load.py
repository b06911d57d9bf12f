"""The monitor alone: what it keeps under load, of versions that are gone, of shadows and of odd labels."""

import time

import numpy as np
import pytest

import kopt
from kopt.core.errors import OverloadedError, RequestError
from kopt.core.files import sha256
from kopt.core.records.shipping.monitoring import AlertRule, Monitoring, MonitoringProfile
from kopt.serve.metrics import Metrics
from kopt.serve.monitoring import monitor as watching
from kopt.serve.monitoring.lines import decoded
from kopt.serve.monitoring.log_files import log_lines
from kopt.serve.monitoring.monitor import Exchange, Monitor, ShadowAnswer

RIGHT = np.array([0.1, 0.8, 0.1], np.float32)  # of class 1


def exchange(identity, x, version=1, y=None, signature="serving_default"):
    x = np.asarray(x, np.float32)
    outputs = {"y": np.tile(RIGHT, (len(x), 1)) if y is None else y}
    return Exchange(identity, "predict", 200, 0.001, version, "main", signature, {"x": x}, outputs)


@pytest.fixture
def watch():
    """Make monitors that are closed at the end."""
    made = []

    def start(**settings):
        metrics = Metrics()
        made.append(Monitor("m", Monitoring(**{"every_s": 0.05, **settings}), metrics, lambda line: None))
        made[-1].metrics = metrics
        return made[-1]

    yield start
    for one in made:
        if one._thread.is_alive():
            one.close()


def test_the_log_is_written_and_rules_are_held_while_there_is_always_more(watch, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "_TURN_S", 0.05)
    rule = AlertRule("busy", "requests_per_s", "above", 0.0)
    monitor = watch(log=str(tmp_path / "log"), rules=(rule,))
    x, number, written, fired = np.zeros((64, 200)), 0, 0, False
    until = time.monotonic() + 20
    while time.monotonic() < until and not (written and fired):
        while len(monitor._queue) < 200:
            monitor.note(exchange(f"r{number}", x))
            number += 1
        written = (tmp_path / "log").stat().st_size > 10_000
        fired = bool(monitor.alerts) and monitor.alerts[0].state == "firing"
        time.sleep(0.001)
    assert (written, fired) == (True, True)
    assert monitor._queue, "it was never idle"


def test_a_version_that_is_no_longer_served_fires_nothing(watch, tmp_path, until):
    rng = np.random.default_rng(0)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"1")
    inputs = kopt.measure.drift_profile({"x": rng.normal(size=(500, 4))})
    outputs = kopt.measure.drift_profile({"y": rng.random((500, 3))})
    profile = MonitoringProfile(sha256(tmp_path / "1"), 500, inputs, outputs)
    (tmp_path / "1.profile.json").write_text(profile.to_json())
    monitor = watch(rules=(AlertRule("drift", "drifted_inputs", "above", 0.0),))
    monitor.loaded(1, tmp_path / "1")
    for number in range(20):
        monitor.note(exchange(f"a{number}", rng.normal(size=(32, 4)) + 5))
    until(lambda: monitor.alerts and monitor.alerts[0].state == "firing")
    monitor.left(1)
    until(lambda: monitor.alerts[0].state != "firing")
    assert 'kopt_drifted_features{side="input",version="1"}' not in monitor.metrics.text()


def test_a_shadow_that_is_wrong_is_no_alarm_of_the_one_that_answers(watch, until):
    monitor = watch(rules=(AlertRule("bad", "score", "below", 0.8),))
    for number in range(5):
        y = np.array([[0.8, 0.1, 0.1]], np.float32)
        monitor.note(exchange(str(number), [[0.0]]))
        monitor.note_shadow(ShadowAnswer(str(number), 2, 0.001, {"y": y}, {"y": RIGHT[None]}))
        monitor.label(str(number), [1]).result(10)
    until(lambda: monitor.alerts and monitor.alerts[0].value == 1.0)
    assert monitor.alerts[0].state == "quiet"
    text = monitor.metrics.text()
    assert 'kopt_score{version="1"} 1\n' in text
    assert 'kopt_score{version="2"} 0\n' in text


def test_classes_are_counted_where_scores_are_in_their_own_order(watch, until):
    monitor = watch()
    monitor.note(exchange("a", [[0.0]]))
    monitor.note(exchange("b", [[0.0]], y=np.array([[0.8, 0.1, 0.1]], np.float32), signature="top_k"))
    until(lambda: 'kopt_examples_total{version="1"} 2\n' in monitor.metrics.text())
    assert 'kopt_predictions_total{class="1",version="1"} 1\n' in monitor.metrics.text()
    assert 'class="0"' not in monitor.metrics.text()


@pytest.mark.parametrize("labels", [[True, True], [[1], [1]], [1, 1]])
def test_labels_in_every_form_are_in_the_log_as_numbers(watch, tmp_path, labels):
    monitor = watch(log=str(tmp_path / "log"), sample=0.0)
    monitor.note(exchange("a", [[0.0], [0.0]]))
    monitor.label("a", labels).result(10)
    monitor.close()
    events = [decoded(line) for line in log_lines(tmp_path / "log")]
    assert [one["labels"] for one in events if one["kind"] == "label"] == [[1, 1]]
    report = kopt.serve.monitoring_report(tmp_path / "log")
    assert (report.damaged, report.versions[0].score) == (0, 1.0)


@pytest.mark.parametrize(("labels", "words"), [([[1], [1, 2]], "of one length"), ([float("nan"), 1.0], "are finite")])
def test_labels_that_are_none_are_refused_and_the_request_stays_known(watch, labels, words):
    monitor = watch(score="absolute error")
    monitor.note(exchange("a", [[0.0], [0.0]], y=np.array([[1.0], [2.0]], np.float32)))
    with pytest.raises(RequestError, match=words):
        monitor.label("a", labels).result(10)
    monitor.label("a", [1.0, 2.0]).result(10)


def test_labels_that_find_no_room_are_not_called_unknown(watch, monkeypatch):
    monkeypatch.setattr(watching, "_MOST_WAITING", 0)
    with pytest.raises(OverloadedError, match="Send these labels again"):
        watch().label("a", [1]).result(10)


def test_what_is_remembered_of_an_answer_does_not_keep_its_batch(watch, until):
    monitor = watch()
    batch = np.tile(RIGHT, (64, 1))
    monitor.note(exchange("a", [[0.0]], y=batch[3:4]))
    until(lambda: "a" in monitor._answers)
    assert monitor._answers["a"].output["y"].base is None
