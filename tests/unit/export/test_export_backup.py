"""`kopt.export.backup`, `check_backup`, `restore`: the last good copy outlives rot, kills and company."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import uuid

import numpy as np
import pytest

import kopt
from kopt.cli import main
from kopt.core.errors import ConfigError, LoadError, MissingDependencyError, OutputError, OutputExistsError
from kopt.core.files import sha256
from kopt.core.records.artifacts import Artifact, FileHash
from kopt.core.records.shipping.safekeeping import BackupReport
from kopt.export import copies, copy_places
from kopt.export.manifest import manifest_text

FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def write(path, content):
    """Write a file with manifest and reference; nothing here opens it."""
    path.write_bytes(content)
    reference = path.with_name(f"{path.name}.reference.npz")
    with open(reference, "wb") as file:
        np.savez(file, **{"input/x": np.arange(3), "output/y": np.arange(3)})
    kept = FileHash(reference.name, reference.stat().st_size, sha256(reference))
    made = Artifact(str(path), "tflite", "int8", 7, 27, sha256(path), "", (), (), (), {}, {}, reference=kept)
    made.manifest_path.write_text(manifest_text(made))


@pytest.fixture
def path(tmp_path):
    (tmp_path / "work").mkdir()
    write(tmp_path / "work" / "m.tflite", b"version 1")
    return tmp_path / "work" / "m.tflite"


@pytest.fixture
def places(tmp_path):
    return [tmp_path / "near", tmp_path / "far"]


def states(report):
    return [one.status for one in report.copies]


def content_of(place, copy):
    return (place / "m.tflite" / copy.copy / "m.tflite").read_bytes()


def test_every_place_gets_a_copy_and_the_same_again_is_not_written(path, places):
    report = kopt.export.backup(path, places)
    assert (report.written, report.removed, states(report)) == (2, 0, ["good", "good"])
    assert content_of(places[1], report.copies[1]) == b"version 1"
    assert BackupReport.from_json(report.to_json()) == report
    assert kopt.export.backup(path, places).written == 0


def test_the_newest_stay(path, places):
    for number in range(2, 6):
        write(path, b"version %d" % number)
        report = kopt.export.backup(path, places, keep=2)
    assert report.removed == 2
    assert [content_of(places[0], one) for one in report.copies[:2]] == [b"version 5", b"version 4"]
    assert len(report.copies) == 4


def test_restoring_brings_file_manifest_and_reference(path, places):
    kopt.export.backup(path, places)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    shutil.rmtree(path.parent)
    kopt.export.restore(path, places)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    with pytest.raises(OutputExistsError):
        kopt.export.restore(path, places)
    path.write_bytes(b"damaged")
    kopt.export.restore(path, places, overwrite=True)
    assert path.read_bytes() == b"version 1"


def test_the_profile_of_monitoring_is_kept_and_one_of_another_file_goes(path, places):
    profile = path.parent / f"{path.name}.profile.json"
    kopt.export.backup(path, places)
    profile.write_text("of version 1")
    assert kopt.export.backup(path, places).written == len(places)
    profile.unlink()
    kopt.export.restore(path, places, overwrite=True)
    assert profile.read_text() == "of version 1"
    profile.unlink()
    kopt.export.backup(path, places)  # without it
    profile.write_text("of version 2")
    kopt.export.restore(path, places, overwrite=True)
    assert not profile.exists()


def test_directories_come_back_with_what_is_in_them(tmp_path, places):
    model = tmp_path / "1"
    (model / "variables").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(b"graph")
    (model / "variables" / "data").write_bytes(b"numbers")
    made = Artifact(str(model), "saved_model", "float32", 12, 12, sha256(model), "", (), (), (), {}, {})
    made.manifest_path.write_text(manifest_text(made))
    kopt.export.backup(model, places)
    (model / "variables" / "data").write_bytes(b"rotten!")
    kopt.export.restore(model, places, overwrite=True)
    assert (model / "variables" / "data").read_bytes() == b"numbers"


FILES = ["m.tflite", "m.tflite.json", "m.tflite.reference.npz", "content.json"]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
@pytest.mark.parametrize("name", FILES)
def test_rot_in_any_file_is_found_and_the_newest_good_copy_comes_back(path, places, name, damage):
    kopt.export.backup(path, places)
    write(path, b"version 2")
    newest = kopt.export.backup(path, places[:1]).copies[0]
    file = places[0] / "m.tflite" / newest.copy / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.unlink() if damage == "gone" else file.write_bytes(data if damage == "flip" else data[:-1])
    report = kopt.export.check_backup(path, places)
    assert states(report) == ["damaged", "good", "good"]
    assert report.damaged[0].copy == newest.copy
    kopt.export.restore(path, places, overwrite=True)
    assert path.read_bytes() == b"version 1"
    assert main(["backup", "check", str(path), *map(str, places)]) == 1


def test_damaged_copies_never_push_out_the_last_good_one(path, places):
    place = copies.open_place(places[0])
    good = kopt.export.backup(path, places[:1]).copies[0]
    for number in range(2, 6):
        write(path, b"version %d" % number)
        newest = kopt.export.backup(path, places[:1], keep=9).copies[0]
        (places[0] / "m.tflite" / newest.copy / "m.tflite").write_bytes(b"rot")
    assert copies._thinned(place, "m.tflite", 1) == 0
    assert content_of(places[0], good) == b"version 1"
    # A newer good one takes its place; four rotten ones and the old one go.
    write(path, b"version 6")
    report = kopt.export.backup(path, places[:1], keep=1)
    assert (report.written, report.removed, states(report)) == (1, 5, ["good"])


def test_a_file_that_is_damaged_itself_is_not_copied(path, places):
    path.write_bytes(b"rot")
    with pytest.raises(LoadError, match="is not the file that its manifest describes"):
        kopt.export.backup(path, places)
    assert not any(place.exists() for place in places)


def test_nothing_good_anywhere_is_said_with_the_reasons(path, places):
    copy = kopt.export.backup(path, places[:1]).copies[0]
    (places[0] / "m.tflite" / copy.copy / "m.tflite").write_bytes(b"versiom 1")
    with pytest.raises(LoadError, match=r"No good copy of m.tflite .* bits have changed"):
        kopt.export.restore(path, places, overwrite=True)
    assert path.read_bytes() == b"version 1"


def test_one_place_that_cannot_be_written_does_not_keep_the_others_from_it(path, places):
    places[0].write_bytes(b"a file")
    with pytest.raises(OutputError, match="1 of 2 places have no new copy"):
        kopt.export.backup(path, places)
    assert states(kopt.export.check_backup(path, places[1:])) == ["good"]


def test_a_copy_that_reads_back_otherwise_is_refused_and_removed(path, places, monkeypatch):
    kopt.export.backup(path, places[:1])
    write(path, b"version 2")
    honest = copy_places.shutil.copyfile

    def spoiled(source, target):
        honest(source, target)
        target.write_bytes(target.read_bytes() + b"!")

    monkeypatch.setattr(copy_places.shutil, "copyfile", spoiled)
    with pytest.raises(OutputError, match="was not what was written"):
        kopt.export.backup(path, places[:1], keep=1)
    (left,) = kopt.export.check_backup(path, places[:1]).copies
    assert (left.status, content_of(places[0], left)) == ("good", b"version 1")


def killed_in_the_middle(path, place, where):
    """Back up in this process, which dies when it comes to a file."""
    honest = copy_places.shutil.copyfile

    def copy(source, target):
        if target.name == where:
            os.kill(os.getpid(), signal.SIGKILL)
        honest(source, target)

    copy_places.shutil.copyfile = copy
    kopt.export.backup(path, [place], keep=1)


@pytest.mark.parametrize("where", FILES[:3])
def test_a_kill_leaves_the_old_copies_whole_and_the_next_run_works(path, places, where):
    kopt.export.backup(path, places[:1], keep=1)
    write(path, b"version 2")
    process = FORK.Process(target=killed_in_the_middle, args=(path, places[0], where))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = kopt.export.check_backup(path, places[:1]).copies
    assert (left.status, content_of(places[0], left)) == ("good", b"version 1")
    report = kopt.export.backup(path, places[:1], keep=1)
    assert (report.written, report.removed, content_of(places[0], report.copies[0])) == (1, 1, b"version 2")


def many(path, places):
    for _ in range(5):
        kopt.export.backup(path, places, keep=2)


def test_two_at_once_leave_only_good_copies(path, places, tmp_path):
    (tmp_path / "else").mkdir()
    write(tmp_path / "else" / "m.tflite", b"version B")
    both = [FORK.Process(target=many, args=(one, places)) for one in (path, tmp_path / "else" / "m.tflite")]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    report = kopt.export.check_backup(path, places)
    assert set(states(report)) == {"good"}
    assert 2 <= len(report.copies) <= 6


def test_a_list_of_files_that_leads_elsewhere_is_not_followed(path, places, monkeypatch):
    report = kopt.export.backup(path, places[:1])
    copy = places[0] / "m.tflite" / report.copies[0].copy
    listed = json.loads((copy / "content.json").read_text())
    listed["files"][0]["name"] = "m.tflite/../../../evil"
    text = json.dumps(listed).encode()
    (copy / "content.json").write_bytes(text)
    digest = copies.hashlib.sha256(text).hexdigest()[:16]
    copy.rename(copy.with_name(f"00000001-{digest}-00000000"))
    assert "is no part of m.tflite" in kopt.export.check_backup(path, places[:1]).copies[0].found


def test_what_a_killed_writer_left_goes_a_day_later_and_a_living_one_is_left_alone(path, places):
    kopt.export.backup(path, places)
    holder = places[0] / "m.tflite"
    for name, hours in ((".00000009-a.x.kopt-tmp", 25), (".00000009-b.x.kopt-tmp", 23)):
        part = holder / name / "copy"
        part.mkdir(parents=True)
        (part / "half").write_bytes(b"half")
        for one in (part / "half", part, holder / name):
            os.utime(one, (time.time() - 3600 * hours,) * 2)
    write(path, b"version 2")
    assert kopt.export.backup(path, places).written == len(places)
    assert sorted(one.name for one in holder.glob(".*")) == [".00000009-b.x.kopt-tmp"]


def test_settings_that_cannot_be_used(path, places, monkeypatch):
    with pytest.raises(ConfigError, match="keep"):
        kopt.export.backup(path, places, keep=0)
    with pytest.raises(ConfigError, match="sequence of directories"):
        kopt.export.backup(path, str(places[0]))
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingDependencyError, match=r"keras-kopt\[backup\]"):
        kopt.export.backup(path, ["memory://x"])


def test_the_command(path, places, capsys):
    words = [str(path), *map(str, places)]
    assert main(["backup", "make", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 2
    assert main(["backup", "check", *words]) == 0
    assert "good" in capsys.readouterr().out
    assert main(["backup", "restore", *words]) == 1
    path.unlink()
    assert main(["backup", "restore", *words]) == 0
    assert path.read_bytes() == b"version 1"
    assert main(["backup", "check", "other.tflite", *map(str, places)]) == 1


def test_a_url_is_a_place_like_any_other(path, places):
    fsspec = pytest.importorskip("fsspec")
    url = f"memory://{uuid.uuid4().hex}/kept"
    memory = fsspec.filesystem("memory")
    kopt.export.backup(path, [url, places[0]], keep=1)
    write(path, b"version 2")
    report = kopt.export.backup(path, [url, places[0]], keep=1)
    assert (report.written, report.removed, states(report)) == (2, 2, ["good", "good"])
    base = f"{url}/m.tflite/{report.copies[0].copy}"
    memory.pipe_file(f"{base}/m.tflite", b"versiom 2")
    assert states(kopt.export.check_backup(path, [url])) == ["damaged"]
    kopt.export.restore(path, [url, places[0]], overwrite=True)
    assert path.read_bytes() == b"version 2"
    with pytest.raises(ConfigError, match="no place that fsspec knows"):
        kopt.export.backup(path, ["nowhere://x"])


def test_the_newest_is_the_newest_of_all_places_also_where_one_was_away(path, tmp_path):
    near, far = tmp_path / "near", tmp_path / "far"
    for number, place in ((1, near), (2, near), (3, far)):
        write(path, f"version {number}".encode())
        kopt.export.backup(path, [place])
    kopt.export.restore(path, [near, far], overwrite=True)
    assert path.read_bytes() == b"version 3"


def test_a_place_without_a_copy_is_a_row_and_an_exit_code(path, places, capsys):
    kopt.export.backup(path, places[:1])
    report = kopt.export.check_backup(path, places)
    assert [(one.status, one.copy == "") for one in report.copies] == [("good", False), ("none", True)]
    assert main(["backup", "check", str(path), *map(str, places)]) == 1
    assert "NONE" in capsys.readouterr().out
    assert main(["backup", "check", str(path), str(places[0])]) == 0
