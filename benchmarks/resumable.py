"""Tables that take hours to make: every row is written as soon as it is known, and a run goes on where one ended."""

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

import kopt
from kopt.core.environment import versions
from kopt.core.files import atomic_write

MODELS = Path.home() / ".cache" / "kopt" / "benchmarks"


class Table:
    """Numbers by data set, way and seed, in a file beside the scripts.

    Args:
        name: of the script; the file is `<name>.json`.
    """

    def __init__(self, name: str):
        self.file = Path(__file__).parent / f"{name}.json"
        content = json.loads(self.file.read_text()) if self.file.is_file() else {}
        self.rows: dict[str, dict[str, dict[str, Any]]] = content.get("rows", {})
        self.command = f"python benchmarks/{name}.py"

    def once(self, data: str, way: str, seed: int, measure: Callable[[], Any]) -> Any:
        """Return the number of the row; measure it first where there is none yet."""
        seeds = self.rows.setdefault(data, {}).setdefault(way, {})
        if str(seed) not in seeds:
            seeds[str(seed)] = measure()
            print(f"{data}, seed {seed}, {way}: {seeds[str(seed)]}", file=sys.stderr, flush=True)
            content = {"command": self.command, "versions": versions(), "rows": self.rows}
            atomic_write(self.file, json.dumps(content, indent=1) + "\n", overwrite=True)
            keras.backend.clear_session()
        return seeds[str(seed)]

    def values(self, data: str, way: str) -> list[float]:
        """Return the numbers of a way, one a seed."""
        return list(self.rows[data][way].values())

    def mean(self, data: str, way: str) -> float:
        """Return the mean over the seeds."""
        return statistics.mean(self.values(data, way))

    def markdown(self, data: str) -> str:
        """Return the rows of a data set as a Markdown table: mean, standard deviation and single values."""
        lines = ["| way | mean | spread | seeds |", "|---|---|---|---|"]
        for way, seeds in self.rows[data].items():
            values = list(seeds.values())
            spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "-"
            single = ", ".join(f"{value:.2f}" for value in values)
            lines.append(f"| {way} | {statistics.mean(values):.2f} | {spread} | {single} |")
        return "\n".join(lines)


def trained_once(name: str, make: Callable[[], Any]) -> Any:
    """Return the model of that name from the cache folder; make and keep it where there is none."""
    file = MODELS / f"{name}.keras"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        model = make()
        partial = file.with_suffix(".partial.keras")
        model.save(partial)
        partial.replace(file)
    return kopt.load_model(file)
