"""What the case studies share: files measured together in LiteRT, and the page of a result."""

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kopt
from kopt.core.environment import machine
from kopt.core.files import atomic_write

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Shipped:
    """A way to ship a model, measured: metric of the file, bytes, and milliseconds of one example on one thread."""

    way: str
    value: float
    size_bytes: int
    gzip_bytes: int
    latency_ms: float
    operators: tuple[str, ...]


def shipped(
    ways: Mapping[str, tuple[Any, str]],
    test: Any,
    *,
    metric: str = "accuracy",
    calibration: Any = None,
    io_dtype: str | None = None,
) -> list[Shipped]:
    """Export models to `.tflite`, evaluate the files and time them in turns.

    Args:
        ways: a model and a numeric scheme for each name.
        test: labelled examples that judge the files.
        metric: of `kopt.measure.evaluate`.
        calibration: inputs for the ranges of integer files, where training has not found them.
        io_dtype: type of their inputs and outputs; `None` for the default.
    """
    with tempfile.TemporaryDirectory() as folder:
        artifacts = []
        for number, (model, scheme) in enumerate(ways.values()):
            path, settings = Path(folder) / f"{number}.tflite", {}
            if scheme in ("int8", "int16x8"):
                ranges = None if kopt.export.has_ranges(model) else calibration
                settings = {"calibration": ranges, "io_dtype": io_dtype}
            artifacts.append(kopt.export.tflite(model, path, scheme=scheme, **settings))
        runners = [kopt.measure.load(artifact.path, threads=1) for artifact in artifacts]
        times = kopt.measure.latency(runners, max_seconds=3.0)
        values = [kopt.measure.evaluate(one, test, metrics=(metric,), batch_size=64).metrics[metric] for one in runners]
    return [
        Shipped(
            way,
            value,
            artifact.size_bytes,
            artifact.gzip_bytes,
            time.latency_ms,
            tuple(sorted({operator.dtype for operator in artifact.operators})),
        )
        for way, artifact, value, time in zip(ways, artifacts, values, times, strict=True)
    ]


def against_first(found: Sequence[Shipped], metric: str = "accuracy") -> list[dict[str, str]]:
    """Return the rows of a table: every file beside the first one."""
    first = found[0]
    return [
        {
            "file": one.way,
            metric: f"{100 * one.value:.2f} %",
            "kB": f"{one.size_bytes / 1000:.1f}",
            "gzip kB": f"{one.gzip_bytes / 1000:.1f}",
            "times smaller": f"{first.size_bytes / one.size_bytes:.1f}",
            "ms": f"{one.latency_ms:.3f}",
            "times faster": f"{first.latency_ms / one.latency_ms:.2f}",
        }
        for one in found
    ]


def arguments(description: str | None) -> argparse.Namespace:
    """Return the options that every case study has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="little data and short training: shows that it runs")
    return parser.parse_args()


def publish(script: str, title: str, parts: Sequence[tuple[str, Sequence[Mapping[str, str]]]], *, quick: bool) -> None:
    """Print a page of words and tables; that of a whole run replaces the one beside the script."""
    here = machine()
    packages = ", ".join(f"{name} {version}" for name, version in sorted(here.versions.items()))
    made = f"Made by `python examples/{script}.py` on {here.processor}, {here.cores} cores, with {packages}."
    page = "\n\n".join([f"# {title}", *(text for words, rows in parts for text in (words, _table(rows))), made]) + "\n"
    print(page)
    if not quick:
        atomic_write(HERE / f"{script}.md", page, overwrite=True)


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    columns = list(rows[0])
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row[column] for column in columns)} |" for row in rows)])
