"""Requests that arrive together share one call of the runtime; what finds no room is refused at once."""

import asyncio
import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kopt.core.errors import DataError, DeadlineError, KoptError, OverloadedError, RequestError, ServerFailedError
from kopt.core.records.shipping.serving import ServerSettings
from kopt.measure import Runner
from kopt.measure.feeding import convert, examples, match

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(eq=False)
class _Job:
    """A request in the queue: its arrays, how many examples, and what it may share a call with."""

    arrays: Arrays
    count: int
    kind: tuple[Any, ...]
    arrived: float
    answer: asyncio.Future[dict[str, np.ndarray]]


class Batcher:
    """The queue before the runners of one model. All methods but the runners' own run in the event loop.

    Every runner has one call at a time, in a thread of its own; what arrives meanwhile makes the next one. The first of
    a batch waits `batch_wait_ms` for company. If a call of several requests fails, each runs alone, so that one request
    that the model cannot digest fails no other.

    Args:
        crew: runners of the same model, as many as calls may run at once; one may be in it several times if it takes
            calls from several threads.
        settings: limits.
        observe: takes examples and seconds of every call.
    """

    def __init__(self, crew: Sequence[Runner], settings: ServerSettings, observe: Callable[[int, float], None]):
        self.runner = runner = crew[0]
        self.waiting = 0
        self._settings = settings
        self._observe = observe
        self._jobs: collections.deque[_Job] = collections.deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._idle: asyncio.Queue[Runner] = asyncio.Queue()
        for one in crew:
            self._idle.put_nowait(one)
        self._calls: set[asyncio.Task[None]] = set()
        self._threads = concurrent.futures.ThreadPoolExecutor(len(crew), thread_name_prefix=f"kopt-serve-{runner.name}")
        self._task = asyncio.get_running_loop().create_task(self._work())
        self._shares = _is_batchable(runner)

    async def predict(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """Return the outputs by name for one request.

        Args:
            arrays: inputs by name, the examples on the first axis.

        Raises:
            RequestError: shapes or types that do not fit, or too many examples.
            OverloadedError: the queue is full.
            DeadlineError: no answer in `timeout_s`.
            ServerFailedError: the runtime failed.
        """
        job = self._job(arrays)
        settings = self._settings
        if self.waiting and self.waiting + job.count > settings.max_queue:
            raise queue_is_full(self.waiting, settings)
        self._jobs.append(job)
        self.waiting += job.count
        self._wake.set()
        try:
            return await asyncio.wait_for(job.answer, settings.timeout_s)
        except asyncio.TimeoutError:
            raise DeadlineError(f"The request was not answered in {settings.timeout_s:g} s.") from None

    async def close(self) -> None:
        """Answer what waits, then stop."""
        self._closing = True
        self._wake.set()
        await self._task
        await asyncio.gather(*self._calls)
        self._threads.shutdown()

    def _job(self, arrays: Arrays) -> _Job:
        inputs, most = self.runner.inputs, self._settings.max_examples
        try:
            named = match(inputs, dict(arrays))
            count = examples(inputs, named)
            if count > most:
                raise RequestError(f"A request may hold {most} example(s). Received: {count}. Send them in parts.")
            converted = {info.name: convert(info, named[info.name]) for info in inputs}
        except DataError as error:
            raise RequestError(str(error)) from error
        loop = asyncio.get_running_loop()
        kind = tuple(array.shape[1:] for array in converted.values())
        return _Job(converted, count, kind, loop.time(), loop.create_future())

    async def _work(self) -> None:
        while True:
            while not self._jobs:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
            runner = await self._idle.get()
            await self._company()
            jobs = self._take()
            call = asyncio.get_running_loop().create_task(self._call(runner, jobs))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, runner: Runner, jobs: list[_Job]) -> None:
        """Answer the jobs, then let the runner take others."""
        try:
            if jobs:
                await self._answer(runner, jobs)
        finally:
            self._idle.put_nowait(runner)

    async def _company(self) -> None:
        """Wait until a batch is full or its first request has waited long enough."""
        loop = asyncio.get_running_loop()
        end = self._jobs[0].arrived + self._settings.batch_wait_ms / 1e3
        while self._shares and self.waiting < self._settings.max_batch_size and not self._closing:
            left = end - loop.time()
            if left <= 0:
                return
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), left)
            except asyncio.TimeoutError:
                return

    def _take(self) -> list[_Job]:
        """Take the first request and, in order, those that fit into its call; drop those that nobody waits for."""
        taken: list[_Job] = []
        left: collections.deque[_Job] = collections.deque()
        size = 0
        for job in self._jobs:
            fits = not taken or (
                self._shares and job.kind == taken[0].kind and size + job.count <= self._settings.max_batch_size
            )
            if job.answer.done():
                self.waiting -= job.count
            elif fits:
                taken.append(job)
                size += job.count
                self.waiting -= job.count
            else:
                left.append(job)
        self._jobs = left
        return taken

    async def _answer(self, runner: Runner, jobs: list[_Job]) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        call = loop.run_in_executor(self._threads, self._run, runner, jobs)
        outcome: list[Any] = await asyncio.gather(call, return_exceptions=True)
        result = outcome[0]
        self._observe(sum(job.count for job in jobs), loop.time() - start)
        if isinstance(result, BaseException) and len(jobs) > 1:
            for job in jobs:
                await self._answer(runner, [job])
            return
        for number, job in enumerate(jobs):
            if job.answer.done():
                continue
            if isinstance(result, BaseException):
                job.answer.set_exception(_as_serving_error(result))
            else:
                job.answer.set_result(result[number])

    def _run(self, runner: Runner, jobs: list[_Job]) -> list[dict[str, np.ndarray]]:
        """Run one call for several requests and give each its rows. In the runner's thread."""
        total = sum(job.count for job in jobs)
        arrays = jobs[0].arrays if len(jobs) == 1 else _joined([job.arrays for job in jobs])
        size = self._settings.max_batch_size
        outputs = runner.predict(dict(arrays), batch_size=runner.fixed_batch or size)
        named = outputs if isinstance(outputs, dict) else {runner.outputs[0].name: outputs}
        if len(jobs) == 1:
            return [named]
        if any(not array.ndim or len(array) != total for array in named.values()):
            raise ServerFailedError(f"An output of {runner.name} does not have its examples on the first axis.")
        ends = np.cumsum([job.count for job in jobs])
        return [
            {name: array[end - job.count : end] for name, array in named.items()}
            for job, end in zip(jobs, ends, strict=True)
        ]


def queue_is_full(waiting: int, settings: ServerSettings) -> OverloadedError:
    """Return the error that says so."""
    return OverloadedError(
        f"The batch scheduling queue is full: {waiting} example(s) wait of at most {settings.max_queue}. Try "
        "again later."
    )


def _is_batchable(runner: Runner) -> bool:
    """Return whether examples of several requests can go into one call: all tensors have an open batch axis."""
    return runner.fixed_batch is None and all(
        info.shape and info.shape[0] is None for info in (*runner.inputs, *runner.outputs)
    )


def _joined(parts: list[Arrays]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _as_serving_error(error: BaseException) -> BaseException:
    # What a graph refuses about its inputs (an image that is none, an index out of range) is the request's fault.
    if isinstance(error, DataError) or type(error.__cause__).__name__ == "InvalidArgumentError":
        return RequestError(str(error))
    if isinstance(error, KoptError):
        return ServerFailedError(str(error))
    return ServerFailedError(f"{type(error).__name__} while the request was run.")
