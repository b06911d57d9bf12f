"""Measure the latency of several files side by side, interleaved in one run."""

import argparse
import dataclasses
import json
import sys

import kopt
from kopt.cli.common import EXAMPLES, show, show_text
from kopt.core.errors import MeasurementError
from kopt.core.files import size_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", help=".keras, .h5, SavedModel directory, .tflite or .onnx")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1], metavar="N", help="examples a call")
    parser.add_argument("--threads", type=int, help="threads for LiteRT and ONNX Runtime")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed seconds a file and batch size")
    parser.add_argument("--unsafe", action="store_true", help="open a model file that stores Python code, and run it")
    parser.add_argument("--memory", action="store_true", help="also peak memory, each in a fresh process")
    parser.add_argument("--data", help=f"real inputs, for models of text or of open sizes: {EXAMPLES}")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    how = {file: {"threads": _threads(file, options), "safe_mode": not options.unsafe} for file in options.files}
    runners = [kopt.measure.load(file, **how[file]) for file in options.files]
    data = None
    if options.data:
        data = kopt.data.open_examples(options.data, image_shape=runners[0].inputs[0].shape[1:])
        data = data.x if isinstance(data, kopt.data.Split) else data
    measured = kopt.measure.latency(runners, data, batch_sizes=options.batch_sizes, max_seconds=options.seconds)
    measured = [dataclasses.replace(one, target=file) for one, file in zip(measured, options.files, strict=True)]
    unknown = []
    for place, file in enumerate(options.files if options.memory else ()):
        try:
            peak = kopt.measure.memory(file, **how[file], modules=options.imports or ())
        except MeasurementError as error:  # what was timed is worth showing all the same
            unknown.append(f"The memory of {file} is not known: {str(error).splitlines()[-1]}")
        else:
            measured[place] = dataclasses.replace(measured[place], peak_memory_bytes=peak)
    if options.json:
        show_text(json.dumps([{"schema": one.schema(), **one.to_dict()} for one in measured], indent=2))
    else:
        show(kopt.report.measurements_table(measured, {file: size_bytes(file) for file in options.files}))
    sys.stderr.write("".join(f"{line}\n" for line in unknown))
    return 1 if unknown else 0


def _threads(file: str, options: argparse.Namespace) -> int | None:
    # TensorFlow's thread pool belongs to the whole process; only the other runtimes can be given a number.
    return options.threads if file.endswith((".tflite", ".onnx")) else None
