"""Models that carry masks: Functional and Sequential models as they were, with the masks as one more part."""

import functools
import warnings
from typing import Any

import keras

from kopt.core.errors import ConfigError
from kopt.core.pruning_records import Pattern
from kopt.graph import copy_model, copy_subclassed, copy_weights, owned_variables
from kopt.graph.internals import FunctionalModel, graph_of, inner_layers, own_variables, serializing_in_memory, unlocked
from kopt.graph.rewrite import copy_names
from kopt.prune.masks import Masks
from kopt.prune.schedules import Schedule, highest_sparsity
from kopt.train.interception import with_own_callbacks

_KEY = "kopt_pruning"


class PrunedModel:
    """What a model with masks adds: it saves and loads them, and looks at the schedule before it trains."""

    pruning: Masks

    def put_under_masks(self, paths: list[str], targets: list[float], pattern: Pattern, schedule: Schedule) -> None:
        """Add masks of ones for the variables at `paths`."""
        self.pruning = Masks(self, paths, targets, pattern, schedule)

    def get_config(self) -> dict[str, Any]:
        """Return the config of the model, and how it is pruned."""
        return {**super().get_config(), _KEY: self._how(list(self.pruning.paths))}  # type: ignore[misc]

    def _how(self, variables: list[Any]) -> dict[str, Any]:
        masks = self.pruning
        return {
            "variables": variables,
            "targets": list(masks.targets),
            "pattern": masks.pattern.to_json(indent=None),
            "schedule": keras.saving.serialize_keras_object(masks.schedule),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make the model, with masks of ones; Keras fills them in as it does the weights."""
        config = dict(config)
        how = config.pop(_KEY)
        model = super().from_config(config, custom_objects=custom_objects)  # type: ignore[misc]
        _put_under_masks(model, how["variables"], how)
        return model

    def without_masks(self) -> keras.Model:
        """Return a copy of the model as it was before it had masks, with the weights of now."""
        return copy_model(self)

    def fit(self, *args: Any, callbacks: Any = None, **settings: Any) -> Any:
        """See `keras.Model.fit`; a schedule that would prune nothing in this training is an error before it."""
        return super().fit(*args, callbacks=with_own_callbacks(self, callbacks), **settings)  # type: ignore[misc]

    def own_callbacks(self) -> list[keras.callbacks.Callback]:
        """Return the callbacks that any `fit` of this model should have."""
        return [_LengthCheck(self.pruning)]


def is_pruned(model: keras.Model) -> bool:
    """Return whether a model carries masks."""
    return isinstance(model, PrunedModel)


def _put_under_masks(model: Any, paths: list[str], how: dict[str, Any]) -> None:
    schedule = keras.saving.deserialize_keras_object(how["schedule"])
    model.put_under_masks(paths, how["targets"], Pattern.from_json(how["pattern"]), schedule)


class _LengthCheck(keras.callbacks.Callback):
    """Compares the length of a training with the schedule."""

    def __init__(self, masks: Masks):
        super().__init__()
        self._masks = masks

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse a training in which nothing would be pruned, and warn of one that ends too early."""
        steps, masks = self.params.get("steps"), self._masks
        if steps is None or masks.pattern.granularity == "n:m":
            return
        total, done = steps * self.params["epochs"], int(masks.step.numpy())
        final = masks.schedule.final_sparsity
        pruned = any(not mask.numpy().all() for mask in masks.masks)
        reached = highest_sparsity(masks.schedule, done + 1, done + total + 1)
        if reached == 0.0 and not pruned and final > 0:
            raise ConfigError(
                f"The schedule {masks.schedule!r} prunes nothing in this training, which takes {total} steps from step "
                f"{done + 1} on. Let it begin earlier, with a smaller `frequency`, or train longer."
            )
        if 0.0 < reached < 0.99 * final and _goes_on(masks.schedule, done + total + 2):
            warnings.warn(
                f"This training of {total} steps ends at a sparsity of {reached:.3f}; {masks.schedule!r} leads to "
                f"{final:.3f}.",
                stacklevel=2,
            )


def _goes_on(schedule: Schedule, step: int) -> bool:
    return schedule.end >= step


@keras.saving.register_keras_serializable("kopt")
class PrunedFunctional(PrunedModel, FunctionalModel):
    """A Functional model with masks."""


@keras.saving.register_keras_serializable("kopt")
class PrunedSequential(PrunedModel, keras.Sequential):
    """A Sequential model with masks."""


@keras.saving.register_keras_serializable("kopt")
class PrunedSubclassed(PrunedModel):
    """A model whose `call` is Python code, with masks.

    An object of the user's class gets a class derived from both. It is saved under the name of this one, with what
    Keras saves of the user's class inside, which is looked up as ever when the file is opened.
    """

    _bare: dict[str, Any]

    def put_under_masks(self, paths: list[str], targets: list[float], pattern: Pattern, schedule: Schedule) -> None:
        """Add masks of ones for the variables at `paths`."""
        with unlocked(self):
            super().put_under_masks(paths, targets, pattern, schedule)

    def get_config(self) -> dict[str, Any]:
        """Return the model without masks, and how it is pruned: by the places of variables, whose names may change."""
        places = {one.path: place for place, one in enumerate(owned_variables(self))}
        return {"model": self._bare, _KEY: self._how([places[path] for path in self.pruning.paths])}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make the model, with masks of ones; Keras fills them in as it does the weights."""
        model = _with_room(keras.saving.deserialize_keras_object(config["model"], custom_objects))
        owned, how = owned_variables(model), config[_KEY]
        _put_under_masks(model, [owned[place].path for place in how["variables"]], how)
        return model

    def without_masks(self) -> keras.Model:
        """Return an object of the user's class with the weights of now."""
        kind = type(self).__bases__[1]
        plain = keras.saving.deserialize_keras_object(self._bare, custom_objects={kind.__name__: kind})
        ours: list[Any] = [layer for layer in inner_layers(self) if layer is not self.pruning]
        for one, other in zip(ours, inner_layers(plain), strict=True):
            copy_weights(one, other)
            copy_names(one, other)
        held = zip(own_variables(self), own_variables(plain), strict=True)
        for variable, twin in held:
            twin.assign(variable)
        plain.built = True
        return plain


def copy_with_room(model: keras.Model) -> Any:
    """Return a copy of a model, of a class that takes masks.

    Raises:
        UnsupportedModelError: a layer or a subclassed model does not rebuild from its config.
    """
    if graph_of(model) is None:
        return _with_room(copy_subclassed(model))
    return copy_model(model, functional=PrunedFunctional, sequential=PrunedSequential)


def _with_room(model: keras.Model) -> Any:
    """Return a subclassed model itself, made an object of a class that takes masks."""
    with serializing_in_memory():
        bare = keras.saving.serialize_keras_object(model)
    kind: Any = type(model)
    model.__class__ = _class_with_masks(kind)
    object.__setattr__(model, "_bare", bare)
    return model


@functools.cache
def _class_with_masks(kind: type[keras.Model]) -> type[Any]:
    made = type(f"Pruned{kind.__name__}", (PrunedSubclassed, kind), {})
    register = keras.saving.register_keras_serializable("kopt", PrunedSubclassed.__name__)
    register(made)
    register(PrunedSubclassed)  # the name stands for this one where a file is opened, whatever class is in it
    return made
