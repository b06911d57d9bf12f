"""The parent's end of the process that trials are forked from, with a small program in place of TensorFlow."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kopt.search.trials import processes
from kopt.search.trials.processes import Nursery, run_fresh

# Speaks the protocol without loading anything; what a job does is the Python code in its file.
NURSERY = f"""
import sys, types
for name in ("kopt", "kopt.search", "kopt.search.trials", "kopt.search.trials.worker"):
    sys.modules[name] = types.ModuleType(name)
def main(job):
    exec(open(job).read(), {{}})
    return 0
worker = sys.modules["kopt.search.trials.worker"]
worker.main = main
sys.modules["kopt.search.trials"].worker = worker
names = {{"__name__": "nursery"}}
exec(open({str(Path(processes.__file__).with_name("nursery.py"))!r}).read(), names)
sys.exit(names["main"]())
"""


@pytest.fixture
def nursery():
    one = Nursery((sys.executable, "-c", NURSERY))
    yield one
    one.close()


@pytest.fixture
def run(nursery, tmp_path):
    def run(program, seconds=None):
        job = tmp_path / "job.py"
        job.write_text(program)
        return nursery.run(job, tmp_path / "log.txt", seconds)

    return run


def is_there(process):
    """Return whether a process runs; of one that has ended the system's first process may not have taken note."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_every_job_is_a_process_of_its_own_with_its_log(run, tmp_path):
    program = "import os, builtins; print(os.getpid(), os.getppid(), hasattr(builtins, 'seen')); builtins.seen = 1"
    assert [run(program), run(program)] == [0, 0]
    (a, parent, seen), (b, same, again) = (line.split() for line in (tmp_path / "log.txt").read_text().splitlines())
    assert (parent, seen) == (same, again)
    assert a != b
    assert seen == "False"


@pytest.mark.parametrize(
    ("program", "code"),
    [("import sys; sys.exit(3)", 3), ("import os; os.kill(os.getpid(), 11)", -11), ("raise ValueError('no')", 1)],
)
def test_how_a_job_ends_is_told_and_the_next_one_runs(run, tmp_path, program, code):
    assert run(program) == code
    assert run("print('next')") == 0
    assert (tmp_path / "log.txt").read_text().endswith("next\n")


def test_a_job_that_takes_too_long_is_ended_and_the_next_one_runs(run, tmp_path):
    run("pass")
    with pytest.raises(subprocess.TimeoutExpired):
        run(f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)", 1.0)
    assert not is_there(int((tmp_path / "pid").read_text()))
    assert run("pass") == 0


def test_where_the_nursery_dies_its_job_does_and_the_next_one_has_a_new_one(run, tmp_path):
    pids = tmp_path / "pids"
    program = f"""
import os, time
open({str(pids)!r}, 'w').write(f"{{os.getpid()}} {{os.getppid()}}")
os.kill(os.getppid(), 9)
time.sleep(60)
"""
    assert run(program) == -9
    child, parent = map(int, pids.read_text().split())
    deadline = time.monotonic() + 10
    while is_there(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_there(child)
    assert not is_there(parent)
    assert run("pass") == 0


def test_a_nursery_that_cannot_start_says_how_it_ended(tmp_path):
    one = Nursery((sys.executable, "-c", "import sys; print('no such library', file=sys.stderr); sys.exit(4)"))
    assert one.run(tmp_path / "job", tmp_path / "log.txt", None) == 4
    assert (tmp_path / "log.txt").read_text() == "no such library\n"
    one.close()


def test_a_fresh_process_has_the_variables_and_is_ended_in_time(tmp_path):
    command = (sys.executable, "-c", "import os, sys; print(os.environ['MARK'], sys.argv[1], flush=True)")
    log = tmp_path / "log.txt"
    assert run_fresh(command, Path("job"), log, None, {"MARK": "here"}) == 0
    assert log.read_text() == "here job\n"
    with pytest.raises(subprocess.TimeoutExpired):
        run_fresh((sys.executable, "-c", "import time; time.sleep(60)"), Path("job"), log, 0.2)


@pytest.mark.skipif(not processes.CAN_FORK, reason="trials are forked on Linux alone")
@pytest.mark.slow
def test_what_is_loaded_for_trials_starts_no_computation(tmp_path):
    """A fork has none of the threads of TensorFlow, so there may be none yet; NumPy's own survive a fork."""
    job = tmp_path / "nothing.json"
    job.write_text("no job")
    one = Nursery()
    assert one.run(job, tmp_path / "log.txt", 120.0) == 1
    threads = Path(f"/proc/{one._process.pid}/task")
    assert len(list(threads.iterdir())) <= 1 + os.cpu_count()
    assert "ConfigError" in (tmp_path / "log.txt").read_text()
    one.close()
