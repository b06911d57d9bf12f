"""A server that watches itself, asked over HTTP; what it has seen is read from its log."""

import json
import time

import keras
import numpy as np
import pytest

import kopt
from kopt.core.errors import ConfigError, DataError, NotServedError, RequestError
from kopt.core.records.shipping.monitoring import AlertRule, Monitoring, Traffic
from kopt.serve.metrics import Metrics
from kopt.serve.monitoring.lines import decoded, unpacked
from kopt.serve.monitoring.log_files import log_lines
from kopt.serve.monitoring.monitor import Monitor, _Loaded
from kopt.serve.monitoring.routing import is_chosen

PREDICT = "/v1/models/{}:predict"


@pytest.fixture
def watched():
    """Start watched servers on free ports; stopped at the end."""
    started = []

    def start(model, traffic=None, settings=None, **monitoring):
        lines = []
        server = kopt.serve.Server(
            model,
            port=0,
            settings=kopt.serve.ServerSettings(batch_wait_ms=0.0, poll_s=0.05, **(settings or {})),
            monitoring=Monitoring(**{"every_s": 0.05, **monitoring}),
            traffic=traffic,
            log=lines.append,
        )
        server.lines = lines
        started.append(server.start())
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def argmax(function_runner):
    """Three scores: a probability of 0.8 for the class that the input names, 0.1 for the others."""
    return lambda: function_runner(lambda x: np.where(np.arange(3) == np.nan_to_num(x), 0.8, 0.1))


def events(path, kind):
    found = [decoded(line) for line in log_lines(path)]
    assert None not in found
    return [one for one in found if one["kind"] == kind]


@pytest.mark.slow
def test_every_request_is_a_line_with_what_was_asked_and_answered(argmax, watched, http_to, tmp_path):
    server = watched(argmax(), log=str(tmp_path / "log"))
    call = http_to(server)
    path = PREDICT.format("function")
    assert call(path, {"instances": [[2.0], [0.0]]}, headers={"X-Request-Id": "first"})[0] == 200
    assert (call.headers["X-Request-Id"], call.headers["X-Model-Version"]) == ("first", "1")
    assert call(path, {"instances": "no"}, headers={"X-Request-Id": "bad"})[0] == 400
    call("/metrics")  # not a request to the model
    server.stop()
    good, bad = events(tmp_path / "log", "request")
    assert (good["id"], good["code"], good["version"], good["role"], good["n"]) == ("first", 200, 1, "main", 2)
    assert (good["classes"], good["nonfinite"]) == ([2, 0], 0)
    assert 0 < good["ms"] < 10_000
    assert unpacked(good["x"])["x"].tolist() == [[2.0], [0.0]]
    np.testing.assert_allclose(unpacked(good["y"])["y"], [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]], rtol=1e-6)
    assert (bad["id"], bad["code"]) == ("bad", 400)
    assert "version" not in bad
    assert events(tmp_path / "log", "start")[0]["model"] == "function"


def test_metrics_of_inputs_predictions_and_labels(argmax, watched, http_to, until):
    server = watched(argmax())
    call = http_to(server)
    path = PREDICT.format("function")
    call(path, {"instances": [[2.0], [0.0], [2.0]]}, headers={"X-Request-Id": "a"})
    call(path, b'{"instances": [[NaN], [1.0]]}')
    # 2 of 3 are right: the class is the input, 2, 0, 2.
    answer = call("/v1/models/function:label", {"labels": {"a": [2, 1, 2], "other": [1]}})
    assert answer == (200, {"labelled": 1, "unknown": ["other"]})
    assert call("/v1/models/function:label", {"labels": {"a": [2, 1, 2]}})[1]["unknown"] == ["a"]  # once only
    text = call("/metrics")[1]
    assert 'kopt_examples_total{version="1"} 5\n' in text
    assert 'kopt_predictions_total{class="2",version="1"} 2\n' in text
    assert 'kopt_input_nonfinite_total{input="x"} 1\n' in text
    # Finite values 2, 0, 2, 1: sum 5, squares 4 + 4 + 1 = 9.
    assert 'kopt_input_value_sum{input="x"} 5\nkopt_input_value_count{input="x"} 4\n' in text
    assert 'kopt_input_square_sum{input="x"} 9\n' in text
    assert 'kopt_prediction_confidence_bucket{version="1",le="0.7"} 0\n' in text
    assert 'kopt_prediction_confidence_bucket{version="1",le="0.9"} 5\n' in text
    assert 'kopt_score{version="1"} 0.666667\n' in text
    assert 'kopt_labels_total{outcome="taken"} 1\n' in text
    assert 'kopt_labels_total{outcome="unknown"} 2\n' in text


def test_labels_that_were_taken_are_told_where_others_are_refused(argmax, watched, http_to):
    call = http_to(watched(argmax()))
    for identity in "ab":
        call(PREDICT.format("function"), {"instances": [[1.0]]}, headers={"X-Request-Id": identity})
    code, answer = call("/v1/models/function:label", {"labels": {"a": [1], "b": [7], "c": [1]}})
    assert (code, answer["labelled"], answer["unknown"], list(answer["refused"])) == (200, 1, ["c"], ["b"])
    assert "class numbers from 0 to 2" in answer["refused"]["b"]


def test_labels_that_do_not_fit_are_the_requests_fault(argmax, watched, http_to, serve):
    call = http_to(watched(argmax(), remembered=2))
    for number in range(3):
        call(PREDICT.format("function"), {"instances": [[1.0]]}, headers={"X-Request-Id": str(number)})
    label = "/v1/models/function:label"
    for body, words in (
        ({"labels": {"2": [1, 1]}}, "has 1 example(s), and takes as many labels"),
        ({"labels": {"2": [7]}}, "class numbers from 0 to 2"),
        ({"labels": {"2": ["a"]}}, "which are numbers"),
        ({"labels": {"2": None}}, "which are numbers"),
        ({"labels": [1]}, "Labels come as"),
        ({}, "Labels come as"),
    ):
        status, answer = call(label, body)
        assert status == 400, body
        assert words in answer["error"]
    # Two requests are remembered: the first is not.
    assert call(label, {"labels": {"0": [1]}}) == (200, {"labelled": 0, "unknown": ["0"]})
    assert call(label, {"labels": {"2": [1]}}) == (200, {"labelled": 1, "unknown": []})
    status, answer = http_to(serve(argmax()))(label, {"labels": {"2": [1]}})
    assert (status, "without monitoring" in answer["error"]) == (400, True)


@pytest.mark.slow
def test_a_logit_is_not_cut_at_one_half(function_runner, tmp_path, watched, http_to):
    server = watched(function_runner(lambda x: x - 3.0))
    call = http_to(server)
    call(PREDICT.format("function"), {"instances": [[1.0]]}, headers={"X-Request-Id": "a"})
    status, answer = call("/v1/models/function:label", {"labels": {"a": [0]}})
    assert status == 400
    assert "the answers go from -2 to -2, as logits" in answer["error"]
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones")(inputs))
    path = kopt.export.tflite(model, tmp_path / "model.tflite").path
    x = np.linspace(-2, 2, 40, dtype=np.float32)[:, None]
    with pytest.raises(DataError, match="from -2 to 2, as logits"):
        kopt.serve.write_profile(path, (x, x[:, 0] > 0), labelled=True)
    assert kopt.serve.write_profile(path, (x, x[:, 0]), labelled=True, score="absolute error").score < 1e-6


def test_the_client_labels_what_it_asked_in_parts(argmax, watched):
    server = watched(argmax())
    with kopt.serve.Client(server.url, "function", batch_size=2) as client:
        client.predict(np.array([[0.0], [1.0], [2.0]], np.float32), request_id="mine")
        assert client.label("mine", [0, 1, 0]) == 3
        with pytest.raises(NotServedError, match=r"does not remember mine\.0, mine\.1"):
            client.label("mine", [0, 1, 0])
        with pytest.raises(ConfigError, match="A request id has"):
            client.predict(np.zeros((1, 1), np.float32), request_id="not one")
    with (
        kopt.serve.Client("grpc://127.0.0.1:1", "function") as client,
        pytest.raises(RequestError, match="Labels go over REST"),
    ):
        client.label("mine", [0])


@pytest.mark.slow
def test_inputs_that_move_are_told_from_the_profile_beside_the_version(tmp_path, half_plus, watched, http_to, until):
    directory = tmp_path / "half"
    directory.mkdir()
    half_plus(directory / "1", 2)
    generator = np.random.default_rng(0)
    kopt.serve.write_profile(directory, generator.normal(size=2000).astype(np.float32))
    rule = AlertRule("moved", "drifted_inputs", "above", 0.0)
    server = watched(directory, log=str(tmp_path / "log"), rules=(rule,))
    call = http_to(server)

    def send(shift):
        x = generator.normal(shift, 1.0, 500).astype(np.float32)
        assert call(PREDICT.format("half"), {"instances": x.tolist()})[0] == 200

    send(0.0)
    send(0.0)
    until(lambda: 'kopt_drifted_features{side="input",version="1"} 0\n' in call("/metrics")[1])
    assert 'kopt_alert_firing{alert="moved"} 0\n' in call("/metrics")[1]
    send(2.0)
    send(2.0)  # the last 1000 examples are all of these
    until(lambda: 'kopt_drifted_features{side="input",version="1"} 1\n' in call("/metrics")[1])
    until(lambda: 'kopt_alert_firing{alert="moved"} 1\n' in call("/metrics")[1])
    assert 'kopt_drifted_features{side="prediction",version="1"} 1\n' in call("/metrics")[1]
    assert "alert moved is firing at 1" in server.lines
    server.stop()
    assert [one["state"] for one in events(tmp_path / "log", "alert")] == ["firing"]


@pytest.mark.slow
def test_a_canary_gets_its_share_and_a_shadow_copies(tmp_path, half_plus, watched, http_to, until):
    directory = tmp_path / "half"
    directory.mkdir()
    for version, b in ((1, 0.0), (2, 0.25), (3, 10.0)):
        half_plus(directory / str(version), b)
    kopt.serve.set_labels(directory, stable=1, canary=2, dark=3)
    traffic = Traffic(main="stable", canary="canary", canary_share=0.3, shadow="dark")
    server = watched(directory, traffic, log=str(tmp_path / "log"))
    call = http_to(server)
    versions = {}
    for number in range(40):
        x = number % 2  # y = x / 2 + b: 0 or 0.5 of version 1, 0.25 or 0.75 of version 2
        answer = call(PREDICT.format("half"), {"instances": [x]}, headers={"X-Request-Id": f"id-{number}"})
        versions[f"id-{number}"] = {0.0: 1, 0.25: 2}[answer[1]["predictions"][0] - x / 2]
        assert call.headers["X-Model-Version"] == str(versions[f"id-{number}"])
    assert versions == {one: 2 if is_chosen(one, "canary", 0.3) else 1 for one in versions}
    # Who asks for a version gets that one, and no copy is made.
    assert call("/v1/models/half/labels/dark:predict", {"instances": [0.0]})[1] == {"predictions": [10.0]}
    until(lambda: 'kopt_shadow_total{outcome="compared"} 40\n' in call("/metrics")[1])
    server.stop()
    roles = [one["role"] for one in events(tmp_path / "log", "request")]
    assert (roles.count("canary"), roles.count("asked")) == (list(versions.values()).count(2), 1)
    shadows = events(tmp_path / "log", "shadow")
    assert {one["id"] for one in shadows} == set(versions)
    assert {one["version"] for one in shadows} == {3}
    # Answers of the shadow are 10 and more, which are no probabilities: there is no class to compare.
    assert {(one["n"], one["same"]) for one in shadows} == {(0, 0)}


def test_labels_that_the_shadow_has_no_class_for_are_counted_and_taken(tmp_path, watched, http_to, until):
    for version, classes in ((1, 3), (2, 2)):
        model = keras.Sequential(
            [keras.Input((1,), name="x"), keras.layers.Dense(classes, activation="softmax", name="out")], name="net"
        )
        kopt.export.saved_model(model, tmp_path / "net" / str(version))
    kopt.serve.set_labels(tmp_path / "net", stable=1, dark=2)
    call = http_to(watched(tmp_path / "net", Traffic(main="stable", shadow="dark")))
    for name in ("a", "b"):
        call(PREDICT.format("net"), {"instances": [[1.0]]}, headers={"X-Request-Id": name})
    until(lambda: 'kopt_shadow_total{outcome="compared"} 2\n' in call("/metrics")[1])
    assert call("/v1/models/net:label", {"labels": {"a": [2], "b": [1]}}) == (200, {"labelled": 2, "unknown": []})
    text = call("/metrics")[1]
    assert 'kopt_labels_total{outcome="taken"} 2\n' in text
    assert 'kopt_labels_total{outcome="unfit for the shadow"} 1\n' in text


def test_a_shadow_that_fails_or_is_slow_changes_no_answer(
    function_runner, watched, http_to, until, tmp_path, half_plus
):
    directory = tmp_path / "half"
    directory.mkdir()
    half_plus(directory / "1", 0.0)
    half_plus(directory / "2", 0.0)
    (directory / "2" / "saved_model.pb").write_bytes(b"damaged")
    kopt.serve.set_labels(directory, dark=2)
    call = http_to(watched(directory, Traffic(shadow="dark")))
    for _ in range(3):
        assert call(PREDICT.format("half"), {"instances": [1.0]}) == (200, {"predictions": [0.5]})
    assert "kopt_shadow_total{" not in call("/metrics")[1]  # it never loaded, so nothing was copied


def test_a_log_that_cannot_be_written_costs_lines_and_no_answer(argmax, watched, http_to, tmp_path, until):
    (tmp_path / "full").symlink_to("/dev/full")
    server = watched(argmax(), log=str(tmp_path / "full"))
    call = http_to(server)
    for _ in range(3):
        assert call(PREDICT.format("function"), {"instances": [[1.0]]})[0] == 200
    until(lambda: "kopt_log_lines_dropped 5\n" in call("/metrics")[1])  # start, version and three requests
    assert [line for line in server.lines if "dropped" in line] == [
        f"lines of {tmp_path / 'full'} are dropped: No space left on device"
    ]


@pytest.mark.slow
def test_large_inputs_leave_their_features_alone(function_runner, watched, http_to, tmp_path):
    server = watched(
        function_runner(lambda x: x[:, :1], shape=(None, 100)), log=str(tmp_path / "log"), max_example_bytes=200
    )
    http_to(server)(PREDICT.format("function"), {"instances": [[float(k) for k in range(100)]]})
    server.stop()
    (line,) = events(tmp_path / "log", "request")
    assert "x" not in line
    assert unpacked(line["features"])["x[7]"].tolist() == [7.0]


@pytest.mark.slow
def test_what_the_clock_says_changes_no_duration(argmax, watched, http_to, tmp_path, monkeypatch):
    times = iter(range(2_000_000_000, 0, -1000))
    monkeypatch.setattr("kopt.serve.monitoring.monitor.time.time", lambda: float(next(times)))
    rule = AlertRule("busy", "requests_per_s", "above", 0.0)
    server = watched(argmax(), log=str(tmp_path / "log"), rules=(rule,))
    call = http_to(server)
    for _ in range(5):
        call(PREDICT.format("function"), {"instances": [[1.0]]})
    server.stop()
    report = kopt.serve.monitoring_report(tmp_path / "log")
    assert report.clock_steps >= 5
    assert 0 < report.seconds < 60
    assert [alert.state for alert in report.alerts] == ["firing"]
    assert report.lines == 8  # start, version, five requests, one alert


def test_two_servers_need_two_logs(argmax, watched, tmp_path):
    watched(argmax(), log=str(tmp_path / "log"))
    with pytest.raises(ConfigError, match="Another server writes"):
        watched(argmax(), log=str(tmp_path / "log"))


@pytest.mark.slow
def test_a_damaged_profile_is_said_and_the_version_is_served(tmp_path, half_plus, watched, http_to):
    directory = tmp_path / "half"
    directory.mkdir()
    half_plus(directory / "1", 0.0)
    (directory / "1.profile.json").write_text(json.dumps({"schema": "MonitoringProfile/1", "examples": 1}))
    server = watched(directory)
    assert http_to(server)(PREDICT.format("half"), {"instances": [1.0]})[0] == 200
    server.stop()
    assert any("holds no profile" in line for line in server.lines)


def test_a_profile_of_another_file_is_said_and_not_used(tmp_path, half_plus, watched, http_to, until):
    directory = tmp_path / "half"
    directory.mkdir()
    half_plus(directory / "1", 0.0)
    kopt.serve.write_profile(directory, np.arange(200, dtype=np.float32))
    half_plus(directory / "2", 1.0)
    (directory / "1.profile.json").rename(directory / "2.profile.json")
    server = watched(directory)
    until(lambda: any("2.profile.json was made of another file" in line for line in server.lines))
    call = http_to(server)
    assert call(PREDICT.format("half"), {"instances": list(range(200))})[0] == 200
    until(lambda: 'kopt_examples_total{version="2"} 200' in call("/metrics")[1])
    time.sleep(0.2)  # several looks at drift
    assert "kopt_drifted_features{" not in call("/metrics")[1]


@pytest.mark.slow
def test_one_hot_labels_are_classes_and_requests_that_were_not_sampled_count(argmax, watched, http_to, tmp_path):
    server = watched(argmax(), log=str(tmp_path / "log"), sample=0.0)
    call = http_to(server)
    for number in range(4):
        headers = {"X-Request-Id": str(number)}
        call(PREDICT.format("function"), {"instances": [[1.0], [2.0]]}, headers=headers)
        labels = [[0, 1, 0], [1, 0, 0]] if number % 2 else [1, 0]  # the second is wrong
        assert call("/v1/models/function:label", {"labels": {str(number): labels}})[1]["labelled"] == 1
    server.stop()
    assert [one["labels"] for one in events(tmp_path / "log", "label")] == [[1, 0]] * 4
    assert not any("x" in one for one in events(tmp_path / "log", "request"))
    (use,) = kopt.serve.monitoring_report(tmp_path / "log").versions
    assert (use.labelled, use.score, use.kept) == (8, 0.5, 0)


@pytest.mark.slow
def test_an_error_of_several_numbers_is_their_mean(function_runner, watched, http_to, tmp_path):
    server = watched(
        function_runner(lambda x: np.repeat(x, 2, axis=1)), log=str(tmp_path / "log"), score="absolute error"
    )
    call = http_to(server)
    call(PREDICT.format("function"), {"instances": [[1.0], [2.0]]}, headers={"X-Request-Id": "a"})
    # Off by 0.5 and 1.5, and by 0 and 1: means 1 and 0.5.
    call("/v1/models/function:label", {"labels": {"a": [[1.5, 2.5], [2.0, 3.0]]}})
    assert 'kopt_score{version="1"} 0.75\n' in call("/metrics")[1]
    server.stop()
    report = kopt.serve.monitoring_report(tmp_path / "log", score="absolute error")
    assert (report.damaged, report.versions[0].score) == (0, 0.75)
    x, y = kopt.serve.logged_examples(tmp_path / "log")
    assert (x.tolist(), y.tolist()) == ([[1.0], [2.0]], [[1.5, 2.5], [2.0, 3.0]])


def test_the_version_that_answers_is_remembered_however_many_are_loaded():
    monitor = Monitor("m", Monitoring(), Metrics(), print)
    try:
        for version in range(1, 12):
            monitor._take_version(_Loaded(version, None), 0.0, 0.0)
            monitor._recent_of(1).scores.append(1.0)
        assert monitor._scores() == {(("version", "1"),): 1.0}
        assert 1 in monitor._recent
        assert 2 not in monitor._recent
    finally:
        monitor.close()
