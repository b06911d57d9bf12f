"""Measure the latency of several files side by side, interleaved in one run."""

import argparse
import dataclasses
import json

import kopt
from kopt.cli.common import show, show_text
from kopt.core.files import size_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", help=".keras, .h5, SavedModel directory, .tflite or .onnx")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1], metavar="N", help="examples a call")
    parser.add_argument("--threads", type=int, help="threads for LiteRT and ONNX Runtime")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed seconds a file and batch size")
    parser.add_argument("--unsafe", action="store_true", help="open a model file that stores Python code, and run it")
    parser.add_argument("--memory", action="store_true", help="also peak memory, each in a fresh process")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    how = {file: {"threads": _threads(file, options), "safe_mode": not options.unsafe} for file in options.files}
    runners = [kopt.measure.load(file, **how[file]) for file in options.files]
    measured = kopt.measure.latency(runners, batch_sizes=options.batch_sizes, max_seconds=options.seconds)
    measured = [dataclasses.replace(one, target=file) for one, file in zip(measured, options.files, strict=True)]
    if options.memory:
        measured = [
            dataclasses.replace(one, peak_memory_bytes=kopt.measure.memory(file, **how[file]))
            for one, file in zip(measured, options.files, strict=True)
        ]
    if options.json:
        show_text(json.dumps([{"schema": one.schema(), **one.to_dict()} for one in measured], indent=2))
    else:
        show(kopt.report.measurements_table(measured, {file: size_bytes(file) for file in options.files}))
    return 0


def _threads(file: str, options: argparse.Namespace) -> int | None:
    # TensorFlow's thread pool belongs to the whole process; only the other runtimes can be given a number.
    return options.threads if file.endswith((".tflite", ".onnx")) else None
