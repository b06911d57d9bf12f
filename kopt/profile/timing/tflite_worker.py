"""The child process that profiles a `.tflite` file; run by its path, so that TensorFlow is not loaded.

The runtime has a profiler that its Python package does not show. It is in the C interface of `libLiteRt.so`, which is
called here as its headers declare it (litert/c/*.h of LiteRT 2.3). A call that does not fit would end the process; so
it is one of its own, and the parent lets it work with the releases only that it was written for.

Reads a request as JSON from standard input:

- `library`, `model`: paths.
- `threads`: that the delegate may use.
- `arrays`: path of an `.npz` with the inputs by name.
- `outputs`: shape and bytes of each output by name.
- `seconds`, `least_runs`: go on for so long, and so often.

and writes to `reply`, a path, what `_measure` returns.
"""

import ctypes
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

_CPU = 1
_HOST_MEMORY = 1
_WRITE = 1
_CALLS_A_TURN = 10
_WARM_UP = 5
# Kinds of events: of the runtime itself, of an operator of the file, of a kernel inside a delegate.
_DEFAULT, _OPERATOR, _KERNEL = 1, 2, 8
# Operators that run other subgraphs, whose operators have rows of their own.
_HOLDERS = frozenset((b"WHILE", b"IF", b"CALL", b"CALL_ONCE", b"STABLEHLO_WHILE", b"STABLEHLO_COMPOSITE"))
_NO_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda payload: None)


class _Event(ctypes.Structure):
    """`ProfiledEventData` of litert_profiler_event.h, with the two memory readings as plain numbers."""

    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("kind", ctypes.c_int32),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory", ctypes.c_int64 * 6),
        ("index", ctypes.c_uint64),
        ("subgraph", ctypes.c_uint64),
        ("source", ctypes.c_int32),
    )


class _TensorType(ctypes.Structure):
    """`LiteRtRankedTensorType`: element type, rank in the low bits, sizes, strides."""

    _fields_ = (
        ("element", ctypes.c_int32),
        ("rank", ctypes.c_uint32),
        ("sizes", ctypes.c_int32 * 8),
        ("strides", ctypes.c_uint32 * 8),
    )


class _Runtime:
    """A compiled model with its profiler on, and buffers for its first signature."""

    def __init__(self, request: dict[str, Any]):
        self._library = ctypes.CDLL(request["library"])
        environment, model, options = (ctypes.c_void_p() for _ in range(3))
        self._call("LiteRtCreateEnvironment", 0, None, ctypes.byref(environment))
        path = request["model"].encode()
        self._call("LiteRtCreateModelFromFile", environment, ctypes.c_char_p(path), ctypes.byref(model))
        self._call("LiteRtCreateOptions", ctypes.byref(options))
        self._call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        self._payloads = [
            self._option(options, b"runtime_options_string", b"enable_profiling = true\n"),
            self._option(options, b"xnnpack", f"num_threads = {request['threads']}\n".encode()),
        ]
        self._model, self._environment = model, environment
        self._compiled, self._profiler = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("LiteRtCreateCompiledModel", environment, model, options, ctypes.byref(self._compiled))
        self._call("LiteRtCompiledModelGetProfiler", self._compiled, ctypes.byref(self._profiler))
        if not self._profiler.value:
            raise RuntimeError("LiteRT gave no profiler")
        arrays = np.load(request["arrays"])
        inputs = {name: (arrays[name].shape, arrays[name].nbytes) for name in arrays.files}
        self._inputs = self._buffers("Input", inputs)
        self._outputs = self._buffers("Output", request["outputs"])
        for buffer, name in zip(self._inputs, self._names("Input"), strict=True):
            self._fill(buffer, np.ascontiguousarray(arrays[name]))

    def run(self) -> None:
        count = ctypes.c_size_t
        self._call(
            "LiteRtRunCompiledModel",
            self._compiled,
            count(0),
            count(len(self._inputs)),
            self._inputs,
            count(len(self._outputs)),
            self._outputs,
        )

    def profile(self, calls: int) -> list[_Event]:
        """Return copies of the events of `calls` calls."""
        self._call("LiteRtResetProfiler", self._profiler)
        self._call("LiteRtStartProfiler", self._profiler)
        for _ in range(calls):
            self.run()
        self._call("LiteRtStopProfiler", self._profiler)
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, ctypes.byref(count))
        events = (_Event * count.value)()
        self._call("LiteRtGetProfilerEvents", self._profiler, count, events)
        return list(events)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} failed with status {status}")

    def _option(self, options: ctypes.c_void_p, identifier: bytes, text: bytes) -> Any:
        payload, opaque = ctypes.create_string_buffer(text), ctypes.c_void_p()
        address = ctypes.cast(payload, ctypes.c_void_p)
        self._call("LiteRtCreateOpaqueOptions", ctypes.c_char_p(identifier), address, _NO_DELETER, ctypes.byref(opaque))
        self._call("LiteRtAddOpaqueOptions", options, opaque)
        return payload

    def _names(self, side: str) -> list[str]:
        signature, count = self._signature(), ctypes.c_size_t()
        self._call(f"LiteRtGetNumSignature{side}s", signature, ctypes.byref(count))
        names = []
        for index in range(count.value):
            name = ctypes.c_char_p()
            self._call(f"LiteRtGetSignature{side}Name", signature, ctypes.c_size_t(index), ctypes.byref(name))
            names.append((name.value or b"").decode())
        return names

    def _signature(self) -> ctypes.c_void_p:
        signature = ctypes.c_void_p()
        self._call("LiteRtGetModelSignature", self._model, ctypes.c_size_t(0), ctypes.byref(signature))
        return signature

    def _buffers(self, side: str, wanted: dict[str, tuple[tuple[int, ...], int]]) -> Any:
        """Make a buffer for every input or output; an input whose size is open gets that of `wanted`."""
        names = self._names(side)
        buffers = (ctypes.c_void_p * len(names))()
        for index, name in enumerate(names):
            shape, size = wanted[name]
            kind, was_open = self._type(side, index, shape)
            if was_open and side == "Input":
                place, rank = ctypes.c_size_t(index), ctypes.c_size_t(len(shape))
                resize = "LiteRtCompiledModelResizeInputTensor"
                self._call(resize, self._compiled, ctypes.c_size_t(0), place, kind.sizes, rank)
            buffer, bytes_ = ctypes.c_void_p(), ctypes.c_size_t(size)
            make = "LiteRtCreateManagedTensorBuffer"
            self._call(make, self._environment, _HOST_MEMORY, ctypes.byref(kind), bytes_, ctypes.byref(buffer))
            buffers[index] = buffer.value
        return buffers

    def _type(self, side: str, index: int, shape: tuple[int, ...]) -> tuple[_TensorType, bool]:
        """Return the type of an input or output with all its sizes, and whether one was open."""
        tensor, kind = ctypes.c_void_p(), _TensorType()
        name = f"LiteRtGetSignature{side}TensorByIndex"
        self._call(name, self._signature(), ctypes.c_size_t(index), ctypes.byref(tensor))
        self._call("LiteRtGetRankedTensorType", tensor, ctypes.byref(kind))
        was_open = list(kind.sizes[: len(shape)]) != list(shape)
        for axis, size in enumerate(shape):
            kind.sizes[axis] = size
        return kind, was_open

    def _fill(self, buffer: int, array: np.ndarray) -> None:
        address = ctypes.c_void_p()
        self._call("LiteRtLockTensorBuffer", ctypes.c_void_p(buffer), ctypes.byref(address), _WRITE)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)
        self._call("LiteRtUnlockTensorBuffer", ctypes.c_void_p(buffer))


class _Totals:
    """Microseconds and runs by what ran, in the order of the first call.

    Times are kept by turn, and the median of the turns is reported: something else that the machine does for a while
    then changes nothing.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.calls = 0
        self._rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._turns: list[dict[tuple[Any, ...], float]] = []
        self._call_us: list[float] = []

    def add(self, events: list[_Event]) -> None:
        """Add the events of one turn of calls."""
        calls, call_us = 0, 0
        turn: dict[tuple[Any, ...], float] = {}
        partitions: dict[int, list[int]] = {}  # By subgraph: number of the delegate's part, and kernel within it.
        for event in events:
            subgraph, index = event.subgraph, event.index
            if event.kind == _DEFAULT and event.tag == b"Invoke":
                partitions[subgraph] = [-1, -1]
                if subgraph == 0:
                    calls += 1
                    call_us += event.elapsed_us
            elif event.kind == _OPERATOR:
                partitions[subgraph][1] = -1
                self._count(event, ("operator", subgraph, index), turn)
            elif event.kind == _KERNEL:
                part = partitions[subgraph]
                if index <= part[1] or part[1] < 0:
                    part[0] += 1
                part[1] = index
                self._count(event, ("kernel", subgraph, part[0], index), turn)
        self.calls += calls
        self._call_us.append(call_us / calls)
        self._turns.append({key: us / calls for key, us in turn.items()})

    def summary(self) -> dict[str, Any]:
        """Return the number of calls, and what one of them costs: in all, and by what ran."""
        rows = [
            {
                **row,
                "count": row["count"] / self.calls,
                "us": float(np.median([turn.get(key, 0.0) for turn in self._turns])),
            }
            for key, row in self._rows.items()
        ]
        return {"calls": self.calls, "call_us": float(np.median(self._call_us)), "rows": rows}

    def _count(self, event: _Event, key: tuple[Any, ...], turn: dict[tuple[Any, ...], float]) -> None:
        row = self._rows.setdefault(
            key,
            {
                "tag": event.tag.decode(),
                "is_operator": key[0] == "operator",
                "holds_subgraph": key[0] == "operator" and event.tag in _HOLDERS,
                "subgraph": int(event.subgraph),
                "index": int(event.index),
                "count": 0,
            },
        )
        row["count"] += 1
        turn[key] = turn.get(key, 0.0) + event.elapsed_us


def _plain(request: dict[str, Any]) -> Interpreter:
    """Return the interpreter that people run the file in, ready to be invoked."""
    interpreter = Interpreter(model_path=request["model"], num_threads=request["threads"])
    signatures = interpreter.get_signature_list()
    if signatures:
        details = interpreter.get_signature_runner(next(iter(signatures))).get_input_details()
    else:
        details = {detail["name"]: detail for detail in interpreter.get_input_details()}
    arrays = np.load(request["arrays"])
    for name, detail in details.items():
        interpreter.resize_tensor_input(detail["index"], arrays[name].shape)
    interpreter.allocate_tensors()
    for name, detail in details.items():
        interpreter.set_tensor(detail["index"], arrays[name])
    return interpreter


def _measure(request: dict[str, Any]) -> dict[str, Any]:
    """Profile the file, and time it without the profiler, in turns; return what one call costs."""
    runtime, plain = _Runtime(request), _plain(request)
    for _ in range(_WARM_UP):
        runtime.run()
        plain.invoke()
    totals, plain_us = _Totals(), []
    end = time.perf_counter() + request["seconds"]
    while totals.calls < request["least_runs"] or time.perf_counter() < end:
        totals.add(runtime.profile(_CALLS_A_TURN))
        plain.invoke()  # Pays for the caches that the other one filled.
        for _ in range(_CALLS_A_TURN):
            begin = time.perf_counter_ns()
            plain.invoke()
            plain_us.append((time.perf_counter_ns() - begin) / 1e3)
    return {**totals.summary(), "plain_us": float(np.median(plain_us))}


def main() -> None:
    """Serve one request."""
    request = json.loads(sys.stdin.read())
    try:
        answer = _measure(request)
    except (RuntimeError, OSError, KeyError, AttributeError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    Path(request["reply"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
