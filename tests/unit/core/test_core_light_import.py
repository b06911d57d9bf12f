"""`import kopt` is light and changes nothing in the process."""

import subprocess
import sys

import pytest

HEAVY = (
    "{'tensorflow', 'keras', 'tf_keras', 'tensorflow_model_optimization', 'keras_tuner', 'onnxruntime', 'matplotlib', "
    "'sklearn'}"
)


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "import kopt",
        "import kopt; kopt.Budget(0.02).to_json()",
        "from kopt.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from kopt.cli import main\ntry: main(['optimize', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_loads_no_heavy_package(statement):
    last = run(f"import sys\n{statement}\nprint(); print(sorted({HEAVY} & set(sys.modules)))").splitlines()[-1]
    assert last == "[]"


def test_import_leaves_the_process_as_it_was():
    code = """
import os, random, sys
import numpy
environment, python, legacy = dict(os.environ), random.getstate(), numpy.random.get_state()[1].tolist()
import kopt
assert dict(os.environ) == environment
assert random.getstate() == python
assert numpy.random.get_state()[1].tolist() == legacy
print("same")
"""
    assert run(code) == "same"


def test_public_names_are_listed_and_unknown_ones_refused():
    import kopt

    assert set(kopt.__all__) <= set(dir(kopt))
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = kopt.optimise
