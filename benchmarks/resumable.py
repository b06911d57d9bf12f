"""Tables that take hours to make: every row is written as soon as it is known, and a run goes on where one ended."""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
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

    def once(self, data: str, way: str, seed: int, measure: Callable[[], Any]) -> None:
        """Measure a number, where there is none of this row yet."""
        self.several((data,), way, seed, lambda: (measure(),))

    def several(self, data: Sequence[str], way: str, seed: int, measure: Callable[[], Sequence[Any]]) -> None:
        """Measure several numbers in one go, one for each of the data sets, where there is none of this row yet."""
        places = [self.rows.setdefault(one, {}).setdefault(way, {}) for one in data]
        if all(str(seed) in seeds for seeds in places):
            return
        for one, seeds, value in zip(data, places, measure(), strict=True):
            seeds[str(seed)] = value
            print(f"{one}, seed {seed}, {way}: {value}", file=sys.stderr, flush=True)
        content = {"command": self.command, "versions": versions(), "rows": self.rows}
        atomic_write(self.file, json.dumps(content, indent=1) + "\n", overwrite=True)
        keras.backend.clear_session()

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

    def show(self) -> None:
        """Print all rows as Markdown on standard error."""
        for data in self.rows:
            print(f"\n{data}\n{self.markdown(data)}", file=sys.stderr)

    def numbers(self) -> dict[str, object]:
        """Return all rows, as `publish` takes them."""
        return {f"{data}: {way}": seeds for data, found in self.rows.items() for way, seeds in found.items()}


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
