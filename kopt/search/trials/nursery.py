"""The process that trials are forked from: `python -m kopt.search.trials.nursery`.

Loading TensorFlow takes four seconds of a processor. It is loaded here once; a trial is a fork, which has it already
and costs a few hundredths of a second, and is as far from the other trials as a process of its own. Nothing is
computed here: TensorFlow starts its threads with the first computation, and threads do not survive a fork.

A line in is a JSON list of the path of a job and that of its log; lines out are the number of the child, and how it
ended. The process ends when its standard input is closed, which the system does also when the search is killed.
"""

import contextlib
import json
import os
import signal
import sys
import warnings

from kopt.search.trials import worker


def main() -> int:
    """Fork a child for every line; return in the child what it came to, and 0 in the parent at the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted search ends the child, and closes the input
    # Python 3.12 warns where there are threads; those of NumPy's are started anew in the child.
    warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
    while line := _line():
        job, log = json.loads(line)
        begin, known = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(known)
            if not os.read(begin, 1):
                return 1  # the parent died before anybody knew whom to end
            os.close(begin)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _write_to(log)
            return worker.main(job)
        os.close(begin)
        _say(child)
        with contextlib.suppress(BrokenPipeError):  # it was killed meanwhile
            os.write(known, b".")
        os.close(known)
        _say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return 0


def _line() -> bytes:
    """Return the next line; a byte at a time, so that nothing is read that the child waits for."""
    line = b""
    while (byte := os.read(0, 1)) and byte != b"\n":
        line += byte
    return line


def _write_to(log: str) -> None:
    opened = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(opened, stream)
    os.close(opened)


def _say(number: int) -> None:
    os.write(1, f"{number}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
