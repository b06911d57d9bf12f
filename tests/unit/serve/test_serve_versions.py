import subprocess
import sys
import threading

import pytest

from kopt.core.errors import ConfigError, LoadError, OutputExistsError
from kopt.core.records.shipping.serving import ServingState
from kopt.serve.versions import STATE, claimed, labelled, present, read_state, rolled_back

WRITER = """
import sys, time
from pathlib import Path
from kopt.serve.versions import claimed
directory = Path(sys.argv[1])
(directory / f".ready{sys.argv[2]}").touch()
while len(list(directory.glob(".ready*"))) < 4:
    time.sleep(0.001)
for _ in range(20):
    with claimed(directory, None) as version:
        (directory / f".{version}.staged").mkdir()
        (directory / f".{version}.staged").rename(directory / str(version))
    print(version)
"""


def test_numbers_are_versions_and_nothing_else_is(tmp_path):
    for name in ("2", "10", "x", "3.json", ".4", "²"):
        (tmp_path / name).mkdir()
    (tmp_path / "5").write_text("a file")
    assert present(tmp_path) == (2, 10)
    assert present(tmp_path / "absent") == ()


def test_the_next_version_is_above_all_that_were(tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "7.json").write_text("{}")  # version 7 was removed, its manifest stayed
    with claimed(tmp_path, None) as first, claimed(tmp_path, None) as second:
        assert (first, second) == (8, 9)


@pytest.mark.slow
def test_processes_that_race_get_different_versions(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    versions = [int(line) for writer in writers for line in writer.communicate(timeout=60)[0].split()]
    assert [writer.returncode for writer in writers] == [0] * 4
    assert sorted(versions) == list(range(1, 81))  # 4 writers, 20 versions each, none twice, none left out
    assert not list(tmp_path.glob(".*.claimed"))


def test_a_claim_is_not_let_go_while_another_writer_counts(tmp_path, monkeypatch):
    first = claimed(tmp_path, None)
    assert first.__enter__() == 1
    leaving = threading.Thread(target=first.__exit__, args=(None, None, None))

    def present_and_then_the_other_ends(directory):
        found = present(directory)
        (tmp_path / "1").mkdir()
        leaving.start()
        leaving.join(0.2)
        return found

    monkeypatch.setattr("kopt.serve.versions.present", present_and_then_the_other_ends)
    with claimed(tmp_path, None) as second:
        assert second == 2
    leaving.join()


def test_a_version_that_is_there_or_being_written_is_refused(tmp_path):
    (tmp_path / "3").mkdir()
    with pytest.raises(OutputExistsError, match=r"Version 3 is in .*; it has 3\. Leave `version` out"):
        claimed(tmp_path, 3).__enter__()
    with claimed(tmp_path, 4), pytest.raises(OutputExistsError, match="it has 3, 4"):
        claimed(tmp_path, 4).__enter__()


def test_a_writer_that_fails_gives_its_number_back(tmp_path):
    with pytest.raises(RuntimeError), claimed(tmp_path, None):
        raise RuntimeError
    with claimed(tmp_path, None) as version:
        assert version == 1


@pytest.mark.parametrize("version", [-1, 1.0, True, "1", 2**63])
def test_versions_are_what_tf_serving_can_count(tmp_path, version):
    with pytest.raises(ConfigError, match="Received"):
        claimed(tmp_path, version).__enter__()


def test_the_newest_that_stands_and_the_labelled_ones_are_served():
    assert ServingState().wanted((1, 2, 3)) == (3,)
    assert ServingState(withdrawn=(3,)).wanted((1, 2, 3)) == (2,)
    assert ServingState(labels={"stable": 1}).wanted((1, 2, 3)) == (1, 3)
    assert ServingState(labels={"gone": 9}).wanted((1, 2, 3)) == (3,)
    assert ServingState().wanted(()) == ()


def test_a_rollback_withdraws_what_is_newer_and_moves_its_labels():
    state = rolled_back(ServingState(labels={"stable": 3, "old": 1}), (1, 2, 3), None)
    assert state == ServingState(withdrawn=(3,), labels={"stable": 2, "old": 1})
    again = rolled_back(state, (1, 2, 3), None)
    assert again == ServingState(withdrawn=(2, 3), labels={"stable": 1, "old": 1})
    with pytest.raises(ConfigError, match="no version to go back to: standing are 1"):
        rolled_back(again, (1, 2, 3), None)
    # 4 is newer than what was withdrawn, so it is served; and 3 can be brought back by its number.
    assert again.wanted((1, 2, 3, 4)) == (1, 4)
    assert rolled_back(again, (1, 2, 3), 3) == ServingState(withdrawn=(2,), labels={"stable": 1, "old": 1})


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"stable": 9}, "there are 1, 2, withdrawn 2"),
        ({"stable": 2}, "cannot stand for version 2"),
        ({'a"b': 1}, "letters, digits"),
        ({"": 1}, "letters, digits"),
    ],
)
def test_labels_stand_for_versions_that_are_there(labels, words):
    with pytest.raises(ConfigError, match=words):
        labelled(ServingState(withdrawn=(2,)), (1, 2), labels)


def test_labels_are_set_and_taken_away():
    state = labelled(ServingState(labels={"old": 1}), (1, 2), {"old": None, "canary-2": 2})
    assert state.labels == {"canary-2": 2}


def test_a_damaged_state_is_named(tmp_path):
    (tmp_path / STATE).write_text('{"schema": "ServingState/1", "labls": {}}')
    with pytest.raises(LoadError, match=r"serving.json cannot be read.*'labls'"):
        read_state(tmp_path)
