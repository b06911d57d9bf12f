import asyncio
import shutil
import threading

import pytest

import kopt
from kopt.core.errors import ConfigError
from kopt.core.memory import resident_bytes
from kopt.serve import rest

MODEL = "/v1/models/half"


@pytest.fixture
def directory(tmp_path, half_plus):
    """A directory of versions with version 1, y = x / 2 + 1."""
    (tmp_path / "half").mkdir()
    half_plus(tmp_path / "half" / "1", 1)
    return tmp_path / "half"


def answers(call, version=""):
    return call(f"{MODEL}{version}:predict", {"instances": [0.0]})


def states(call):
    return {
        int(one["version"]): (one["state"], one["status"]["error_code"])
        for one in call(MODEL)[1]["model_version_status"]
    }


@pytest.mark.slow
def test_a_new_version_takes_over_and_the_old_one_goes(directory, half_plus, serve, http_to, until):
    call = http_to(serve(directory, poll_s=0.02))
    assert answers(call) == (200, {"predictions": [1.0]})
    half_plus(directory / "2", 2)
    until(lambda: answers(call) == (200, {"predictions": [2.0]}))
    until(lambda: states(call) == {1: ("END", "OK"), 2: ("AVAILABLE", "OK")})
    assert answers(call, "/versions/1")[0] == 404


@pytest.mark.slow
def test_a_version_goes_after_the_request_that_it_still_reads(directory, half_plus, serve, http_to, until, monkeypatch):
    reads = threading.Event()

    async def slowly(size, function, *arguments):
        reads.set()
        await asyncio.sleep(0.3)
        return function(*arguments)

    monkeypatch.setattr(rest, "_aside", slowly)
    server = serve(directory, poll_s=0.02)
    found = []
    asking = threading.Thread(target=lambda: found.append(answers(http_to(server))))
    asking.start()
    assert reads.wait(10)
    half_plus(directory / "2", 2)
    until(lambda: states(http_to(server)).get(1, ("",))[0] in ("UNLOADING", "END"))
    asking.join()
    assert found == [(200, {"predictions": [1.0]})]


@pytest.mark.slow
def test_no_request_is_lost_while_versions_change(directory, half_plus, serve, http_to, until):
    server = serve(directory, poll_s=0.02)
    stop, found = threading.Event(), []

    def ask():
        call = http_to(server)
        while not stop.is_set():
            found.append(answers(call))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in (2, 3, 4):
        half_plus(directory / str(version), version)
        until(lambda version=version: found[-1:] == [(200, {"predictions": [float(version)]})])
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in found} == {200}
    assert {answer["predictions"][0] for _, answer in found} == {1.0, 2.0, 3.0, 4.0}


@pytest.mark.slow
def test_a_damaged_version_is_refused_and_the_old_one_goes_on(directory, half_plus, serve, http_to, until, tmp_path):
    call = http_to(serve(directory, poll_s=0.02))
    bad = half_plus(tmp_path / "staged", 2)
    index = next((bad / "variables").glob("*.index"))
    whole = index.read_bytes()
    index.write_bytes(whole[:20])
    bad.rename(directory / "2")
    until(lambda: states(call) == {1: ("AVAILABLE", "OK"), 2: ("END", "DATA_LOSS")})
    assert answers(call) == (200, {"predictions": [1.0]})
    text = call("/metrics")[1]
    assert 'kopt_loads_total{outcome="refused"} 1\n' in text  # and not once a look
    # Mended in place, it is tried again.
    (directory / "2" / "variables" / index.name).write_bytes(whole)
    until(lambda: answers(call) == (200, {"predictions": [2.0]}))


@pytest.mark.slow
def test_what_is_not_what_its_manifest_describes_never_takes_traffic(serve, http_to, until, tmp_path):
    import keras

    def constant(value):
        layer = keras.layers.Dense(1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(value))
        return keras.Sequential([keras.Input((1,)), layer], name="constant")

    quick = {"batching": False, "warmup": False}
    directory = tmp_path / "half"
    kopt.serve.bundle(constant(1.0), directory, **quick)
    server = serve(directory, poll_s=0.02)
    call = http_to(server)
    ask = {"instances": [[0.0]]}
    assert "checked against its manifest" in server.lines[0]
    # A version of the right form whose weights are not those that were verified: it loads, and would answer 7.
    other = kopt.serve.bundle(constant(7.0), tmp_path / "other" / "half", version=2, **quick)
    good = kopt.serve.bundle(constant(2.0), tmp_path / "good" / "half", version=2, **quick)
    shutil.copy(good.artifact.manifest_path, directory / "2.json")
    shutil.copytree(other.artifact.path, directory / ".2")
    (directory / ".2").rename(directory / "2")
    until(lambda: states(call).get(2) == ("END", "DATA_LOSS"))
    assert (
        "not the file that its manifest describes"
        in call(MODEL + "/versions/2")[1]["model_version_status"][0]["status"]["error_message"]
    )
    assert call(MODEL + ":predict", ask) == (200, {"predictions": [[1.0]]})


def test_after_a_restart_a_damaged_newest_version_gives_way_to_the_one_before(directory, serve, http_to):
    (directory / "2").mkdir()
    (directory / "2" / "saved_model.pb").write_bytes(b"half written")
    server = serve(directory)
    assert answers(http_to(server)) == (200, {"predictions": [1.0]})
    assert server.lines[0].startswith("half version 2 is refused: ")


@pytest.mark.slow
def test_a_label_stays_where_it_was_while_its_new_version_is_refused(directory, half_plus, serve, http_to, until):
    half_plus(directory / "2", 2)
    kopt.serve.set_labels(directory, stable=1)
    server = serve(directory, poll_s=0.02)
    call = http_to(server)
    (directory / "3").mkdir()
    (directory / "3" / "saved_model.pb").write_bytes(b"half written")
    kopt.serve.set_labels(directory, stable=3)
    until(lambda: "label stable stays at version 1: version 3 is not served" in server.lines)
    assert answers(call, "/labels/stable") == (200, {"predictions": [1.0]})
    assert answers(call) == (200, {"predictions": [2.0]})
    shutil.rmtree(directory / "3")
    half_plus(directory / "3", 3)
    until(lambda: answers(call, "/labels/stable") == (200, {"predictions": [3.0]}))


def test_traffic_for_a_label_that_nobody_has_is_refused(directory):
    lines = []
    traffic = kopt.serve.Traffic(main="stabel")
    with pytest.raises(ConfigError, match=r"the label 'stabel', which is to answer\. Labels: none"):
        kopt.serve.Server(directory, port=0, traffic=traffic, log=lines.append).start()
    with kopt.serve.Server(directory, port=0, traffic=kopt.serve.Traffic(canary="next"), log=lines.append):
        assert "no version has the label 'next' yet, so that it gets no requests; labels: none" in lines


@pytest.mark.slow
def test_labels_and_rollback_are_followed(directory, half_plus, serve, http_to, until):
    half_plus(directory / "2", 2)
    half_plus(directory / "3", 3)
    kopt.serve.set_labels(directory, stable=1)
    call = http_to(serve(directory, poll_s=0.02))
    assert states(call) == {1: ("AVAILABLE", "OK"), 3: ("AVAILABLE", "OK")}
    assert answers(call, "/labels/stable") == (200, {"predictions": [1.0]})
    assert answers(call) == (200, {"predictions": [3.0]})
    kopt.serve.set_labels(directory, stable=2)
    until(lambda: answers(call, "/labels/stable") == (200, {"predictions": [2.0]}))


@pytest.mark.slow
def test_a_file_that_is_written_anew_is_a_new_version(models, serve, http_to, until, tmp_path):
    path = tmp_path / "dense.tflite"
    shutil.copy(models / "dense.tflite", path)
    call = http_to(serve(path, poll_s=0.02))
    ask = {"instances": [[1.0, 2.0, 3.0, 4.0]]}
    before = call("/v1/models/dense/versions/1:predict", ask)
    assert before[0] == 200
    shutil.copy(models / "dense_int8_io.tflite", tmp_path / ".new")
    (tmp_path / ".new").replace(path)
    until(lambda: call("/v1/models/dense/versions/2:predict", ask)[0] == 200)
    assert call("/v1/models/dense:predict", ask) != before


@pytest.mark.slow
def test_stopping_answers_what_is_under_way(serve, http_to, function_runner, until):
    begun, go_on = threading.Event(), threading.Event()

    def slow(x):
        if (x > 1).any():  # not what every version is run with once before it takes traffic
            begun.set()
            assert go_on.wait(30)
        return x

    server = serve(function_runner(slow))
    call, found = http_to(server), []
    asking = threading.Thread(target=lambda: found.append(call("/v1/models/function:predict", {"instances": [[1.5]]})))
    asking.start()
    assert begun.wait(30)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    stopping.join(0.2)
    assert stopping.is_alive()
    with pytest.raises(ConnectionRefusedError):
        http_to(server)("/metrics")
    go_on.set()
    stopping.join(30)
    asking.join(30)
    assert found == [(200, {"predictions": [[1.5]]})]
    assert call.headers["Connection"] == "close"


@pytest.mark.slow
def test_a_disk_that_is_away_for_a_while_ends_nothing(directory, half_plus, serve, http_to, until, monkeypatch):
    server = serve(directory, poll_s=0.02)
    call = http_to(server)
    with monkeypatch.context() as patched:

        def away(path):
            raise PermissionError(13, "Permission denied")

        patched.setattr("kopt.serve.hosting.present", away)
        until(lambda: "cannot look for versions: [Errno 13] Permission denied" in server.lines)
        assert answers(call) == (200, {"predictions": [1.0]})
    half_plus(directory / "2", 2)
    until(lambda: answers(call) == (200, {"predictions": [2.0]}))


@pytest.mark.slow
def test_versions_that_went_take_their_weights_with_them(serve, http_to, until, tmp_path):
    import tensorflow as tf

    class Large(tf.Module):
        def __init__(self):
            super().__init__()
            self.weights = tf.Variable(tf.zeros(4 << 20))  # 16 MiB

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def answer(self, x):
            return {"y": x + self.weights[0]}

    model = Large()
    directory = tmp_path / "half"
    tf.saved_model.save(model, directory / "1", signatures={"serving_default": model.answer})
    call = http_to(serve(directory, poll_s=0.02))

    def change_to(version):
        shutil.copytree(directory / "1", directory / ".staged")
        (directory / ".staged").rename(directory / str(version))
        until(lambda: states(call).get(version) == ("AVAILABLE", "OK"))
        until(lambda: [state for state, _ in states(call).values()].count("END") == version - 1)

    change_to(2)
    before = resident_bytes()
    for version in range(3, 9):
        change_to(version)
    assert resident_bytes() - before < 40 << 20  # six versions that stayed would take 96 MiB
