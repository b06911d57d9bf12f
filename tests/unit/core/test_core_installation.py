import importlib.metadata

import pytest

from kopt.core import installation


def by_name(checks):
    return {check.name: check for check in checks}


def test_this_installation_has_what_kopt_requires():
    checks = by_name(installation.check_installation())
    assert {"tensorflow", "keras", "tf2onnx", "keras-tuner", "ai-edge-litert", "onnxruntime"} <= set(checks)
    assert checks["tensorflow"].found == importlib.metadata.version("tensorflow")
    assert not [check for check in checks.values() if check.status == "warning"]


@pytest.mark.parametrize(
    ("requirement", "installed", "status", "found", "remedy"),
    [
        ("keras<3.16,>=3.12", "3.15.1", "ok", "3.15.1", ""),
        (
            "keras<3.16,>=3.12",
            "2.15.0",
            "warning",
            "2.15.0; tested with <3.16,>=3.12",
            "pip install 'keras<3.16,>=3.12'",
        ),
        ("keras<3.16,>=3.12", None, "warning", "not installed; kopt requires it", "pip install 'keras<3.16,>=3.12'"),
        (
            "tensorboard>=2; extra == 'tensorboard'",
            None,
            "missing",
            "not installed; it is in the extra 'tensorboard'",
            "pip install 'keras-kopt[tensorboard]'",
        ),
    ],
)
def test_each_requirement_is_held_against_its_range(monkeypatch, requirement, installed, status, found, remedy):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [requirement])

    def version(name):
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(installation, "_clashes", list)
    check = installation.check_installation()[1]
    assert (check.status, check.found, check.remedy) == (status, found, remedy)


def test_the_legacy_keras_switch_is_a_known_clash(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    clash = by_name(installation.check_installation())["TF_USE_LEGACY_KERAS"]
    assert clash.status == "warning"
    assert clash.remedy == "unset TF_USE_LEGACY_KERAS"
