"""The loop of `AcceleratedModel.fit`: epochs, callbacks, validation and checkpoints round calls of many steps."""

import functools
import math
import sys
import time
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, LoadError
from kopt.core.settings import number, whole
from kopt.train import internals
from kopt.train.acceleration.checkpoints import Checkpointing, Checkpoints, Position, Saved
from kopt.train.distribution.strategies import watching
from kopt.train.interception import with_own_callbacks
from kopt.train.memory.estimate import explain_out_of_memory
from kopt.train.steps.engine import Engine
from kopt.train.steps.input_checks import check_inputs
from kopt.train.steps.label_checks import require_numbers
from kopt.train.steps.nonfinite import diverged
from kopt.train.steps.runner import Progress

_VALIDATION_STEPS = 32


class Fit:
    """One call of `fit`, with the arguments of `keras.Model.fit` and three more.

    `engine` runs the steps, `checkpoint` says where and how often to save, `fixed_steps` how many steps a call of the
    graph takes (`None`: as many as measurements suggest).
    """

    def __init__(
        self,
        engine: Engine,
        x: Any,
        y: Any,
        *,
        checkpoint: Checkpointing | None,
        fixed_steps: int | None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ):
        """Bring the data into batches; nothing runs yet."""
        sizes = {"batch_size": batch_size, "steps_per_epoch": steps_per_epoch, "validation_steps": validation_steps}
        for name, value in {**sizes, "validation_batch_size": validation_batch_size}.items():
            if value is not None:
                whole(name, value)
        if validation_split and number("validation_split", validation_split, least=0.0, most=1.0) == 1.0:
            raise ConfigError("`validation_split` is a share below 1. Received: 1.0, which leaves nothing to train on.")
        for array in tf.nest.flatten(y):
            if isinstance(array, np.ndarray):
                require_numbers(array, "Targets")
        self._engine, self._model = engine, engine.model
        self._checkpoint, self._given_steps = checkpoint, fixed_steps
        self.notes: tuple[str, ...] = ()
        self._strategy = self._model.distribute_strategy
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = internals.split_validation((x, y, sample_weight), validation_split)
        self._data = internals.EpochData(
            self._strategy,
            x=x,
            y=y,
            sample_weight=sample_weight,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            # A data set or generator brings its own order, and Keras warns when it is asked for one.
            shuffle=shuffle and not isinstance(x, tf.data.Dataset) and not hasattr(x, "__next__"),
            class_weight=class_weight,
        )
        self._validation = self._validation_data(validation_data, validation_batch_size or batch_size, validation_steps)
        self._validation_steps, self._validation_freq = validation_steps, validation_freq
        self._steps_per_epoch, self._epochs = steps_per_epoch, epochs
        self._given, self._verbose = x, verbose
        self._initial_epoch = initial_epoch
        self._callbacks = keras.callbacks.CallbackList(
            with_own_callbacks(self._model, callbacks),
            add_history=True,
            add_progbar=verbose != 0,
            verbose=verbose,
            epochs=epochs,
            steps=self._data.batches,
            model=self._model,
        )
        self._iterator: Any = None
        self._drawn = 0
        self._taken = self._skipped = 0
        self._saved_at = time.monotonic()
        self._unsaved_steps = 0

    def run(self) -> keras.callbacks.History:
        """Train, and return the history."""
        settings = (self._model.steps_per_execution, self._model.test_function)
        self._model.stop_training = False
        try:
            with watching(self._strategy):
                self._train()
        except tf.errors.ResourceExhaustedError as error:
            raise explain_out_of_memory(
                error, self._model, self._example, accumulate_steps=self._engine.config.accumulate_steps
            ) from error
        finally:
            if self._model.steps_per_execution != settings[0]:
                self._model.steps_per_execution, self._model.test_function = settings
        return self._model.history

    def _train(self) -> None:
        first = self._begin()
        saved = self._checkpoints.newest(self._strategy) if self._checkpoints else None
        self._callbacks.on_train_begin()
        self._first_epoch = internals.first_epoch(self._model, self._initial_epoch)
        position = Position(self._first_epoch, 0)
        if saved is not None:
            first, position = None, self._resume(saved)
        elif int(self._update.pending.numpy()):
            self._update.drop()  # of a training that was interrupted
        logs: dict[str, Any] | None = None
        for epoch in range(position.epoch, self._epochs):
            logs = self._epoch(epoch, position.step if epoch == position.epoch else 0, first)
            first = None
            if self._model.stop_training:
                break
        if self._epochs > 0:  # an average of no step at all would be put in the place of the weights
            self._model.optimizer.finalize_variable_values(self._model.trainable_weights)
        self._callbacks.on_train_end(logs)
        if self._checkpoints:
            self._checkpoints.discard()
        skipped = int(sum(self._model.history.history.get("skipped_steps", ())))
        if skipped:
            note = (
                f"{skipped} batches were left out because their loss or a gradient was NaN or infinite. Pass one of "
                f"them to `kopt.train.locate_nonfinite` to see where."
            )
            self.notes = (*self.notes, note)
            self._say(note)

    def _begin(self) -> Any:
        """Draw the first batch, hold it against the model, build what is not built, trace the step."""
        self._data.begin()
        self._new_iterator()
        first = next(self._iterator, None)
        if first is None:
            raise DataError("The data has no batches. Pass at least one example.")
        self._drawn = 1
        if not self._model.built:
            internals.build_on(self._model, first)
        self._check(first)
        self._runner = self._engine.runner_for(self._iterator.element_spec, first)
        self._update = self._runner.update
        self._example = first
        self._checkpoints = self._make_checkpoints()
        return first

    def _check(self, first: Any) -> None:
        """Hold the first batch against the model; what is worth saying is said and kept in `notes`."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(internals.without_optionals(first))
        self.notes = check_inputs(
            self._model,
            x,
            y,
            sample_weight,
            batches=self._data.batches,
            steps_per_epoch=self._steps_per_epoch,
            steps_per_execution=self._given_steps,
            accumulate_steps=self._engine.config.accumulate_steps,
            dataset=self._given if isinstance(self._given, tf.data.Dataset) else None,
            look_at_outputs=not self._engine.has_update,
        ).notes
        self._say(*self.notes)

    def _say(self, *notes: str) -> None:
        for note in notes if self._verbose else ():
            sys.stdout.write(f"Note: {note}\n")

    def _make_checkpoints(self) -> Checkpoints | None:
        config = self._checkpoint
        if config is None:
            return None
        model = self._model
        variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables, *self._update.variables]
        unique = list({id(variable): variable for variable in variables}.values())
        return Checkpoints(config, unique, self._callbacks.callbacks)

    def _resume(self, saved: Saved) -> Position:
        """Go to where a checkpoint is."""
        assert self._checkpoints is not None
        if saved.drawn and None not in (saved.batches, self._data.batches) and saved.batches != self._data.batches:
            raise LoadError(
                f"{saved.path} stands at batch {saved.drawn} of data that has {saved.batches} batches an epoch, and "
                f"this data has {self._data.batches}. Go on with the same data in batches of the same size, or remove "
                f"the checkpoint to begin anew."
            )
        self._checkpoints.restore(saved)
        self._model.history.history = {key: list(values) for key, values in saved.history.items()}
        self._model.history.epoch = list(range(self._first_epoch, saved.position.epoch))
        if saved.has_iterator and (self._steps_per_epoch or saved.created > self._data.created):
            # To restore makes an iterator, too. That one has to be of the right number where the state of a shuffle is
            # not in the checkpoint because all of it was read ahead.
            self._data.go_to(saved.created - 1)
            self._checkpoints.restore_iterator(saved, self._iterator)
            self._data.created, self._drawn = saved.created, saved.drawn
            return saved.position
        iterator, drawn = self._data.go_to(saved.created), self._drawn
        if iterator is not None:
            self._iterator, drawn = iterator, 0
        while drawn < saved.drawn:
            if next(self._iterator, None) is None:
                raise DataError(f"The data ends before the {saved.drawn} batches that {saved.path} has taken.")
            drawn += 1
        self._drawn = saved.drawn
        return saved.position

    def _epoch(self, epoch: int, step: int, first: Any) -> dict[str, Any]:
        if step == 0:
            self._model.reset_metrics()
            self._update.reset_counts()
        self._callbacks.on_epoch_begin(epoch)
        if step == 0 and first is None:
            self._data.begin()
            if self._steps_per_epoch is None:
                self._new_iterator()
        self._steps(epoch, step, first)
        self._data.end()
        logs = self._with_skipped(internals.as_numbers(self._runner.flush()))
        if self._validation is not None and internals.validates(self._model, epoch, self._validation_freq):
            logs.update({f"val_{name}": value for name, value in self._validate(self._validation).items()})
        self._callbacks.on_epoch_end(epoch, logs)
        self._save(Position(epoch + 1, 0))
        return logs

    def _steps(self, epoch: int, step: int, first: Any) -> None:
        """Take the batches of an epoch from `step` on."""
        total = self._steps_per_epoch or self._data.batches
        while total is None or step < total:
            self._callbacks.on_train_batch_begin(step)
            ahead = None if total is None else (self._epochs - epoch) * total - step
            if first is not None:
                progress, first = self._first_call(first, total, step, ahead), None
            else:
                progress = self._runner.run(self._iterator, self._call(total, step), ahead)
                self._drawn += progress.taken
            if not progress.taken:
                if self._steps_per_epoch:
                    self._out_of_data(epoch, step, self._steps_per_epoch)
                break
            step += progress.taken
            self._taken, self._skipped = step, progress.skipped
            self._callbacks.on_train_batch_end(step - 1, self._with_skipped(progress.logs))
            if progress.in_a_row >= self._engine.config.max_nonfinite_steps:
                self._diverged(epoch, step, progress.in_a_row)
            if self._model.stop_training:
                break
            self._save_now_and_then(Position(epoch, step), progress.taken)

    def _first_call(self, first: Any, total: int | None, step: int, ahead: int | None) -> Progress:
        """Take the batch that was looked at, and as many more as a call has where that is fixed."""
        progress = self._runner.take(first, ahead)
        more = self._call(total, step) - 1 if self._given_steps else 0
        following = self._runner.run(self._iterator, more, ahead) if more > 0 else None
        if following is None or not following.taken:
            return progress
        self._drawn += following.taken
        return following._replace(taken=following.taken + 1)

    def _call(self, total: int | None, step: int) -> int:
        if total is None and self._runner.distributed:
            return 1
        steps = self._fixed_steps or self._runner.steps_per_call()
        return steps if total is None else min(steps, total - step)

    @functools.cached_property
    def _fixed_steps(self) -> int | None:
        """Steps in a call, if that is not for a measurement to say."""
        if self._given_steps:
            return self._given_steps
        # Workers wait for each other at the end of a call, so its length must not depend on what one of them measured.
        if self._several_workers or any(observes_batches(callback) for callback in self._callbacks.callbacks):
            return 1
        return None

    @property
    def _several_workers(self) -> bool:
        return isinstance(self._strategy, tf.distribute.MultiWorkerMirroredStrategy)

    def _new_iterator(self) -> None:
        self._iterator, self._drawn = self._data.iterator(), 0

    def _out_of_data(self, epoch: int, step: int, total: int) -> None:
        warnings.warn(
            f"The data ended after {step} of the {total} steps of epoch {epoch + 1}; the next epoch begins anew. Use "
            f"`dataset.repeat()` or a smaller `steps_per_epoch`.",
            stacklevel=2,
        )
        self._new_iterator()

    def _with_skipped(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Add the count of skipped steps, from the first one on; earlier epochs had none.

        A mean over no step at all is NaN, lest a callback take the 0 of it for the best loss.
        """
        history = self._model.history.history
        if self._skipped and self._skipped >= self._taken:
            logs = dict.fromkeys(logs, math.nan)
        if self._skipped and "skipped_steps" not in history:
            history["skipped_steps"] = [0] * len(self._model.history.epoch)
        return {**logs, "skipped_steps": self._skipped} if "skipped_steps" in history else dict(logs)

    def _diverged(self, epoch: int, step: int, in_a_row: int) -> None:
        """Raise, with the first place that is not finite."""
        place = f"step {step} of epoch {epoch + 1}"
        raise diverged(self._model, self._runner.last_batch(), in_a_row, place)

    def _validate(self, validation: internals.EpochData) -> dict[str, float]:
        """Evaluate as `fit` does, with several steps a call."""
        model = self._model
        batches = self._validation_steps or validation.batches
        steps = self._given_steps or min(_VALIDATION_STEPS, batches or _VALIDATION_STEPS)
        if model.steps_per_execution != steps:
            model.steps_per_execution, model.test_function = steps, None
        with warnings.catch_warnings():
            # Keras warns when data of unknown length ends, which is no mistake here.
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            return model.evaluate(
                validation.dataset, steps=batches, callbacks=self._callbacks, return_dict=True, verbose=0
            )

    def _validation_data(self, given: Any, batch_size: int | None, steps: int | None) -> internals.EpochData | None:
        if given is None:
            return None
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(given)
        return internals.EpochData(
            self._strategy,
            x=x,
            y=y,
            sample_weight=sample_weight,
            batch_size=batch_size,
            steps_per_epoch=steps,
            shuffle=False,
        )

    def _save_now_and_then(self, position: Position, taken: int) -> None:
        if self._checkpoints is None:
            return
        config = self._checkpoints.config
        self._unsaved_steps += taken
        long_ago = config.every_seconds is not None and time.monotonic() - self._saved_at >= config.every_seconds
        many = config.every_steps is not None and self._unsaved_steps >= config.every_steps
        if many or (long_ago and not self._several_workers):
            self._save(position)

    def _save(self, position: Position) -> None:
        if self._checkpoints is None:
            return
        # After the last batch the next epoch begins a new iterator, unless epochs are parts of one stream.
        between = self._steps_per_epoch is None and position.step in (0, self._data.batches)
        iterator, drawn = (None, 0) if between else (self._iterator, self._drawn)
        self._checkpoints.save(
            position,
            self._model.history.history,
            iterator,
            drawn=drawn,
            created=self._data.created,
            batches=self._data.batches,
        )
        self._saved_at, self._unsaved_steps = time.monotonic(), 0


def observes_batches(callback: keras.callbacks.Callback) -> bool:
    """Return whether a callback does something after single batches, so that several in one call would hide some.

    Those of Keras that follow epochs unless told otherwise, and those of kopt, which reckon with several, do not.
    """
    if type(callback).__module__.startswith("kopt."):
        return False
    frequency = getattr(callback, "save_freq", getattr(callback, "update_freq", "epoch"))
    is_of_keras = type(callback).__module__.startswith("keras.")
    if is_of_keras and not isinstance(callback, keras.callbacks.LambdaCallback):
        return frequency != "epoch"
    if (
        isinstance(callback, (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore))
        and frequency != "epoch"
    ):
        return True  # a class of the user's own that inherits from these
    hooks = [
        getattr(callback, name)
        for name in ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
    ]
    return any(not hook.__module__.startswith("keras.") for hook in hooks)
