"""The trained models that are tracked in `savedmodels/`: files from another day, as a user would have them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kopt
from kopt.core.environment import machine, versions

pytestmark = pytest.mark.long

HERE = Path(__file__).parents[2] / "savedmodels"
MADE = json.loads((HERE / "accuracy.json").read_text())
FILES = {
    "digits_teacher": HERE / "digits_teacher" / "1",
    "digits_student": HERE / "digits_student" / "1",
    "digits_student_int8": HERE / "digits_student_int8.tflite",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_its_manifest_describes(name):
    verification = kopt.export.verify(FILES[name])
    assert verification.ok
    assert {one.status for one in verification.verdicts} == {"ok"}
    assert [(info.name, info.shape) for info in verification.artifact.inputs] == [("image", (None, 8, 8, 1))]


@pytest.mark.parametrize("name", FILES)
def test_it_reads_as_many_digits_as_the_table_says(name):
    test = kopt.data.load("digits").test
    right = np.sum(kopt.measure.load(FILES[name]).predict(test.x).argmax(axis=1) == test.y)
    assert (right, len(test.y)) == (MADE["models"][name]["right"], MADE["models"][name]["of"])


def test_they_are_small_and_the_student_is_smaller():
    sizes = {name: row["bytes"] for name, row in MADE["models"].items()}
    assert sum(file.stat().st_size for file in HERE.rglob("*") if file.is_file()) < 2_000_000
    assert sizes["digits_student_int8"] * 20 < sizes["digits_student"] < sizes["digits_teacher"]


@pytest.mark.slow
def test_making_them_again_gives_the_same_accuracy(tmp_path):
    subprocess.run([sys.executable, HERE / "make.py", "--output", tmp_path], check=True, capture_output=True)
    made = json.loads((tmp_path / "accuracy.json").read_text())
    right = {name: row["right"] for name, row in made["models"].items()}
    tracked = {name: row["right"] for name, row in MADE["models"].items()}
    if (MADE["processor"], MADE["versions"]) == (machine().processor, versions()):
        assert right == tracked
    else:  # another processor rounds another way
        assert all(abs(right[name] - tracked[name]) <= 3 for name in FILES)
