"""Training that goes on after a kill: everything that the next step depends on, on disk, whole or not at all."""

import dataclasses
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, LoadError
from kopt.core.files import atomic_path, remove_leftovers
from kopt.core.serialization import Record
from kopt.core.settings import number, whole
from kopt.train import internals

_log = logging.getLogger("kopt.train")
_NAME = re.compile(r"checkpoint-(\d{6})-(\d{9})")
_ABSENT = object()
_STATE, _VARIABLES, _ITERATOR, _ARRAYS = "state.json", "variables", "iterator", "callbacks.npz"


@dataclasses.dataclass(frozen=True)
class Checkpointing(Record):
    """Where and how often training is saved.

    Saved are weights, optimizer, metrics, accumulated gradients, seed generators, the position in the data with its
    shuffle state, the counters of callbacks, and the states of Python's and NumPy's generators; at the end of an epoch
    and in between as asked for. `fit` with the same directory goes on from the newest, and removes it when it is done.

    The data goes on exactly where it was when the pipeline can be saved by TensorFlow (arrays, and `tf.data` without
    Python functions). Otherwise, and within the first epoch, the batches that were taken are drawn again and thrown
    away, which is exact for an order that a seed fixes. How often the data was begun is counted, for epochs that ended.

    Attributes:
        directory: of the checkpoints; under `tf.distribute` over several machines, each worker has a folder in it.
        every_steps: also save when so many batches have been taken since the last; `None` does not.
        every_seconds: also save when so many seconds have passed; `None` does not. Not with several workers, whose
            clocks differ.
        keep: newest checkpoints that stay, at least 1.

    Example:
        >>> often = kopt.train.Checkpointing("checkpoints", every_steps=100, keep=3)
        >>> fast = kopt.train.accelerate(model, checkpoint=often)
        >>> history = fast.fit(x_train, y_train, epochs=2, verbose=0)  # started again after a kill, it goes on
        >>> fast.checkpoint.every_steps
        100
    """

    directory: str
    every_steps: int | None = None
    every_seconds: float | None = 300.0
    keep: int = 2

    def __post_init__(self) -> None:
        whole("keep", self.keep)
        if self.every_steps is not None:
            whole("every_steps", self.every_steps)
        if self.every_seconds is not None:
            number("every_seconds", self.every_seconds, least=0.0)

    @classmethod
    def of(cls, value: "Checkpointing | str | os.PathLike[str] | None") -> "Checkpointing | None":
        """Return the settings that an argument stands for: a path means the defaults."""
        if value is None or isinstance(value, Checkpointing):
            return value
        if not isinstance(value, (str, os.PathLike)):
            raise ConfigError(
                f"`checkpoint` must be a directory, or `kopt.train.Checkpointing(directory, ...)`. Received: {value!r}."
            )
        return cls(os.fspath(value))


@dataclasses.dataclass(frozen=True, order=True)
class Position:
    """Where training stands: batches `step` of epoch `epoch` (both counted from 0) are taken."""

    epoch: int
    step: int


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint that was found.

    Attributes:
        history: values by key, of the epochs that ended.
        has_iterator: whether the iterator was saved.
        drawn: batches that were taken from it.
        created: iterators over the data that the training has made.
        batches: of the data in an epoch; `None` if that was unknown.
    """

    path: Path
    position: Position
    history: dict[str, list[float]]
    has_iterator: bool
    drawn: int
    created: int
    batches: int | None


class Checkpoints:
    """The checkpoints of one training."""

    def __init__(self, config: Checkpointing, variables: Sequence[Any], callbacks: Sequence[keras.callbacks.Callback]):
        """Look into the directory; nothing is written yet.

        Args:
            config: where and how often.
            variables: Keras or TensorFlow variables that training changes, always in the same order.
            callbacks: before the training begins; of their plain attributes those that it changes are kept, so that a
                setting that is given anew holds.
        """
        self.config = config
        self._settings = [dict(vars(callback)) for callback in callbacks]
        self._variables = [v.value if isinstance(v, keras.Variable) else v for v in variables]
        self._callbacks = list(callbacks)
        self._directory = Path(config.directory) / _worker_folder()
        self._warned = False

    def save(
        self,
        position: Position,
        history: dict[str, list[float]],
        iterator: Any,
        *,
        drawn: int,
        created: int,
        batches: int | None,
    ) -> None:
        """Write a checkpoint and remove the oldest ones.

        Args:
            position: where training stands.
            history: values by key, of the epochs that ended.
            iterator: over the data; `None` if its state is of no use any more.
            drawn: batches taken from it, in case that it cannot be saved.
            created: iterators over the data that the training has made.
            batches: of the data in an epoch, if that is known.

        Raises:
            OutputError: the directory cannot be written.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._directory)
        path = self._directory / f"checkpoint-{position.epoch:06d}-{position.step:09d}"
        plain, arrays = _callback_state(self._callbacks, self._settings)
        with atomic_path(path, overwrite=True) as staged:
            staged.mkdir()
            self._tracked().write(str(staged / _VARIABLES))
            saved = iterator is not None and _save_iterator(iterator, staged / _ITERATOR)
            state = {
                "epoch": position.epoch,
                "step": position.step,
                "history": {key: [float(value) for value in values] for key, values in history.items()},
                "variables": self._described(),
                "has_iterator": saved,
                "drawn": drawn,
                "created": created,
                "batches": batches,
                "callbacks": plain,
                "python_random": random.getstate(),
                "numpy_random": [
                    value.tolist() if isinstance(value, np.ndarray) else value for value in np.random.get_state()
                ],
            }
            (staged / _STATE).write_text(json.dumps(state))
            np.savez(staged / _ARRAYS, **arrays)  # type: ignore[arg-type]  # It may be `allow_pickle`, for mypy.
        if iterator is not None and not saved and not self._warned:
            self._warned = True
            _log.warning(
                "The position in the data cannot be saved, because the pipeline runs Python code. After a kill, "
                "batches that were taken are drawn again and thrown away; a shuffle without a seed has another order "
                "then."
            )
        for old in self._found()[: -self.config.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def newest(self, strategy: tf.distribute.Strategy) -> Saved | None:
        """Return the newest checkpoint, of several workers the newest that all have; `None` if there is none.

        Raises:
            LoadError: it was made by another model, optimizer or setting, or it is damaged.
        """
        found = self._found()
        position = _agreed(_position(found[-1]) if found else Position(-1, -1), strategy)
        path = next((path for path in found if _position(path) == position), None)
        if path is None:
            return None
        state = self._state(path)
        if state["variables"] != self._described():
            raise LoadError(
                f"{path} was saved by a training with other variables ({len(state['variables'])}; this one has "
                f"{len(self._variables)}). {_difference(state['variables'], self._described())} Use another directory, "
                f"or remove it to begin anew."
            )
        numbers = (state["has_iterator"], state["drawn"], state["created"], state.get("batches"))
        return Saved(path, position, state["history"], *numbers)

    def restore(self, saved: Saved) -> None:
        """Put back variables, callbacks and the states of Python's and NumPy's generators."""
        self._tracked().read(str(saved.path / _VARIABLES)).assert_consumed()
        state = self._state(saved.path)
        with np.load(saved.path / _ARRAYS, allow_pickle=False) as arrays:
            _restore_callbacks(self._callbacks, state["callbacks"], arrays)
        version, internal, gauss = state["python_random"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, *rest = state["numpy_random"]
        np.random.set_state((name, np.array(keys, np.uint32), *rest))

    def restore_iterator(self, saved: Saved, iterator: Any) -> None:
        """Put an iterator over the same data where the saved one was."""
        tf.train.Checkpoint(iterator=iterator).read(str(saved.path / _ITERATOR)).assert_consumed()

    def discard(self) -> None:
        """Remove the checkpoints: training is done."""
        for path in self._found():
            shutil.rmtree(path, ignore_errors=True)

    def _found(self) -> list[Path]:
        if not self._directory.is_dir():
            return []
        return sorted(path for path in self._directory.iterdir() if _NAME.fullmatch(path.name))

    def _tracked(self) -> tf.train.Checkpoint:
        return tf.train.Checkpoint(variables=self._variables)

    def _described(self) -> list[list[Any]]:
        return [[list(variable.shape), variable.dtype.name] for variable in self._variables]

    def _state(self, path: Path) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((path / _STATE).read_text())
        except (OSError, ValueError) as error:
            raise LoadError(f"{path} is no whole checkpoint ({error}). Remove it to use an older one.") from error
        return state


def _difference(saved: list[list[Any]], ours: list[list[Any]]) -> str:
    for index, (one, other) in enumerate(zip(saved, ours, strict=False)):
        if one != other:
            return f"Variable {index} has {one[1]} {tuple(one[0])} there, {other[1]} {tuple(other[0])} here."
    return ""


def _position(path: Path) -> Position:
    match = _NAME.fullmatch(path.name)
    assert match is not None  # Only such names are listed.
    return Position(int(match[1]), int(match[2]))


def _worker_folder() -> str:
    """Return `worker-<index>` in a job of several workers: each has its own share of the data."""
    task = json.loads(os.environ.get("TF_CONFIG") or "{}").get("task", {})
    return f"{task['type']}-{task['index']}" if task else ""


def _agreed(position: Position, strategy: tf.distribute.Strategy) -> Position:
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return position

    def oldest(context: Any) -> tf.Tensor:
        del context
        return tf.constant([position.epoch, position.step])

    values = strategy.gather(strategy.experimental_distribute_values_from_function(oldest), axis=0)
    return min(Position(int(epoch), int(step)) for epoch, step in values.numpy().reshape(-1, 2))


def _save_iterator(iterator: Any, path: Path) -> bool:
    """Write the state of an iterator if TensorFlow can; return whether it could."""
    try:
        tf.train.Checkpoint(iterator=iterator).write(str(path))
    except (tf.errors.FailedPreconditionError, tf.errors.UnimplementedError, ValueError, NotImplementedError):
        return False
    return True


def _callback_state(
    callbacks: Sequence[Any], settings: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return plain attributes by callback, and arrays by `<index>/<attribute>` or `<index>/<attribute>/<position>`.

    Attributes that are as in `settings`, from before the training, are left out.
    """
    plain: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for index, callback in enumerate(callbacks):
        kept: dict[str, Any] = {"class": type(callback).__qualname__, "plain": {}, "lists": {}}
        kept["monitors"] = internals.monitors(callback)
        for key, value in vars(callback).items():
            if value is None or isinstance(value, (bool, int, float, str)):
                before = settings[index].get(key, _ABSENT)
                if type(value) is not type(before) or value != before:
                    kept["plain"][key] = value
            elif isinstance(value, (np.ndarray, np.generic)):
                arrays[f"{index}/{key}"] = np.asarray(value)
            elif isinstance(value, list) and value and all(isinstance(item, np.ndarray) for item in value):
                kept["lists"][key] = len(value)
                arrays.update({f"{index}/{key}/{place}": item for place, item in enumerate(value)})
        plain.append(kept)
    return plain, arrays


def _restore_callbacks(callbacks: Sequence[Any], plain: list[dict[str, Any]], arrays: Any) -> None:
    names = [type(callback).__qualname__ for callback in callbacks]
    if names != [kept["class"] for kept in plain]:
        raise LoadError(
            f"The training was saved with the callbacks {[kept['class'] for kept in plain]}. Received: {names}. Pass "
            f"the same callbacks in the same order, or remove the checkpoint to begin anew."
        )
    for index, (callback, kept) in enumerate(zip(callbacks, plain, strict=True)):
        if kept["monitors"]:
            internals.begin_monitoring(callback)
        for key, value in kept["plain"].items():
            setattr(callback, key, value)
        for key, length in kept["lists"].items():
            setattr(callback, key, [arrays[f"{index}/{key}/{place}"] for place in range(length)])
        for name in arrays.files:
            owner, key, *place = name.split("/")
            if owner == str(index) and not place:
                setattr(callback, key, arrays[name] if arrays[name].ndim else arrays[name].item())
