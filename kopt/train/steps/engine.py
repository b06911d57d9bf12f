"""What `fit` of an accelerated model and a training step for loops share: the step of a compiled model, traced once."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.core.records.training.steps import StepConfig
from kopt.train import internals
from kopt.train.memory.rematerialization import Rematerialized, check_blocks, rematerialized
from kopt.train.steps.runner import Runner
from kopt.train.steps.update import Update

_MOST_KEPT = 4

Remat = str | int | Sequence[str] | None


class Engine:
    """Makes and keeps what runs the steps of a model.

    Attributes:
        model: compiled; its optimizer, loss and metrics are used.
        config: how steps treat gradients; setting another one drops what was traced.
        runner: what ran the steps last; `None` before.
        rematerialized: what is computed again; `None` if nothing is.
    """

    def __init__(self, model: keras.Model, config: StepConfig, remat: Remat = None, body: keras.Model | None = None):
        """Make nothing yet.

        Args:
            model: the compiled one.
            config: of its steps.
            remat: see `kopt.train.rematerialized`.
            body: the model whose layers `remat` names, if `model` is a wrapper around it.
        """
        if remat is not None:
            check_blocks(remat, "remat")
        self.model, self.remat = model, remat
        self.runner: Runner | None = None
        self.rematerialized: Rematerialized | None = None
        self._config = config
        self._body = body or model
        self._update: Update | None = None
        self._kept: list[Runner] = []

    @property
    def config(self) -> StepConfig:
        """How steps treat gradients."""
        return self._config

    @config.setter
    def config(self, config: StepConfig) -> None:
        if config != self._config:
            self._config = config
            self.forget()

    @property
    def has_update(self) -> bool:
        """Whether a step was made since `forget`."""
        return self._update is not None

    def forget(self) -> None:
        """Drop what was traced and accumulated: the model is compiled anew."""
        self._update = self.runner = None
        self._kept = []

    def runner_for(self, spec: Any, first_batch: Any) -> Runner:
        """Return what runs steps on such batches; traced once for each kind of batch.

        Args:
            spec: `element_spec` of the batches that are to come.
            first_batch: one of them; what is not built is built on it.
        """
        internals.build_on(self.model, first_batch)
        if self._update is None or not self._update.fits(self.model):
            self.rematerialized = None if self.remat is None else rematerialized(self._body, self.remat)
            forward = self._recomputing if self.rematerialized else None
            self._update, self._kept = Update(self.model, self._config, forward), []
        return self._use(lambda runner: runner.accepts(spec, first_batch), spec, first_batch)

    def _recomputing(self, x: Any) -> Any:
        assert self.rematerialized is not None  # for the type checker
        with self.rematerialized.active():
            return call(self.model, x, True)

    def runner_for_batch(self, batch: Any) -> Runner:
        """Return what runs single steps on batches like this one, of any size.

        Another axis that turns out to vary, such as the length of sequences, is open from then on.
        """
        spec = tf.nest.map_structure(_any_size, batch)
        if self._update is None or not self._update.fits(self.model):
            return self.runner_for(spec, batch)
        for runner in self._kept:
            spec = runner.opened(spec) or spec
        return self._use(lambda runner: runner.spec == spec, spec, batch)

    def _use(self, suits: Callable[[Runner], bool], spec: Any, batch: Any) -> Runner:
        """Return a runner that was made before and suits, or a new one; the newest few are kept with their graphs."""
        assert self._update is not None  # for the type checker
        self.runner = next(filter(suits, self._kept), None) or Runner(self._update, spec, batch)
        self._kept = [self.runner, *(one for one in self._kept if one is not self.runner)][:_MOST_KEPT]
        return self.runner


def call(model: keras.Model, inputs: Any, training: bool | None) -> Any:
    """Return `model(inputs, training=training)`, also of a model whose `call` knows no `training`."""
    return model(inputs, training=training) if internals.call_takes_training(model) else model(inputs)


def packed(x: Any, y: Any = None, sample_weight: Any = None) -> tuple[Any, ...]:
    """Return a batch of tensors as Keras unpacks it.

    Raises:
        ConfigError: weights without targets, which Keras would read as targets.
    """
    if y is None and sample_weight is not None:
        raise ConfigError("`sample_weight` weights the loss of targets. Pass `y` with it.")
    parts = (part for part in (x, y, sample_weight) if part is not None)
    return tuple(tf.nest.map_structure(_as_tensor, part) for part in parts)


def require_plain_training(model: Any) -> None:
    """Make sure that a model is trained the way Keras trains models.

    Raises:
        UnsupportedModelError: it is no Keras 3 model, or overrides `train_step` or `fit`.
    """
    received = f"{type(model).__module__}.{type(model).__qualname__}"
    if not isinstance(model, keras.Model):
        raise UnsupportedModelError(
            f"A Keras 3 model is needed. Received: {received}. Open a file with `kopt.load_model`."
        )
    # A model with callbacks of its own overrides `fit` to add them, and so does `accelerate`.
    replaced = ("train_step",) if hasattr(model, "own_callbacks") else ("train_step", "fit")
    overridden = [name for name in replaced if getattr(type(model), name) is not getattr(keras.Model, name)]
    if overridden:
        raise UnsupportedModelError(
            f"{received} overrides `{overridden[0]}`, so its training is not known. Override `compute_loss` and "
            f"`compute_metrics` instead, which are honored."
        )


def _as_tensor(value: Any) -> Any:
    return value if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)) else tf.convert_to_tensor(value)


def _any_size(tensor: Any) -> tf.TypeSpec:
    if isinstance(tensor, tf.RaggedTensor):
        return tf.RaggedTensorSpec([None] * tensor.shape.rank, tensor.dtype, tensor.ragged_rank)
    if isinstance(tensor, tf.SparseTensor):
        return tf.SparseTensorSpec([None, *tensor.shape[1:]], tensor.dtype)
    return tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype)
