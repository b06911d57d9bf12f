"""A chief with workers: those of this machine, which it starts, and those that join from others."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kopt.core.child_processes import ending, environment
from kopt.core.errors import WorkerLostError
from kopt.search.plan import Plan
from kopt.search.trials.bench import Bench
from kopt.search.tuning import outcomes
from kopt.search.tuning.course import Tuning, fill, tidy, time_used
from kopt.search.tuning.desk import failure
from kopt.search.tuning.environment import Role
from kopt.search.tuning.internals import Server, forget, quiet_messages
from kopt.search.tuning.outcomes import Outcome
from kopt.search.tuning.scores import SCORE
from kopt.search.tuning.tuner import SINGLE
from kopt.search.tuning.worker import FAILED, OUT_OF_TIME, OVER, beat_path, failure_of, failure_path, log_path

HERE = "127.0.0.1"
ANY_PORT = f"{HERE}:0"
_WORKER = "worker-"
_ANY_HOST = ("0.0.0.0", "[::]")
_LOOK_SECONDS = 0.2
# A worker beats every two seconds; the others' disks and clocks may be slow.
_LOST_SECONDS = 60.0
_MOST_RESTARTS, _TAIL_LINES, _END_SECONDS = 3, 15, 20.0


@dataclasses.dataclass(frozen=True)
class Workers:
    """Who works for a chief.

    Attributes:
        job: path of what they read.
        count: how many are started here.
        address: where the chief listens; the system chooses a port where it is 0.
        command: what to run; its arguments are the job and the seconds that are left, if they are limited.
    """

    job: Path
    count: int
    address: str = ANY_PORT
    command: tuple[str, ...] = (sys.executable, "-m", "kopt.search.tuning.worker")


def run_chief(tuning: Tuning, workers: Workers, bench: Bench, plan: Plan) -> tuple[str, tuple[str, ...]]:
    """Propose to workers until there are no more trials, and bring what they made to the bench."""
    del plan
    oracle = tuning.oracle()
    oracle.attach(tuning.place)
    for name in set(oracle.ongoing_trials) | set(oracle.tuner_ids):
        if _is_of_before(name, workers):
            oracle.leave(name)
    server = Server(oracle, workers.address)
    chief = _Chief(tuning, oracle, server, workers)
    oracle.closed, oracle.given_up = chief.closed, chief.given_up
    try:
        with quiet_messages():
            if not oracle.is_over:
                server.start()
                if not workers.count:
                    tuning.search.reporter.step(f"waits for workers at port {server.port}")
                chief.run()
    finally:
        chief.end()
        server.stop()
        forget(oracle)
    tidy(tuning, 0.0 if workers.address == ANY_PORT else _LOST_SECONDS)  # other machines may still be writing
    fill(bench, tuning)
    return tuning.ended(len(oracle.end_order), chief.closed()), tuning.notes


def _is_of_before(name: str, workers: Workers) -> bool:
    """Return whether a worker of an earlier call has this name, which nobody has now."""
    number = name.removeprefix(_WORKER)
    alone = workers.address == ANY_PORT  # others cannot join
    return name == SINGLE or (alone and not (number.isdigit() and int(number) < workers.count))


class _Chief:
    """Watches workers: starts again those of this machine that die, and gives out again what others leave behind."""

    def __init__(self, tuning: Tuning, oracle: Any, server: Server, workers: Workers):
        self._tuning, self._oracle, self._server, self._workers = tuning, oracle, server, workers
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._restarts: dict[str, int] = {}
        self._beats: dict[str, tuple[str, float]] = {}
        self._told = {one.number for one in outcomes.read(tuning.trials)}
        self._ended = ""

    def closed(self) -> str:
        """Return why no more trials begin."""
        return self._ended or time_used(self._tuning)

    def run(self) -> None:
        """Wait until all trials are over.

        Raises:
            WorkerLostError: all workers of this machine died again and again.
            KoptError: what a worker raised.
        """
        for number in range(self._workers.count):
            self._start(f"{_WORKER}{number}")
        while not self._server.is_over and not self._is_left():
            time.sleep(_LOOK_SECONDS)
            if self._server.failure is not None:
                raise self._server.failure
            self._tell()
            for name, process in list(self._processes.items()):
                if process.poll() is not None:
                    self._ended_with(name, process.returncode)
            self._watch()
        self._tell()

    def end(self) -> None:
        """End the workers of this machine, which are idle unless something went wrong."""
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()  # by which a worker ends
        for process in self._processes.values():
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def given_up(self, trial_id: str) -> dict[str, float]:
        """Note that a trial cost two workers their lives, and return what the oracle is told."""
        trial = self._oracle.trials[trial_id]
        recipe = self._tuning.space.recipe(trial.hyperparameters)
        reason = f"Two workers died while they ran it; logs: {self._tuning.place / 'workers'}."
        outcome = failure(int(trial_id), recipe, reason, "")
        outcomes.write(self._tuning.trials, outcome)
        return outcome.metrics

    def _is_left(self) -> bool:
        """Return whether the time is used up and nobody works any more, here or on another machine."""
        working = self._processes or self._oracle.ongoing_trials or self._oracle.tuner_ids
        return bool(self.closed() and not working)

    def _start(self, name: str) -> None:
        host = self._workers.address.rpartition(":")[0]
        role = Role(name, HERE if host in _ANY_HOST else host, self._server.port)
        left = self._tuning.search.given.limits.seconds_left()
        words = [str(self._workers.job), *([] if left is None else [str(max(left, 0.0))])]
        log_path(self._tuning.place, name).parent.mkdir(parents=True, exist_ok=True)
        failure_path(self._tuning.place, name).unlink(missing_ok=True)
        with open(log_path(self._tuning.place, name), "ab") as log:
            self._processes[name] = subprocess.Popen(
                [*self._workers.command, *words],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**environment(), **role.variables},
            )

    def _ended_with(self, name: str, code: int) -> None:
        process = self._processes.pop(name)
        assert process.stdin is not None
        process.stdin.close()
        if code == OVER:
            return
        if code == OUT_OF_TIME:
            self._oracle.leave(name)
            self._ended = self._ended or "The time that `seconds` allows was used up in the middle of a trial."
            return
        error = failure_of(self._tuning.place, name) if code == FAILED else None
        if error is not None:
            raise error
        self._restarts[name] = self._restarts.get(name, 0) + 1
        comes_back = self._restarts[name] <= _MOST_RESTARTS
        lost = self._oracle.lost(name, comes_back=comes_back)
        what = f"{name} died ({ending(code)})" + ("" if lost is None else f" in trial {int(lost) + 1}")
        self._tuning.search.reporter.step(f"{what}; {'it is started again' if comes_back else 'it stays away'}")
        if comes_back:
            self._start(name)
        elif not self._processes:
            log = log_path(self._tuning.place, name)
            tail = "\n".join(log.read_text(errors="replace").strip().splitlines()[-_TAIL_LINES:])
            raise WorkerLostError(f"All workers died, the last one, {name}, by {ending(code)}; log: {log}\n{tail}")

    def _watch(self) -> None:
        """Give out again what a worker of another machine had that has not been heard of for a minute."""
        oracle, now = self._oracle, time.monotonic()
        names = set(oracle.ongoing_trials) | set(oracle.tuner_ids)
        for name in names - set(self._processes):
            path = beat_path(self._tuning.place, name)
            beat = path.read_text() if path.is_file() else ""
            if self._beats.get(name, ("", 0.0))[0] != beat or name not in self._beats:
                self._beats[name] = (beat, now)
            elif now - self._beats[name][1] > _LOST_SECONDS:
                del self._beats[name]
                oracle.lost(name, comes_back=False)
                self._tuning.search.reporter.step(f"{name} was not heard of for {_LOST_SECONDS:g} s; others go on")

    def _tell(self) -> None:
        for one in outcomes.read(self._tuning.trials):
            if one.number not in self._told:
                self._told.add(one.number)
                self._ended = self._ended or one.ended
                self._tuning.search.reporter.step(_line(one))


def _line(one: Outcome) -> str:
    worth = f"score {one.metrics[SCORE]:.3f}" if one.status == outcomes.OK else one.status
    return f"trial {one.number + 1}, {one.worker or 'given up'}: {one.recipe.name}: {worth}"
