"""The parent's end of the child process, with a child that is a few lines of Python and needs no TensorFlow."""

import os
import sys

import pytest

from kopt.core.errors import ExportError
from kopt.export.process import Converter
from kopt.export.worker import JOBS

CHILD = """
import json, os, signal, sys
for line in sys.stdin:
    job = json.loads(line)
    print("chatter of", job["job"], file=sys.stderr, flush=True)
    if job["job"] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job["job"] == "leave":
        sys.exit(3)
    if job["job"] == "environment":
        sys.stderr.write(os.environ.get("TF_USE_LEGACY_KERAS", "unset"))
    ok = job["job"] not in ("fail", "environment")
    print(json.dumps({"ok": ok, "error": "ValueError: no such operator\\nsecond line", "pid": os.getpid()}), flush=True)
"""


@pytest.fixture
def converter():
    made = Converter([sys.executable, "-c", CHILD])
    yield made
    made.close()


def pid(converter):
    return converter._process.pid


def test_one_child_serves_several_jobs(converter):
    converter.run("a")
    first = pid(converter)
    converter.run("b")
    assert pid(converter) == first


def test_a_crash_is_an_error_with_the_last_lines_and_the_next_job_gets_a_new_child(converter):
    converter.run("a")
    first = pid(converter)
    with pytest.raises(ExportError, match=r"The converter crashed \(SIGSEGV\)") as error:
        converter.run("crash")
    assert error.value.log_tail == "chatter of crash"
    converter.run("b")
    assert pid(converter) != first


def test_an_exit_is_reported_with_its_code(converter):
    with pytest.raises(ExportError, match="exit code 3"):
        converter.run("leave")


def test_an_exception_in_the_child_is_an_error_and_the_child_lives(converter):
    converter.run("a")
    first = pid(converter)
    with pytest.raises(ExportError, match="The fail converter failed: ValueError: no such operator\nchatter of fail"):
        converter.run("fail")
    assert pid(converter) == first


def test_a_child_that_died_while_idle_is_replaced(converter):
    converter.run("a")
    os.kill(pid(converter), 9)
    converter._process.wait()
    converter.run("b")


def test_the_legacy_keras_switch_is_not_inherited(converter, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    with pytest.raises(ExportError) as error:
        converter.run("environment")
    assert error.value.log_tail.endswith("unset")


def test_close_ends_the_child_and_may_be_called_twice(converter):
    converter.run("a")
    process = converter._process
    converter.close()
    converter.close()
    assert process.poll() is not None


def test_every_job_names_a_module_of_this_package():
    assert all(module.startswith("kopt.export.convert_") for module in JOBS.values())
