"""The child process in which conversions run: `python -m kopt.export.worker`.

Converters can crash the interpreter outright and print whatever they like. Here a crash costs the parent one
`ExportError`, and everything printed goes to standard error, which the parent keeps in a file. One JSON object a line
comes in on standard input (a job) and one goes out on the original standard output (its result).
"""

import importlib
import json
import os
import sys
import traceback
from typing import Any, TextIO

from kopt.core.child_processes import import_tensorflow_alone

JOBS = {
    "tflite": "kopt.export.convert_tflite",
    "onnx": "kopt.export.convert_onnx",
    "tensorrt": "kopt.export.convert_tensorrt",
    "tf_trt": "kopt.export.convert_tf_trt",
    "weights": "kopt.export.convert_weights",
}


def main() -> None:
    """Serve jobs until standard input closes."""
    protocol = _separate_protocol_from_chatter()
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), file=protocol, flush=True)


def _separate_protocol_from_chatter() -> TextIO:
    protocol = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # also what C++ code prints to standard output
    return protocol


def _run(job: dict[str, Any]) -> dict[str, Any]:
    kind = job.pop("job")
    if kind == "warm_up":
        import_tensorflow_alone()
        return {"ok": True}
    try:
        importlib.import_module(JOBS[kind]).convert(**job)
    except Exception as error:  # noqa: BLE001 - whatever a converter raises is the parent's to report
        traceback.print_exc()
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}
    return {"ok": True}


if __name__ == "__main__":
    main()
