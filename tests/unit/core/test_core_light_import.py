"""`import kopt` is light and changes nothing in the process."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import kopt.measure.footprint", []),  # what measures the memory of a file
        ("import kopt\nkopt.measure.memory", []),
        ("import kopt.export.worker", []),  # what converts
        pytest.param(
            "from kopt.core.child_processes import import_tensorflow_alone\nimport_tensorflow_alone()\n"
            "import kopt.export.convert_tflite",
            ["tensorflow"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_child_process_loads_what_it_needs(statement, loaded):
    last = run(f"import sys\n{statement}\nprint(); print(sorted({HEAVY} & set(sys.modules)))").splitlines()[-1]
    assert last == str(loaded)


@pytest.mark.slow
def test_tensorflow_alone_is_the_whole_of_it_all_the_same():
    code = """
from kopt.core.child_processes import import_tensorflow_alone
import_tensorflow_alone()
import keras, tensorflow as tf
assert tf.keras.Sequential is keras.Sequential
import_tensorflow_alone()
print(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]).count_params())
"""
    assert run(code) == "9"


@pytest.mark.slow
@pytest.mark.parametrize("room", ["export", "measure"])
def test_names_that_load_late_are_those_that_are_declared(room):
    """A type checker reads the imports, Python the other list."""
    package = importlib.import_module(f"kopt.{room}")
    declared = next(node for node in ast.parse(inspect.getsource(package)).body if isinstance(node, ast.If))
    names = {one.name: node.module for node in declared.body for one in node.names}
    assert sorted(names) == sorted(package.__all__) == dir(package)
    for name, module in names.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)
    modules = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
    assert not modules & set(names), "a module that is imported first would stand in the place of the name"
    with pytest.raises(AttributeError, match=f"module 'kopt.{room}' has no attribute 'nothing'"):
        _ = package.nothing


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
