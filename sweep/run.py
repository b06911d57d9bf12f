"""Run the checks of channels, the tf_keras bridge and integer rounding over `keras.applications` and the zoo.

Each row runs in a child process.

    make sweep                                                      # what is not finished yet, then the table
    python -m sweep.run --only EfficientNetB3 --part bridge --again
    python -m sweep.run --table                                     # the table of what is finished

Rows are appended to `sweep/results.jsonl` as they are finished, so that a sweep that was killed goes on where it was.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweep import results, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "sweep" / "results.jsonl"
TABLE = ROOT / "docs" / "sweep.md"
_ROW = (sys.executable, "-m", "sweep.row")
_POLL_S = 0.5
_GB = 1e9


def arguments() -> argparse.Namespace:
    """Return what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", action="append", help="one model, e.g. ResNet50 or zoo/lstm")
    parser.add_argument("--part", choices=("channels", "bridge", "speed", "quantize"), help="one part")
    parser.add_argument("--keep", type=float, help="one share of channels")
    parser.add_argument("--again", action="store_true", help="also what is finished")
    parser.add_argument("--failed", action="store_true", help="also what failed or was skipped")
    parser.add_argument("--table", action="store_true", help="write the table and run nothing")
    parser.add_argument("--minutes", type=float, default=15.0, help="limit of a row (default 15)")
    parser.add_argument("--gigabytes", type=float, default=12.0, help="limit of a row and its converters (default 12)")
    return parser.parse_args()


def main() -> int:
    """Run what is missing; return 1 if a row failed."""
    asked = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the row that runs ends with its processes
    listed = json.loads(subprocess.run(_ROW, stdout=subprocess.PIPE, check=True, cwd=ROOT).stdout)
    if not asked.table:
        done = {} if asked.again else results.read(RESULTS)
        if asked.failed:
            done = {key: row for key, row in done.items() if row["status"] in ("ok", "refused")}
        for job in listed:
            if _is_asked(job, asked) and results.key(job) not in done:
                command = (*_ROW, job["part"], job["model"], str(job["keep"]))
                row = run(job, command, asked.minutes, asked.gigabytes)
                results.append(RESULTS, row)
                print(f"{row['status']:8}{row['part']} {row['model']} {row['keep']} {row['seconds']} s {row['reason']}")
                sys.stdout.flush()
    rows = list(results.read(RESULTS).values())
    table.write(TABLE, rows, len(listed))
    return int(any(row["status"] in ("failed", "skipped") for row in rows))


def _is_asked(job: dict[str, Any], asked: argparse.Namespace) -> bool:
    return (
        (not asked.only or job["model"] in asked.only)
        and asked.part in (None, job["part"])
        and asked.keep in (None, job["keep"])
    )


def run(job: dict[str, Any], command: Sequence[str], minutes: float, gigabytes: float) -> dict[str, Any]:
    """Return the row of a job: what `command` prints, run as a process that ends with all its children at a limit."""
    start, peak, why = time.monotonic(), 0.0, ""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, stdout=said, stderr=errors, start_new_session=True, cwd=ROOT)
        try:
            while child.poll() is None:
                time.sleep(_POLL_S)
                peak = max(peak, _memory_bytes(child.pid) / _GB)
                if peak > gigabytes:
                    why = f"needs more than {gigabytes:g} GB"
                elif time.monotonic() - start > 60 * minutes:
                    why = f"takes more than {minutes:g} minutes"
                if why:
                    break
        finally:
            _end(child)
        row = {**job, "pixels": None, "status": "skipped", "reason": why}
        if not why:
            said.seek(0)
            errors.seek(0)
            row = _said(job, child.returncode, said.read().decode(), errors.read().decode(errors="replace"))
    row.setdefault("seconds", round(time.monotonic() - start, 1))
    return {**row, "peak_gb": round(peak, 1)}


def _said(job: dict[str, Any], code: int, out: str, errors: str) -> dict[str, Any]:
    if code == 0:
        row: dict[str, Any] = json.loads(out.splitlines()[-1])
        return row
    last = results.reason((errors.strip().splitlines() or ["no message"])[-1])
    return {**job, "pixels": None, "status": "failed", "reason": f"exit code {code}: {last}"}


def _memory_bytes(session: int) -> int:
    """Return the resident memory of all processes of a session."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # Fields are counted after the name in parentheses, which may hold anything: `session` is the 4th of them.
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                total += int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
    return total


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


if __name__ == "__main__":
    raise SystemExit(main())
