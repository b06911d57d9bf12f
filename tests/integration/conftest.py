"""What the examples of docstrings and pages start from: the lines on the first page of the reference, run once."""

import os
import shutil
from pathlib import Path

import page_blocks
import pytest
from tensorflow.python.framework.config import disable_op_determinism

import kopt


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The directory with the files, and the names."""
    directory = tmp_path_factory.mktemp("prepared")
    before = Path.cwd()
    os.chdir(directory)
    try:
        return directory, page_blocks.run(page_blocks.PREPARATION, {})
    finally:
        os.chdir(before)


@pytest.fixture
def scope(prepared, tmp_path, monkeypatch):
    """Names and files of an example's own, so that it may train the model and overwrite the files."""
    directory, names = prepared
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    names["keras"].utils.set_random_seed(0)
    yield {**names, "model": copied(names["model"])}
    disable_op_determinism()  # one example turns it on, which holds for the process


def copied(model):
    """Return a compiled copy of a model."""
    copy = kopt.graph.copy_model(model)
    copy.compile(type(model.optimizer).from_config(model.optimizer.get_config()), model.loss, metrics=["accuracy"])
    return copy
