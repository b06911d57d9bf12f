"""One run in a work directory, whoever it is and however it ends."""

import os
import signal
import subprocess
import sys

import pytest

from kopt.core.errors import OutputError
from kopt.search.trials import lock
from kopt.search.trials.lock import held

# The module alone: its package would load TensorFlow.
HOLD = """
import importlib.util, pathlib, sys, time
spec = importlib.util.spec_from_file_location("lock", sys.argv[1])
lock = importlib.util.module_from_spec(spec)
sys.modules["lock"] = lock
spec.loader.exec_module(lock)
with lock.held(pathlib.Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_refused_with_the_holder_and_takes_over_when_it_is_killed(tmp_path):
    workdir = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, lock.__file__, str(workdir)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        refusal = rf"Another run works in .*: process {holder.pid} on \S+, since 20"
        with pytest.raises(OutputError, match=refusal), held(workdir):
            pytest.fail("two runs in one directory")
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    (workdir / ".half.kopt-tmp").mkdir()
    with held(workdir) as dead:
        assert f'"pid": {os.getpid()},' in (workdir / ".kopt-run.lock").read_text()
        assert dead.pid == holder.pid
        assert [path.name for path in workdir.iterdir()] == [".kopt-run.lock"]
    with pytest.raises(KeyError), held(workdir):
        raise KeyError
    with held(workdir) as dead:
        assert dead is None, "both ended by themselves"
