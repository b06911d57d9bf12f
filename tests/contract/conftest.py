import tempfile

import pytest


@pytest.fixture
def scratch(monkeypatch, tmp_path_factory):
    """Where temporary files go, so that leftovers are seen."""
    directory = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    # TensorFlow keeps the source of a function that it traced, and its bytecode, and removes it when the process ends.
    assert [
        path for path in directory.iterdir() if not path.name.startswith(("__autograph_generated", "__pycache__"))
    ] == []


@pytest.fixture
def no_long_work(scratch, monkeypatch):
    """Fail the test if anything begins that takes long: tracing, conversion, training, evaluation or timing."""

    def begins(*_, **__):
        pytest.fail("long work began before the input was refused")

    for name in (
        "kopt.export.process.Converter.start",
        "kopt.export.process.Converter.run",
        "kopt.export.source.trace_function",
        "kopt.measure.evaluate",
        "kopt.measure.latency",
        "keras.Model.fit",
    ):
        monkeypatch.setattr(name, begins)
