import asyncio
import threading

import numpy as np
import pytest

from kopt.core.errors import DeadlineError, OverloadedError, RequestError, ServerFailedError
from kopt.core.records.shipping.serving import ServerSettings
from kopt.serve.batcher import Batcher


def row(*values):
    return {"x": np.array(values, np.float32).reshape(-1, 1)}


def run(runner, requests, **settings):
    """Send requests at once; return the answers, errors in their places."""

    async def main():
        batcher = Batcher([runner], ServerSettings(**settings), lambda examples, seconds: None)
        answers = await asyncio.gather(*(batcher.predict(one) for one in requests), return_exceptions=True)
        await batcher.close()
        assert batcher.waiting == 0
        return answers

    return asyncio.run(main())


def values(answer):
    return answer["y"].ravel().tolist()


def test_requests_share_calls_and_each_gets_its_own_rows(function_runner):
    runner = function_runner(lambda x: x / 2 + 2)
    answers = run(runner, [row(1, 2), row(5), row(10, 20, 30)], max_batch_size=3, batch_wait_ms=50.0)
    assert [values(answer) for answer in answers] == [[2.5, 3.0], [4.5], [7.0, 12.0, 17.0]]
    assert runner.calls == [3, 3]  # 2 + 1 examples, then 3, which had found no room


def test_a_request_larger_than_a_batch_runs_alone_in_parts(function_runner):
    runner = function_runner(lambda x: x)
    (answer,) = run(runner, [row(*range(5))], max_batch_size=2, batch_wait_ms=0.0)
    assert values(answer) == [0, 1, 2, 3, 4]
    assert runner.calls == [2, 2, 1]


def test_only_equal_shapes_share_a_call(function_runner):
    runner = function_runner(lambda x: x.sum(axis=1, keepdims=True), shape=(None, None))
    wide = {"x": np.ones((1, 3), np.float32)}
    answers = run(runner, [row(1), wide, row(2)], batch_wait_ms=20.0)
    assert [values(answer) for answer in answers] == [[1], [3], [2]]
    assert sorted(runner.calls) == [1, 2]


def test_a_fixed_batch_is_filled_up_for_each_request(function_runner):
    runner = function_runner(lambda x: x, shape=(4, 1), fixed_batch=4)
    answers = run(runner, [row(1), row(2, 3)], batch_wait_ms=20.0)
    assert [values(answer) for answer in answers] == [[1], [2, 3]]
    assert runner.calls == [4, 4]


def test_a_request_that_fails_fails_alone(function_runner):
    def picky(x):
        if (x < 0).any():
            raise ZeroDivisionError
        return x

    answers = run(function_runner(picky), [row(1), row(-1), row(2)], batch_wait_ms=20.0)
    assert values(answers[0]) == [1]
    assert values(answers[2]) == [2]
    assert isinstance(answers[1], ServerFailedError)
    assert str(answers[1]) == "ZeroDivisionError while the request was run."


def test_outputs_without_an_example_axis_are_not_mixed_up(function_runner):
    # The mean of a batch is one row, whatever the batch: two requests that shared a call would get a wrong answer.
    runner = function_runner(lambda x: x.mean(axis=0, keepdims=True))
    answers = run(runner, [row(1), row(3)], batch_wait_ms=20.0)
    assert [values(answer) for answer in answers] == [[1], [3]]


def test_what_finds_no_room_is_refused_at_once_and_what_waits_is_answered(function_runner):
    begun, go_on = threading.Event(), threading.Event()

    def slow(x):
        begun.set()
        assert go_on.wait(30)
        return x

    async def main():
        batcher = Batcher([function_runner(slow)], ServerSettings(max_queue=3, batch_wait_ms=0.0), lambda *_: None)
        first = asyncio.ensure_future(batcher.predict(row(0)))
        await asyncio.get_running_loop().run_in_executor(None, begun.wait)
        waiting = [asyncio.ensure_future(batcher.predict(row(number))) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match=r"3 example\(s\) wait of at most 3"):
            await batcher.predict(row(4))
        go_on.set()
        answers = [values(await one) for one in (first, *waiting)]
        await batcher.close()
        return answers

    assert asyncio.run(main()) == [[0], [1], [2], [3]]


def test_a_request_that_is_late_is_told_so_and_never_run(function_runner):
    go_on = threading.Event()
    runner = function_runner(lambda x: x if go_on.wait(30) else None)

    async def main():
        batcher = Batcher([runner], ServerSettings(timeout_s=0.05, batch_wait_ms=0.0), lambda *_: None)
        answers = await asyncio.gather(batcher.predict(row(0)), batcher.predict(row(1)), return_exceptions=True)
        late = await asyncio.gather(batcher.predict(row(2)), return_exceptions=True)
        go_on.set()
        await batcher.close()
        return [*answers, *late]

    assert all(isinstance(answer, DeadlineError) for answer in asyncio.run(main()))
    assert sum(runner.calls) <= 2  # the two that had begun, never the third


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((1, 2), np.float32)}, r"needs float32 \(None, 1\)"),
        ({"x": np.zeros((0, 1), np.float32)}, "no example"),
        ({"z": np.zeros((1, 1), np.float32)}, "no input 'z'"),
        ({"x": np.zeros((9, 1), np.float32)}, r"may hold 8 example\(s\). Received: 9"),
        ({"x": np.array([["a"]], object)}, "without being told to"),
    ],
)
def test_requests_that_do_not_fit_never_reach_the_queue(function_runner, arrays, words):
    runner = function_runner(lambda x: x)
    (answer,) = run(runner, [arrays], max_examples=8)
    with pytest.raises(RequestError, match=words):
        raise answer
    assert runner.calls == []


def test_as_many_calls_run_at_once_as_there_are_runners(function_runner):
    meeting = threading.Barrier(2)

    def meet(x):
        meeting.wait(10)  # breaks unless two calls are inside at once
        return x * 2

    crew = [function_runner(meet), function_runner(meet)]

    async def main():
        batcher = Batcher(crew, ServerSettings(max_batch_size=1, batch_wait_ms=0.0), lambda examples, seconds: None)
        answers = await asyncio.gather(*(batcher.predict(row(number)) for number in range(6)))
        await batcher.close()
        return answers

    assert [values(answer) for answer in asyncio.run(main())] == [[2.0 * number] for number in range(6)]
    assert [len(runner.calls) for runner in crew] == [3, 3]


def test_a_runner_that_failed_works_on(function_runner):
    def fail_at_first(x):
        if x[0, 0] == 0:
            raise ValueError("zero")
        return x

    crew = [function_runner(fail_at_first)]

    async def main():
        batcher = Batcher(crew, ServerSettings(max_batch_size=1, batch_wait_ms=0.0), lambda examples, seconds: None)
        answers = await asyncio.gather(*(batcher.predict(row(n)) for n in range(3)), return_exceptions=True)
        await batcher.close()
        return answers

    failed, *others = asyncio.run(main())
    assert isinstance(failed, ServerFailedError)
    assert [values(answer) for answer in others] == [[1.0], [2.0]]
