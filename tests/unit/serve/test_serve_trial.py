"""Files without a manifest are tried in a process of their own before a server opens them."""

import shutil

import pytest

from kopt.core.errors import LoadError
from kopt.serve import loaded, trial

PREDICT = "/v1/models/dense:predict"


@pytest.fixture
def deadly(monkeypatch, tmp_path):
    """Every trial is a program that ends as it is told, as LiteRT may with a damaged file."""

    def end(how):
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{how}\n")
        program.chmod(0o755)
        monkeypatch.setattr(trial.sys, "executable", str(program))

    return end


@pytest.mark.slow
def test_a_good_file_passes_and_a_damaged_one_says_why(models, tmp_path):
    trial.require_harmless(models / "dense.tflite", threads=1)
    path = tmp_path / "dense.onnx"
    path.write_bytes((models / "dense.onnx").read_bytes()[:-40])
    with pytest.raises(LoadError, match=r"dense\.onnx cannot be opened and run: .*not an ONNX file, or damaged"):
        trial.require_harmless(path)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("kill -SEGV $$", r"ended the process that tried to open and run it \(signal 11\)"),
        ("exit 1", r"\(status 1\)"),
        ("exec sleep 10", r"was not opened and run in 0\.2 s"),
    ],
)
def test_a_file_that_ends_its_process_is_refused(models, deadly, monkeypatch, how, words):
    monkeypatch.setattr(trial, "_SECONDS", 0.2 if "sleep" in how else 120.0)
    deadly(how)
    with pytest.raises(LoadError, match=words):
        trial.require_harmless(models / "dense.tflite")


@pytest.mark.slow
def test_a_deadly_new_version_is_refused_and_the_old_one_goes_on(models, serve, http_to, until, deadly, tmp_path):
    directory = tmp_path / "dense"
    (directory / "1").mkdir(parents=True)
    shutil.copy(models / "dense.tflite", directory / "1")
    server = serve(directory, poll_s=0.02)
    call = http_to(server)
    before = call(PREDICT, {"instances": [[0.0] * 4]})
    deadly("kill -SEGV $$")
    (tmp_path / "new").mkdir()
    shutil.copy(models / "dense.tflite", tmp_path / "new")
    (tmp_path / "new").rename(directory / "2")
    until(lambda: any("version 2 is refused" in line and "signal 11" in line for line in server.lines))
    assert call(PREDICT, {"instances": [[0.0] * 4]}) == before


def test_what_a_manifest_vouches_for_is_not_tried(models, deadly, monkeypatch):
    deadly("exit 1")
    monkeypatch.setattr(loaded, "_verified", lambda path: True)
    assert loaded.load_version(models / "dense.tflite").verified
