"""The base of optimizers that wrap another one."""

from typing import Any

import keras

from kopt.core.errors import ConfigError, LoadError

_OWNER = "_kopt_wrapped"


class OptimizerWrapper(keras.optimizers.Optimizer):
    """An optimizer that hands everything to `inner_optimizer` and adds something of its own.

    Clipping, weight decay, `use_ema`, gradient accumulation and the learning rate stay settings of the inner optimizer,
    as they do under `keras.optimizers.LossScaleOptimizer`, which goes outside. All variables are saved and loaded with
    the model. Subclasses override `prepare`, and `apply` or the functions they hook into the inner optimizer.
    """

    def __init__(self, inner_optimizer: Any, *, name: str | None = None):
        inner = _checked(inner_optimizer)
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner
        object.__setattr__(inner, _OWNER, True)

    def prepare(self, variables: list[keras.Variable]) -> None:
        """Add the state of this wrapper for the trainable `variables`."""

    def build(self, variables: Any) -> None:
        """Create the state of the inner optimizer and of this one."""
        if self.built:
            return
        variables = list(variables)
        self.inner_optimizer.build(variables)
        self.prepare(variables)
        super().build(variables)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Update the variables."""
        self.build_for(trainable_variables)
        self.inner_optimizer.apply(grads, trainable_variables)

    def build_for(self, trainable_variables: Any) -> None:
        """Build on the first call of `apply`, as every Keras optimizer does."""
        if not self.built and trainable_variables is not None:
            self.build(trainable_variables)

    @property
    def variables(self) -> list[keras.Variable]:
        """Own variables, then those of the inner optimizer."""
        inner = getattr(self, "inner_optimizer", None)
        return super().variables + (inner.variables if inner is not None else [])

    @property
    def iterations(self) -> Any:
        """Updates made so far."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the inner optimizer, which can be set as there."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.inner_optimizer.learning_rate = value

    @property
    def loss_scale_factor(self) -> float | None:
        """The fixed loss scale of the inner optimizer; `LossScaleOptimizer` sets it to `None`."""
        inner = getattr(self, "inner_optimizer", None)
        return inner.loss_scale_factor if inner is not None else None

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: float | None) -> None:
        inner = getattr(self, "inner_optimizer", None)
        if inner is not None:
            inner.loss_scale_factor = value

    def scale_loss(self, loss: Any) -> Any:
        """Scale the loss as the inner optimizer wants it."""
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: Any) -> None:
        """Do what the inner optimizer does at the end of `fit`."""
        self.inner_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Exclude variables from the weight decay of the inner optimizer."""
        self.inner_optimizer.exclude_from_weight_decay(var_list=var_list, var_names=var_names)

    def set_weights(self, weights: Any) -> None:
        """Set own variables and those of the inner optimizer, in the order of `variables`."""
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)

    def save_own_variables(self, store: Any) -> None:
        """Store the variables of this wrapper; Keras stores those of the inner optimizer beside them."""
        for i, variable in enumerate(super().variables):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` stored.

        Raises:
            LoadError: the file holds another number of variables.
        """
        own = super().variables
        if len(store.keys()) != len(own):
            raise LoadError(
                f"{type(self).__name__} {self.name!r} has {len(own)} variables of its own; the file has "
                f"{len(store.keys())}. Wrap the optimizer as it was when the file was written."
            )
        for i, variable in enumerate(own):
            variable.assign(store[str(i)])

    def get_config(self) -> dict[str, Any]:
        """Return the name and the inner optimizer as Keras serializes it; subclasses add their arguments."""
        return {"name": self.name, "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "OptimizerWrapper":
        """Return the optimizer that `get_config` describes, without its state."""
        inner = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects=custom_objects)
        rest = {key: value for key, value in config.items() if key != "inner_optimizer"}
        return cls(inner, **rest)


def chain(optimizer: Any) -> list[Any]:
    """Return `optimizer` and the optimizers wrapped in it, outermost first."""
    found = [optimizer]
    while (inner := getattr(found[-1], "inner_optimizer", None)) is not None:
        found.append(inner)
    return found


def find(optimizer: Any, kind: type) -> Any:
    """Return the outermost optimizer of class `kind` in the chain of `optimizer`, or `None`."""
    return next((link for link in chain(optimizer) if isinstance(link, kind)), None)


def _checked(optimizer: Any) -> keras.optimizers.Optimizer:
    found = optimizer
    if isinstance(optimizer, (str, dict)):
        found = keras.optimizers.get(optimizer)
    if not isinstance(found, keras.optimizers.Optimizer):
        kind = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        raise ConfigError(f"`inner_optimizer` must be a Keras optimizer. Received: {optimizer!r} ({kind}).")
    if isinstance(found, keras.optimizers.LossScaleOptimizer):
        raise ConfigError(
            "Loss scaling goes outside: pass the optimizer inside of the LossScaleOptimizer, then wrap the result, "
            "`keras.optimizers.LossScaleOptimizer(wrapper)`. `compile` does so itself for a mixed_float16 model."
        )
    if hasattr(found, "optimizers"):
        raise ConfigError(
            f"{type(found).__name__} hands its variables to several optimizers; wrap those, one by one, before they "
            f"are put into it."
        )
    if getattr(found, _OWNER, False):
        raise ConfigError(f"The optimizer {found.name!r} is wrapped already. Make a new one for this wrapper.")
    return found
