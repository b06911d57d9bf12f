"""Which operators of a `.tflite` file take the time, by the profiler of the runtime itself."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kopt.core.errors import ConfigError, MeasurementError
from kopt.core.files import scratch_directory
from kopt.core.records.profiles.runtime import TFLiteOpProfile, TFLiteOpTime
from kopt.core.settings import number, whole
from kopt.measure import Runner, load
from kopt.measure.feeding import Arrays
from kopt.measure.loading import format_of
from kopt.measure.timing import batch
from kopt.profile.tensorboard import InTensorBoard
from kopt.profile.timing.tflite_matching import Operator, operators_of, paired
from kopt.report.profiles.tflite_times import TFLITE_OPS

WORKER = Path(__file__).with_name("tflite_worker.py")
# By its path, so that TensorFlow is not loaded; not as a script, whose directory would come first in `sys.path`.
_RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
_PACKAGE = "ai-edge-litert"
_RELEASES = ("2.3.",)
_LIBRARIES = {"darwin": "libLiteRt.dylib", "win32": "libLiteRt.dll"}
_LEAST_RUNS = 30
_MEAN_ROUNDING_MS = 0.5e-3
_WORTH_A_NOTE = 0.1
_PATIENCE_S = 60.0


@dataclasses.dataclass(frozen=True)
class TFLiteOps(InTensorBoard, TFLiteOpProfile):
    """What `tflite_ops` found, with ways to show it.

    Example:
        >>> found = kopt.profile.tflite_ops("model.tflite", seconds=0.2)
        >>> found.threads, sorted({op.runs_in for op in found.ops})
        (1, ['LiteRT', 'XNNPACK'])
    """

    look = TFLITE_OPS


def tflite_ops(
    path: str | os.PathLike[str],
    data: Arrays | None = None,
    *,
    batch_size: int = 1,
    threads: int = 1,
    seconds: float = 2.0,
) -> TFLiteOps:
    """Say which operators of a `.tflite` file take the time of a call.

    Use it when a file is slower than its multiply-accumulates suggest: it shows what XNNPACK took over and with which
    kernels, what was left to the interpreter, and what copying and converting between them costs.

    The numbers are those of the profiler of LiteRT, which runs the file as it would be deployed, with the XNNPACK
    delegate on: kernels that the delegate fused appear as one. They are measured in a process of their own, whose
    crash costs one error, in turns with calls without the profiler. The profiler counts whole microseconds and rounds
    down, so a run of an operator takes up to one microsecond more than is shown: hold `ops_ms` against `call_ms`.

    Args:
        path: of a `.tflite` file; its main signature is run.
        data: inputs to take examples from, as for `kopt.measure.latency`; made up from the signature if not given.
        batch_size: examples a call.
        threads: that the delegate may use.
        seconds: how long to profile, about.

    Returns:
        The operators with `.table(width, rows=20, sort="self")` and `.plot(path)`.

    Raises:
        LoadError: the path is missing, damaged or no `.tflite` file.
        ConfigError: an impossible setting, or another kind of file.
        DataError: `data` does not fit the file.
        MeasurementError: the runtime refuses the file, or is a release whose profiler is not known here.

    Example:
        >>> found = kopt.profile.tflite_ops("model.tflite", seconds=0.2)
        >>> [op.kernel for op in found.ops if op.runs_in == "XNNPACK"][-1]
        'Softmax (NC, F32)'

    Source: https://ai.google.dev/edge/litert/models/measurement
    """
    path = Path(path)
    whole("batch_size", batch_size)
    whole("threads", threads)
    seconds = number("seconds", seconds, least=0.0, open_below=True)
    if format_of(path) != "tflite":
        raise ConfigError(f"`path` must be that of a .tflite file. Received: {path}. Export one: `kopt.export.tflite`.")
    library = _library()
    runner = load(path, threads=threads)
    feeds = batch(runner, data, batch_size)
    if any(array.dtype.kind == "O" for array in feeds.values()):
        raise MeasurementError(f"{path.name} takes text, which the profiler of LiteRT cannot be given.")
    answer = _in_child(path, library, threads, feeds, runner.run(feeds), seconds)
    return _profile(path, runner, answer, operators_of(path, batch_size))


def _library() -> Path:
    """Return the library of the runtime, if this is a release whose interface is known."""
    release = importlib.metadata.version(_PACKAGE)
    if not release.startswith(_RELEASES):
        raise MeasurementError(
            f"The profiler of LiteRT is read through its C interface, which is known for {_PACKAGE} "
            f"{', '.join(f'{known}x' for known in _RELEASES)}. Installed: {release}."
        )
    spec = importlib.util.find_spec("ai_edge_litert")
    [directory] = spec.submodule_search_locations if spec and spec.submodule_search_locations else [""]
    library = Path(directory) / _LIBRARIES.get(sys.platform, "libLiteRt.so")
    if not library.is_file():
        raise MeasurementError(f"{_PACKAGE} {release} comes without {library.name} here, so there is no profiler.")
    return library


def _in_child(
    path: Path,
    library: Path,
    threads: int,
    feeds: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    seconds: float,
) -> dict[str, Any]:
    with scratch_directory() as scratch:
        arrays, reply = scratch / "arrays.npz", scratch / "reply.json"
        np.savez(arrays, **dict(feeds))  # type: ignore[arg-type]
        request = {
            "library": str(library),
            "model": str(path.absolute()),
            "threads": threads,
            "arrays": str(arrays),
            "outputs": {name: (array.shape, array.nbytes) for name, array in outputs.items()},
            "seconds": seconds,
            "least_runs": _LEAST_RUNS,
            "reply": str(reply),
        }
        try:
            child = subprocess.run(
                [sys.executable, "-c", _RUN, str(WORKER)],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PATIENCE_S + 10 * seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(
                f"Profiling {path.name} took longer than {error.timeout:.0f} s and was ended."
            ) from error
        answer = json.loads(reply.read_text()) if reply.is_file() else {"error": _death(child.returncode)}
    if "error" in answer:
        tail = "\n".join(child.stderr.strip().splitlines()[-10:])
        raise MeasurementError(f"LiteRT cannot profile {path.name}: {answer['error']}.\n{tail}")
    return answer


def _death(code: int) -> str:
    return f"its process died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


def _profile(path: Path, runner: Runner, answer: dict[str, Any], graphs: list[list[Operator]]) -> TFLiteOps:
    rows = answer["rows"]
    total = sum(row["us"] for row in rows if not row["holds_subgraph"])
    ops = tuple(
        TFLiteOpTime(
            kernel=row["tag"],
            runs_in="LiteRT" if row["is_operator"] else "XNNPACK",
            subgraph=row["subgraph"],
            operator=operator.name if operator else None,
            output=operator.output if operator else None,
            count=row["count"],
            time_ms=None if row["holds_subgraph"] else row["us"] / 1e3,
            share=None if row["holds_subgraph"] or not total else row["us"] / total,
            output_bytes=operator.output_bytes if operator else None,
        )
        for row, operator in zip(rows, _operators(rows, graphs), strict=True)
    )
    call_ms = answer["plain_us"] / 1e3
    return TFLiteOps(
        file=path.name,
        runtime=runner.runtime,
        threads=runner.threads or 1,
        runs=answer["calls"],
        call_ms=call_ms,
        profiled_call_ms=answer["call_us"] / 1e3,
        ops=ops,
        notes=_notes(ops, call_ms),
    )


def _operators(rows: list[dict[str, Any]], graphs: list[list[Operator]]) -> list[Operator | None]:
    """Return the operator of the file for every row, `None` where it cannot be told."""
    found: list[Operator | None] = [None] * len(rows)
    for subgraph, operators in enumerate(graphs):
        places = [place for place, row in enumerate(rows) if row["subgraph"] == subgraph]
        kept = {rows[place]["index"] for place in places if rows[place]["is_operator"]}
        kernels = [place for place in places if not rows[place]["is_operator"]]
        taken_over = [operator for index, operator in enumerate(operators) if index not in kept]
        for place, operator in zip(kernels, paired([rows[p]["tag"] for p in kernels], taken_over), strict=True):
            found[place] = operator
        for place in places:
            row = rows[place]
            if row["is_operator"] and row["index"] < len(operators):
                found[place] = operators[row["index"]]
    return found


def _notes(ops: tuple[TFLiteOpTime, ...], call_ms: float) -> tuple[str, ...]:
    notes = []
    left = [op for op in ops if op.runs_in == "LiteRT"]
    if left:
        share = sum(op.share or 0.0 for op in left)
        kinds = ", ".join(dict.fromkeys(op.kernel for op in left))
        notes.append(f"XNNPACK left {len(left)} operator(s) to the interpreter, {share:.0%} of the time: {kinds}.")
    if holders := ", ".join(dict.fromkeys(op.kernel for op in ops if op.time_ms is None)):
        notes.append(f"What {holders} costs beside the operators in it is not known: the profiler takes most of that.")
    runs = sum(op.count for op in ops)
    if runs * _MEAN_ROUNDING_MS > _WORTH_A_NOTE * call_ms:
        notes.append(
            f"The runtime counts whole microseconds and rounds down: of {runs:.0f} runs of operators in a call, each "
            f"takes up to 0.001 ms more than is shown."
        )
    return tuple(notes)
