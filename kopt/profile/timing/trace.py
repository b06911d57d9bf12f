"""Running TensorFlow's profiler round some steps, and reading what it recorded: threads with the operations in them."""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from kopt.core.errors import MeasurementError
from kopt.core.files import scratch_directory
from kopt.profile.timing.internals import profiler_session
from kopt.profile.timing.intervals import Interval

_STEP = "kopt.step"
# `name:Type`, as TensorFlow labels the run of a kernel. Its own bookkeeping has `Class::Function` or spaces.
_OPERATION = re.compile(r"([A-Za-z0-9.][\w.\\/>-]*):(_*[A-Z]\w*)")
_RECORD, _START, _STOP = (f"ThreadpoolListener::{word}" for word in ("Record", "StartRegion", "StopRegion"))
_ALLOCATION = "MemoryAllocation"
_PS_PER_US = 1e6


@dataclasses.dataclass(frozen=True)
class Operation:
    """A kernel that ran: name in the graph, type, and where."""

    name: str
    type: str
    device: str


@dataclasses.dataclass(frozen=True)
class Thread:
    """What ran in a thread of the processor or a stream of a device; keys are positions in `Trace.operations`."""

    name: str
    intervals: tuple[Interval, ...]


@dataclasses.dataclass(frozen=True)
class Trace:
    """What the profiler recorded of some steps; times in microseconds since the first one began.

    Attributes:
        steps: start and end of each.
        operations: every one that ran.
        threads: those in which something ran, by their names.
        allocated: bytes that the profiler saw each operation allocate, in all steps.
    """

    steps: tuple[tuple[float, float], ...]
    operations: tuple[Operation, ...]
    threads: tuple[Thread, ...]
    allocated: dict[int, int]


def record(step: Callable[[], Any], count: int) -> Trace:
    """Profile `count` calls of `step`.

    Raises:
        MeasurementError: a profiler is running in this process already; it goes on undisturbed.
    """
    try:
        with scratch_directory() as directory, profiler_session(directory) as collect:
            for number in range(count):
                with tf.profiler.experimental.Trace(_STEP, step_num=number):
                    step()
            space = collect()
    except tf.errors.AlreadyExistsError as error:
        raise MeasurementError(
            "A TensorFlow profiler is already running in this process, and there can be only one; it was left running. "
            "Let what started it (a `TensorBoard` callback with `profile_batch`, `tf.profiler.experimental.start`, a "
            "profiler server) come to its end, or end it with `tf.profiler.experimental.stop(save=False)`, as is "
            "needed after a callback that failed."
        ) from error
    return read(space)


def read(space: Any) -> Trace:
    """Turn an `XSpace` into a `Trace`.

    Raises:
        MeasurementError: it holds no steps.
    """
    reader = _Reader()
    for plane in space.planes:
        if plane.name.startswith("/host:"):
            for line in plane.lines:
                reader.host(plane, line)
        elif plane.name.startswith("/device:GPU"):
            for line in plane.lines:
                reader.device(plane, line)
    return reader.trace()


@dataclasses.dataclass(frozen=True)
class _Running:
    """An operation, by its key, or a piece of work that was handed to this thread, by the number of the region."""

    start: float
    end: float
    key: int | None = None
    region: int = 0


class _Reader:
    """Collects the events of all lines, then says which helper threads worked for which operation."""

    def __init__(self) -> None:
        self._numbers: dict[Operation, int] = {}
        self._threads: list[tuple[str, list[Interval], list[tuple[float, float, int]]]] = []
        self._owners: dict[int, _Running] = {}
        self._steps: list[tuple[float, float]] = []
        self._allocations: list[tuple[float, int, int]] = []

    def host(self, plane: Any, line: Any) -> None:
        """Read a thread of the processor, with what was running at each moment on a stack."""
        operations: list[Interval] = []
        regions: list[tuple[float, float, int]] = []
        stack: list[_Running] = []
        for event in sorted(_events(plane, line), key=lambda event: (event.start, -event.end)):
            while stack and stack[-1].end <= event.start:
                stack.pop()
            if event.name == _STEP:
                self._steps.append((event.start, event.end))
            elif event.name == _START:
                stack.append(_Running(event.start, math.inf, region=event.number("_c")))
            elif event.name == _STOP:
                regions.extend(_closed(stack, event.start))
            elif event.name == _RECORD and stack:
                self._owners[event.number("_p")] = stack[-1]
            elif event.name == _ALLOCATION and stack and stack[-1].key is not None:
                self._allocations.append((event.start, stack[-1].key, event.number("requested_bytes")))
            elif (match := _OPERATION.fullmatch(event.name)) is not None:
                key = self._number(Operation(match[1], match[2], "cpu"))
                operations.append(Interval(event.start, event.end, key))
                stack.append(_Running(event.start, event.end, key))
        self._threads.append((line.name or line.display_name, operations, regions))

    def device(self, plane: Any, line: Any) -> None:
        device = f"gpu:{plane.name.rpartition(':')[2]}"
        kernels = []
        for event in _events(plane, line):
            match = _OPERATION.fullmatch(event.text("tf_op"))
            if match is not None:
                key = self._number(Operation(match[1], match[2], device))
                kernels.append(Interval(event.start, event.end, key))
        self._threads.append((f"{device} {line.name or line.display_name}", kernels, []))

    def trace(self) -> Trace:
        if not self._steps:
            raise MeasurementError("The profiler recorded no step. Profile again, with fewer `steps`.")
        steps = sorted(self._steps)
        threads = []
        for name, operations, regions in self._threads:
            helpers = [
                Interval(start, stop, owner, helper=True)
                for start, stop, number in regions
                if (owner := self._owner(number)) is not None
            ]
            inside = tuple(_inside(sorted((*operations, *helpers), key=lambda one: (one.start, -one.end)), steps))
            if inside:
                threads.append((name, inside))
        allocated: dict[int, int] = {}
        for start, key, size in self._allocations:
            if _step_of(start, steps) is not None:
                allocated[key] = allocated.get(key, 0) + size
        return _from_zero(steps, tuple(self._numbers), threads, allocated)

    def _number(self, operation: Operation) -> int:
        return self._numbers.setdefault(operation, len(self._numbers))

    def _owner(self, region: int) -> int | None:
        """Follow the chain of helpers that called helpers; `None` where it began outside of an operation."""
        owner = self._owners.get(region)
        while owner is not None and owner.key is None:
            owner = self._owners.get(owner.region)
        return None if owner is None else owner.key


def _closed(stack: list[_Running], end: float) -> Iterator[tuple[float, float, int]]:
    """Yield the region that ends now, and take it off the stack with what stands above it."""
    open_regions = [place for place, running in enumerate(stack) if running.key is None]
    if open_regions:
        running = stack[open_regions[-1]]
        del stack[open_regions[-1] :]
        yield running.start, end, running.region


@dataclasses.dataclass(frozen=True)
class _Event:
    """One event, with times in picoseconds."""

    name: str
    start: int
    end: int
    stats: Any
    names: Any

    def number(self, name: str) -> int:
        value = self._value(name)
        return 0 if value is None else int(value)

    def text(self, name: str) -> str:
        value = self._value(name)
        return "" if value is None else str(value)

    def _value(self, name: str) -> Any:
        for stat in self.stats:
            if self.names[stat.metadata_id].name == name:
                kind = stat.WhichOneof("value")
                value = getattr(stat, kind)
                return self.names[value].name if kind == "ref_value" else value
        return None


def _events(plane: Any, line: Any) -> Iterator[_Event]:
    origin = line.timestamp_ns * 1000
    for event in line.events:
        start = origin + event.offset_ps
        name = plane.event_metadata[event.metadata_id].name
        yield _Event(name, start, start + event.duration_ps, event.stats, plane.stat_metadata)


def _step_of(moment: float, steps: list[tuple[float, float]]) -> tuple[float, float] | None:
    return next((step for step in steps if step[0] <= moment < step[1]), None)


def _inside(intervals: list[Interval], steps: list[tuple[float, float]]) -> Iterator[Interval]:
    for one in intervals:
        step = _step_of(one.start, steps)
        if step is not None:
            yield dataclasses.replace(one, end=min(one.end, step[1]))


def _from_zero(
    steps: list[tuple[float, float]],
    operations: tuple[Operation, ...],
    threads: list[tuple[str, tuple[Interval, ...]]],
    allocated: dict[int, int],
) -> Trace:
    def us(moment: float) -> float:
        return (moment - steps[0][0]) / _PS_PER_US

    counts: collections.Counter[str] = collections.Counter()
    moved = []
    for name, intervals in threads:
        short = name.partition("/")[0]
        counts[short] += 1
        shifted = (dataclasses.replace(one, start=us(one.start), end=us(one.end)) for one in intervals)
        moved.append(Thread(f"{short} {counts[short]}", tuple(shifted)))
    return Trace(tuple((us(start), us(end)) for start, end in steps), operations, tuple(moved), allocated)
