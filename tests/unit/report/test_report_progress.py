import io
import re
import subprocess
import sys

import pytest
from rich.console import Console

from kopt.core.progress import Silent
from kopt.report import make_progress


def run(progress, total=3, steps=("export float32", "export [int8]", "measure")):
    progress.start(total)
    for step in steps:
        progress.step(step)
    progress.finish()


def test_lines_where_there_is_no_terminal():
    console = Console(file=io.StringIO(), force_terminal=False, width=20)
    run(make_progress(console), steps=("export float32", "export [int8] with a long description"))
    lines = console.file.getvalue().splitlines()
    assert lines[:2] == ["[1/3] export float32", "[2/3] export [int8] with a long description"]
    assert re.fullmatch(r"2 of 3 steps in [\d.]+ s", lines[2])
    assert len(lines) == 3


def test_bar_on_a_terminal_counts_finished_steps():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    run(make_progress(console))
    text = console.file.getvalue()
    assert "export [int8]" in text
    assert "1/3" in text
    assert "3/3" in text.split("\r")[-1] or "3/3" in text.splitlines()[-1]


def test_bar_of_stopped_work_is_not_full():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    run(make_progress(console), steps=("export float32", "export [int8]"))
    assert "1/3" in console.file.getvalue()
    assert "3/3" not in console.file.getvalue()


def test_the_step_that_an_exception_ends_is_not_done():
    console = Console(file=io.StringIO(), force_terminal=False, width=80)
    progress = make_progress(console)
    progress.start(1)
    progress.step("convert")
    try:
        raise ValueError("refused")
    except ValueError:
        progress.finish()
    assert console.file.getvalue().splitlines()[-1].startswith("0 of 1 steps in ")


def test_quiet_is_silent():
    assert isinstance(make_progress(quiet=True), Silent)


@pytest.mark.slow
def test_progress_goes_to_standard_error_and_nothing_loads_tensorflow():
    code = (
        "import sys; import kopt.report as r; p = r.make_progress(); p.start(1); p.step('one'); p.finish();"
        "assert not {'tensorflow', 'keras', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.startswith("[1/1] one\n")
