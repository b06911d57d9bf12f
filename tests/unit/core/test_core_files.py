import errno
import gzip
import hashlib
import os

import pytest

from kopt.core import files
from kopt.core.errors import OutputError, OutputExistsError


def leftovers(directory):
    return [p.name for p in directory.iterdir() if "kopt-tmp" in p.name]


def write_half(target, error):
    with files.atomic_path(target, overwrite=True) as staged:
        staged.write_text("half")
        raise error


def test_write_and_replace(tmp_path):
    target = tmp_path / "new" / "a.txt"
    files.atomic_write(target, "one")
    files.atomic_write(target, b"two", overwrite=True)
    assert target.read_bytes() == b"two"
    assert not leftovers(target.parent)


def test_an_existing_path_needs_overwrite(tmp_path):
    target = tmp_path / "a"
    target.write_text("kept")
    with pytest.raises(OutputExistsError, match="--force"):
        files.atomic_write(target, "lost")
    assert target.read_text() == "kept"


def test_an_error_in_the_block_leaves_the_old_file(tmp_path):
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="stopped"):
        write_half(target, RuntimeError("stopped"))
    assert target.read_text() == "old"
    assert not leftovers(tmp_path)


def test_a_directory_replaces_a_directory(tmp_path):
    target = tmp_path / "d"
    target.mkdir()
    (target / "old").write_text("x")
    with files.atomic_path(target, overwrite=True) as staged:
        staged.mkdir()
        (staged / "new").write_text("y")
    assert [p.name for p in target.iterdir()] == ["new"]
    assert not leftovers(tmp_path)


def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path):
    target = tmp_path / "a"
    with pytest.raises(OutputError, match="has room"):
        write_half(target, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert list(tmp_path.iterdir()) == []


def test_other_os_errors_are_not_called_output_errors(tmp_path):
    with pytest.raises(ConnectionResetError), files.atomic_path(tmp_path / "a"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


@pytest.mark.parametrize("place", ["/proc/kopt/a.tflite", "file/a.tflite"])
def test_an_unwritable_place_is_found_before_work_starts(tmp_path, place):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(OutputError, match="Cannot write"):
        files.check_output(tmp_path / place)


def test_check_output_leaves_nothing_behind(tmp_path):
    files.check_output(tmp_path / "x" / "y" / "z")
    assert list(tmp_path.iterdir()) == []


def test_sizes_and_hashes(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b").write_bytes(b"b" * 1000)
    (tmp_path / "d" / "a").write_bytes(b"a")
    assert files.size_bytes(tmp_path / "d") == 1001
    assert files.sha256(tmp_path / "d" / "a") == hashlib.sha256(b"a").hexdigest()
    assert files.sha256(tmp_path / "d") == hashlib.sha256(b"a\0ab\0" + b"b" * 1000).hexdigest()
    assert files.gzip_bytes(tmp_path / "d" / "b") == len(gzip.compress(b"b" * 1000, 6, mtime=0))


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    (tmp_path / ".a.123.kopt-tmp").mkdir()
    (tmp_path / ".a.123.kopt-tmp" / "half").write_text("x")
    (tmp_path / "kept").write_text("x")
    files.remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_file_never_takes_the_place_of_a_directory(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").write_text("old")
    with pytest.raises(OutputExistsError, match="is a directory, which no file takes the place of"):
        files.atomic_write(tmp_path / "mine", "new", overwrite=True)
    with pytest.raises(OutputExistsError), files.atomic_path(tmp_path / "mine", overwrite=True) as staged:
        staged.write_text("new")
    assert (tmp_path / "mine" / "kept").read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]
