"""What a server makes of a damaged directory, versions of other makers, and reasons that pass."""

import asyncio
import shutil
import time

import numpy as np
import pytest
import tensorflow as tf

import kopt
from kopt.core.errors import ConfigError, DataError, LoadError
from kopt.core.records.shipping.serving import ServerSettings, ServingState
from kopt.serve import hosting
from kopt.serve.client import _joined
from kopt.serve.hosting import Host, follow
from kopt.serve.metrics import Metrics
from kopt.serve.versions import STATE, claimed, path_of, present

pytestmark = pytest.mark.slow
MODEL = "/v1/models/half"


@pytest.fixture
def directory(tmp_path, half_plus):
    """Versions 1 and 2; `stable` is the first."""
    (tmp_path / "half").mkdir()
    half_plus(tmp_path / "half" / "1", 1)
    half_plus(tmp_path / "half" / "2", 2)
    (tmp_path / "half" / STATE).write_text(ServingState((), {"stable": 1}).to_json())
    return tmp_path / "half"


def answer(call, path=MODEL):
    return call(f"{path}:predict", {"instances": [0.0]})


def test_what_is_in_memory_goes_on_with_its_labels(directory, serve, http_to, until):
    server = serve(directory, poll_s=0.02)
    call, lines = http_to(server), server.lines
    stable = f"{MODEL}/labels/stable"
    whole = (directory / STATE).read_text()
    (directory / STATE).write_text(whole[: len(whole) // 2])
    until(lambda: any("cannot be read" in line for line in lines))
    time.sleep(0.2)
    assert (answer(call, stable), answer(call)) == ((200, {"predictions": [1.0]}), (200, {"predictions": [2.0]}))
    assert sum("cannot be read" in line for line in lines) == 1, "said once, not at every look"
    away = directory.rename(directory.with_name("away"))
    until(lambda: any("holds no version any more" in line for line in lines))
    assert (answer(call, stable), answer(call)) == ((200, {"predictions": [1.0]}), (200, {"predictions": [2.0]}))
    assert len(call(MODEL)[1]["model_version_status"]) == 2
    away.rename(directory)
    (directory / STATE).write_text(ServingState((), {"stable": 2}).to_json())
    until(lambda: answer(call, stable) == (200, {"predictions": [2.0]}))


def test_a_start_on_a_damaged_state_says_so(directory):
    (directory / STATE).write_text("{")
    with pytest.raises(LoadError, match=r"serving.json cannot be read"):
        kopt.serve.Server(directory, port=0).start()


def test_a_version_without_signatures_stays_out_and_those_after_it_come(directory, half_plus, serve, http_to, until):
    call = http_to(serve(directory, poll_s=0.02))
    tf.saved_model.save(tf.Module(), str(directory / "3"))
    until(lambda: "3" in [one["version"] for one in call(MODEL)[1]["model_version_status"]])
    half_plus(directory / "4", 4)
    until(lambda: answer(call) == (200, {"predictions": [4.0]}))
    states = {one["version"]: one["status"] for one in call(MODEL)[1]["model_version_status"]}
    assert "has no signature that could be called" in states["3"]["error_message"]


def test_whatever_a_look_raises_the_next_look_comes():
    stop, looks, lines = asyncio.Event(), [], []

    class Looking:
        log = staticmethod(lines.append)

        async def refresh(self):
            looks.append(len(looks))
            if len(looks) == 3:
                stop.set()
            raise RuntimeError("not foreseen")

    asyncio.run(follow(Looking(), 0.001, stop))
    assert len(looks) == 3
    assert lines[0] == "cannot look for versions: RuntimeError: not foreseen"


def test_a_reason_that_may_pass_is_tried_again_and_a_fault_is_not(directory, monkeypatch):
    monkeypatch.setattr(hosting, "_FIRST_PAUSE_S", 0.05)
    loaded, errors = [], [MemoryError("no room"), LoadError("damaged")]
    real = hosting.load_version

    def load(source, **settings):
        loaded.append(source.name)
        if source.name == "2" and errors:
            raise errors.pop(0)
        return real(source, **settings)

    monkeypatch.setattr(hosting, "load_version", load)
    host = Host("half", directory, ServerSettings(), Metrics(), lambda line: None)

    async def looks():
        await host.start()
        assert loaded == ["2", "1"]
        await host.refresh()
        assert loaded == ["2", "1"], "not at once"
        await asyncio.sleep(0.1)
        await host.refresh()
        await asyncio.sleep(0.3)
        await host.refresh()
        assert loaded == ["2", "1", "2"], "the file is at fault now, and is not tried again as it is"
        await host.close()

    asyncio.run(looks())


def test_names_of_versions_may_begin_with_zeros(tmp_path, half_plus, serve, http_to):
    (tmp_path / "half").mkdir()
    half_plus(tmp_path / "half" / "00000123", 1)
    assert present(tmp_path / "half") == (123,)
    assert path_of(tmp_path / "half", 123).name == "00000123"
    assert path_of(tmp_path / "half", 124).name == "124"
    call = http_to(serve(tmp_path / "half"))
    assert answer(call, f"{MODEL}/versions/123") == (200, {"predictions": [1.0]})


def test_a_number_that_was_withdrawn_is_not_given_again(directory):
    (directory / STATE).write_text(ServingState((2,), {}).to_json())
    shutil.rmtree(directory / "2")
    (directory / ".x.claimed").touch()  # of nobody
    with claimed(directory, None) as version:
        assert version == 3
    with pytest.raises(ConfigError, match=r"Version 2 .* was withdrawn by a rollback"), claimed(directory, 2):
        pass


def test_a_rollback_to_a_version_of_another_maker(directory):
    assert kopt.serve.rollback(directory).withdrawn == (2,)


def test_names_in_addresses_are_quoted(function_runner, serve):
    server = serve(function_runner(lambda x: x + 1), name="a?b#c")
    with kopt.serve.Client(server.url, "a?b#c") as client:
        assert client.predict(np.array([[1.0]], np.float32)).tolist() == [[2.0]]


def test_answers_to_parts_that_do_not_join_are_refused():
    parts = [{"y": np.zeros((2, 3)), "z": np.zeros(3)}, {"y": np.ones((1, 3)), "z": np.zeros(3)}]
    with pytest.raises(DataError, match=r"output 'z' of shape \(3,\) for 2 examples does not have them on"):
        _joined(parts, [2, 1])
    joined = _joined([{"y": part["y"]} for part in parts], [2, 1])["y"]
    assert joined.tolist() == [[0] * 3, [0] * 3, [1] * 3]
