"""Claim: importing kopt and asking for help are immediate, because neither loads TensorFlow."""

import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from claims import Claim, publish

RUNS = 7
LIMIT_S = 0.5


def wall_s(command: list[str]) -> float:
    """Return the wall time of one fresh process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> int:
    """Run the processes in turn, so that other load hits all of them alike."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import kopt": [sys.executable, "-c", "import kopt"],
        "kopt --help": [str(Path(sysconfig.get_path("scripts")) / "kopt"), "--help"],
    }
    for command in commands.values():
        wall_s(command)  # fills the file cache and writes the bytecode
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            samples[name].append(wall_s(command))
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return publish(
        "import_time",
        f"Wall time of fresh processes, run in turn, median of {RUNS}.",
        {
            **{f"{name}, s": round(value, 4) for name, value in medians.items()},
            "import tensorflow, s (once)": round(wall_s([sys.executable, "-c", "import tensorflow"]), 3),
        },
        [Claim(name, medians[name], LIMIT_S, unit="s") for name in ("import kopt", "kopt --help")],
    )


if __name__ == "__main__":
    raise SystemExit(main())
