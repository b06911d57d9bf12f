import pytest

from kopt.core.errors import ConfigError, MissingDependencyError
from kopt.core.optional import require
from kopt.core.schemes import SCHEMES, get_scheme


def test_the_six_schemes():
    assert list(SCHEMES) == ["float32", "float16", "dynamic", "weight_only", "int8", "int16x8", "int4"]
    assert [name for name, scheme in SCHEMES.items() if scheme.needs_calibration] == ["int8", "int16x8"]


def test_unknown_scheme_names_the_nearest():
    with pytest.raises(ConfigError, match=r"Unknown scheme 'int-8'. Did you mean 'int8'\? Accepted: float32, float16"):
        get_scheme("int-8")


def test_a_missing_optional_package_carries_its_pip_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'keras-kopt\[energy\]'"):
        require("pynvml", "GPU energy")
