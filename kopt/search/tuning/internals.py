"""The parts of keras-tuner 1.4.8 that its public API does not give; the only file that uses them.

What is mended here, each seen in that release:

- its files are written in place, so that a kill in the middle leaves half of one: here they are whole or absent;
- after a restart, trials that others still work on are given out a second time, and one whose file is newer than that
  of the oracle, which is written after it, is neither given out again nor counted as ended;
- a space counts as exhausted after 20 draws in a row that were tried before, where others are left;
- a worker that dies keeps its trial and its place for ever, so that the chief never ends;
- an error inside an oracle leaves its lock closed, so that every later call waits for ever;
- a worker that asks when others still work is sent home, so that nobody is left for what those lose;
- a call that is under way when the chief dies ends the worker.

`tests/unit/search/test_tuning_internals.py` fails when a release changes one of them.
"""

import contextlib
import functools
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus
from keras_tuner.src import protos
from keras_tuner.src.distribute.oracle_chief import OracleServicer
from keras_tuner.src.distribute.oracle_client import OracleClient
from keras_tuner.src.engine import conditions
from keras_tuner.src.engine import oracle as oracle_module

from kopt.core.errors import WorkerLostError
from kopt.core.files import atomic_write
from kopt.search.tuning.environment import cannot_listen

_CALLS = ("GetSpace", "UpdateSpace", "CreateTrial", "UpdateTrial", "EndTrial", "GetTrial", "GetBestTrials")
_ENDED = (TrialStatus.COMPLETED, TrialStatus.FAILED)
_MOST_LOSSES, _MOST_COLLISIONS = 2, 1000
_RETRY_SECONDS, _PAUSE_SECONDS = 600.0, 1.0


class Kept:
    """Goes before a class of oracles: what is on disk is whole, and no trial is lost or given out twice.

    Attributes:
        losses: how often the worker of a trial died, by trial.
        closed: why no more trials begin; empty as long as they do.
        given_up: called with the number of a trial that cost the last of its workers.
    """

    trials: dict[str, Trial]
    ongoing_trials: dict[str, Trial]
    tuner_ids: set[str]
    start_order: list[str]
    end_order: list[str]
    max_trials: int | None
    _retry_queue: list[str]

    def __init__(self, *args: Any, **settings: Any):
        self.losses: dict[str, int] = {}
        self.closed: Callable[[], str] = str
        self.given_up: Callable[[str], Mapping[str, float]] = lambda trial_id: {}
        super().__init__(*args, **settings)
        self._max_collisions = _MOST_COLLISIONS

    def attach(self, directory: Path) -> None:
        """Say where the files are, and go on from what they hold."""
        self._set_project_dir(str(directory.parent), directory.name)  # type: ignore[attr-defined]
        self.verbose = 0
        if Path(self._get_oracle_fname()).is_file():  # type: ignore[attr-defined]
            self.reload()

    def save(self) -> None:
        """Write the state of the oracle, in one step."""
        state = json.dumps(self.get_state())
        atomic_write(self._get_oracle_fname(), state, overwrite=True)  # type: ignore[attr-defined]

    def _save_trial(self, trial: Trial) -> None:
        folder = Path(self._get_trial_dir(trial.trial_id))  # type: ignore[attr-defined]
        atomic_write(folder / "trial.json", json.dumps(trial.get_state()), overwrite=True)

    def get_state(self) -> dict[str, Any]:
        """Return the state, with the losses."""
        return {**super().get_state(), "losses": self.losses}  # type: ignore[misc]

    def set_state(self, state: dict[str, Any]) -> None:
        """Take a state, of trials whose files are all there."""
        lost = [one for one, trial_id in state["ongoing_trials"].items() if trial_id not in self.trials]
        for tuner_id in lost:
            del state["ongoing_trials"][tuner_id]
        super().set_state(state)  # type: ignore[misc]
        self.losses = dict(state["losses"])
        self._held = dict(self.ongoing_trials)

    def reload(self) -> None:
        """Go on from the files: who works on a trial keeps it, and what nobody works on is given out again."""
        super().reload()  # type: ignore[misc]
        for trial_id, trial in sorted(self.trials.items()):
            self._record_values(trial)  # type: ignore[attr-defined]
            if trial_id not in self.start_order:
                self.start_order.append(trial_id)
            if trial.status in _ENDED and trial_id not in self.end_order:
                self.end_order.append(trial_id)
        held = {trial.trial_id for trial in self._held.values() if trial.status == TrialStatus.RUNNING}
        self.ongoing_trials = {name: trial for name, trial in self._held.items() if trial.trial_id in held}
        unfinished = [one for one, trial in sorted(self.trials.items()) if trial.status == TrialStatus.RUNNING]
        self._retry_queue[:] = [one for one in reversed(unfinished) if one not in held]

    def create_trial(self, tuner_id: str) -> Trial:
        """Return the next trial of a worker; one whose trial is not finished gets it again."""
        with exclusive(self):
            if self.closed() and tuner_id not in self.ongoing_trials:
                self.tuner_ids.discard(tuner_id)
                return Trial(keras_tuner.HyperParameters(), trial_id="", status=TrialStatus.STOPPED)
            trial: Trial = super().create_trial(tuner_id)  # type: ignore[misc]
            if trial.status == TrialStatus.RUNNING:
                trial.metrics = type(trial.metrics)()  # of an attempt that did not end
            elif trial.status == TrialStatus.STOPPED and self.ongoing_trials:
                self.tuner_ids.add(tuner_id)  # it may be needed for what another one loses
                trial.status = TrialStatus.IDLE
            return trial

    def end_trial(self, trial: Trial) -> None:
        """Note that a trial ended; a second time it is known already."""
        with exclusive(self):
            if trial.trial_id not in self.end_order:
                super().end_trial(trial)  # type: ignore[misc]
            self._retry_queue[:] = [one for one in self._retry_queue if one != trial.trial_id]
            self.ongoing_trials = {
                name: one for name, one in self.ongoing_trials.items() if one.trial_id != trial.trial_id
            }

    def lost(self, tuner_id: str, *, comes_back: bool) -> str | None:
        """Note that a worker died, and return the trial that it had, if any.

        The trial waits for the worker that comes back under the same name, or for any other; one that cost two workers
        their lives is given up.
        """
        with exclusive(self):
            trial = self.ongoing_trials.get(tuner_id)
            if not comes_back:
                self.tuner_ids.discard(tuner_id)
            if trial is None:
                return None
            self.losses[trial.trial_id] = self.losses.get(trial.trial_id, 0) + 1
            if self.losses[trial.trial_id] >= _MOST_LOSSES:
                self._give_up(trial)
            elif not comes_back:
                del self.ongoing_trials[tuner_id]
                self._retry_queue.append(trial.trial_id)
            self.save()
            return str(trial.trial_id)

    @property
    def is_over(self) -> bool:
        """Whether all trials that may be made have ended."""
        most = self.max_trials
        return most is not None and len(self.end_order) >= most and not self.ongoing_trials

    def leave(self, tuner_id: str) -> None:
        """Take a trial from a worker that stopped of its own accord; it is given out again where trials go on."""
        with exclusive(self):
            self.tuner_ids.discard(tuner_id)
            trial = self.ongoing_trials.pop(tuner_id, None)
            if trial is not None:
                self._retry_queue.append(trial.trial_id)
                self.save()

    def _give_up(self, trial: Trial) -> None:
        self.update_trial(trial.trial_id, self.given_up(trial.trial_id))  # type: ignore[attr-defined]
        trial.status = TrialStatus.COMPLETED
        self.end_trial(trial)


@contextlib.contextmanager
def exclusive(oracle: Any) -> Iterator[None]:
    """Keep other threads out of an oracle, as its own methods do, and let them in again after an error."""
    thread = oracle_module.threading.current_thread().name
    if oracle_module.THREADS[oracle] == thread:
        yield
        return
    with oracle_module.LOCKS[oracle]:
        oracle_module.THREADS[oracle] = thread
        try:
            yield
        finally:
            oracle_module.THREADS[oracle] = None


def forget(oracle: Any) -> None:
    """Drop what keras-tuner keeps of an oracle for the life of the process."""
    oracle_module.LOCKS.pop(oracle, None)
    oracle_module.THREADS.pop(oracle, None)


class Server:
    """Serves an oracle to workers.

    Args:
        oracle: with `Kept`.
        address: host and port, e.g. `"127.0.0.1:0"`; with port 0 the system chooses one.

    Attributes:
        port: that it listens on.
        failure: what went wrong inside a call; the oracle's files may not say what happened since.

    Raises:
        ConfigError: something else listens there, or the address is none of this machine.
    """

    def __init__(self, oracle: Any, address: str):
        self.oracle = oracle
        self.failure: BaseException | None = None
        # By default two servers share a port, and each gets half of the calls.
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=1), options=[("grpc.so_reuseport", 0)])
        self._servicer = _Servicer(oracle, self._failed)
        protos.get_service_grpc().add_OracleServicer_to_server(self._servicer, self._server)
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise cannot_listen(address) from error

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def stop(self) -> None:
        """Answer what is under way, and nothing more."""
        self._server.stop(grace=2.0).wait()

    @property
    def is_over(self) -> bool:
        """Whether a worker was told that there is nothing left, and nobody works on anything."""
        oracle = self.oracle
        return bool(self._servicer.stop_triggered) and not oracle.ongoing_trials and not oracle.tuner_ids

    def _failed(self, error: BaseException) -> None:
        self.failure = error


class _Servicer(OracleServicer):
    """Answers calls, and notes what goes wrong in them."""

    def __init__(self, oracle: Any, failed: Callable[[BaseException], None]):
        super().__init__(oracle)
        self.failed = failed


def _guarded(name: str) -> Callable[..., Any]:
    inherited = getattr(OracleServicer, name)

    @functools.wraps(inherited)
    def answer(self: _Servicer, request: Any, context: Any) -> Any:
        try:
            with exclusive(self.oracle):
                return inherited(self, request, context)
        except Exception as error:
            self.failed(error)
            raise

    return answer


for _name in _CALLS:
    setattr(_Servicer, _name, _guarded(_name))


class _Patient:
    """The calls of a worker, tried again while the chief is away: each may be made twice without harm."""

    def __init__(self, stub: Any):
        self._stub = stub

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._stub, name)

        def patiently(*args: Any, **settings: Any) -> Any:
            until = time.monotonic() + _RETRY_SECONDS
            while True:
                try:
                    return call(*args, **settings)
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > until:
                        raise WorkerLostError(
                            f"The chief of the tuning does not answer ({error.code().name}): {error.details()}. Start "
                            f"it again with the same arguments; then start this worker again."
                        ) from error
                    time.sleep(_PAUSE_SECONDS)

        return patiently


def wait_for_chief(tuner: Any) -> None:
    """Let a tuner that is a worker outlive its chief."""
    if isinstance(tuner.oracle, OracleClient):
        tuner.oracle.stub = _Patient(tuner.oracle.stub)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what is printed while the block lasts."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def quiet_messages() -> Iterator[None]:
    """Keep keras-tuner from printing a line for every condition that it sends; other prints stay."""
    conditions.print = lambda *_: None
    try:
        yield
    finally:
        del conditions.print
