"""Models whose weights stay in a set, such as zeros under a mask or values of a codebook, however they are trained.

A `WeightConstraint` is the state of such a set. It belongs to the model, is saved with it, and holds whenever an
optimizer changes the weights: Keras optimizers apply the constraints of all variables after their update.
"""

import abc
import copy
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import InputError
from kopt.graph import OwnedVariable, copy_model, copy_subclassed, copy_weights, owned_variables
from kopt.graph.additions import AddedState, Addition, add
from kopt.graph.internals import (
    CountsOwnLayers,
    FunctionalModel,
    flatten_layers,
    graph_of,
    inner_layers,
    mark_called,
    own_training,
    own_variables,
    serializing_in_memory,
    unlocked,
)
from kopt.train.held_weights import HoldsWeights

_KEY = "kopt_weight_constraints"


class ConstrainedUpdate:
    """The constraint of a variable; the one that was there before goes first."""

    def __init__(self, owner: "WeightConstraint", place: int):
        """Stand for the variable at `place` of `owner`."""
        self.owner, self.place = owner, place

    def __call__(self, variable: Any) -> tf.Tensor:
        """Return what an optimizer has made of the variable, as it has to be."""
        return self.owner.constrain(self.place, variable)


class WeightConstraint(AddedState):
    """What holds for some variables of a model, and the state it needs.

    Attributes:
        attribute: of the model, under which the constraint is found and saved.
        paths: of the variables, as `kopt.graph.owned_variables` has them.
        owned: the variables with their layers.
    """

    attribute: ClassVar[str]
    owned: tuple[OwnedVariable, ...]
    _before: tuple[Any, ...]

    def __init__(self, model: keras.Model, paths: Sequence[str]):
        """Constrain variables of `model`.

        Raises:
            InputError: a path is not in the model.
        """
        super().__init__(name=self.attribute, trainable=False, dtype="float32")
        owned = {one.path: one for one in owned_variables(model)}
        missing = [path for path in paths if path not in owned]
        if missing:
            raise InputError(f"The model {model.name!r} has no variables {', '.join(missing)}.")
        self.paths = tuple(paths)
        # Past Keras, which would count the variables of the model as those of this layer.
        object.__setattr__(self, "owned", tuple(owned[path] for path in paths))
        object.__setattr__(self, "_before", tuple(one.variable.constraint for one in self.owned))
        for place, one in enumerate(self.owned):
            one.variable.constraint = ConstrainedUpdate(self, place)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Give back what comes in: the optimizer applies the constraint."""
        return inputs

    @abc.abstractmethod
    def constrain(self, place: int, variable: Any) -> tf.Tensor:
        """Return the updated `variable`, the one at `place`, as it has to be."""

    @abc.abstractmethod
    def constrained(self, place: int, values: np.ndarray) -> np.ndarray:
        """Return values of the variable at `place` as they have to be, without a change of the state."""

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the arguments after `model`, as JSON has them."""

    @classmethod
    def from_settings(cls, model: keras.Model, settings: dict[str, Any]) -> "WeightConstraint":
        """Return the constraint of `settings`, in its first state; Keras fills in the saved one as it does weights."""
        return cls(model, **settings)

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Return the callbacks that any `fit` of the model should have."""
        return []

    @property
    def unfinished(self) -> str:
        """What is still to come as training goes on; empty if nothing but the weights will change."""
        return ""

    def apply(self) -> None:
        """Bring back variables that have been changed past the optimizer, e.g. by an average of weights."""
        for place, one in enumerate(self.owned):
            one.variable.assign(self.constrained(place, one.variable.numpy()))

    def state(self, name: str, **settings: Any) -> keras.Variable:
        """Return a new variable of the constraint, the same on all replicas."""
        return self.add_weight(name=name, trainable=False, aggregation="only_first_replica", **settings)

    def constrained_before(self, place: int, variable: Any) -> tf.Tensor:
        """Return the updated variable after the constraint that was there before."""
        before = self._before[place]
        return tf.convert_to_tensor(value_of(variable) if before is None else before(variable))


class ConstrainedModel(HoldsWeights):
    """What a model with weight constraints adds: it saves and loads them, and lets them look at a training."""

    # A tuple of `WeightConstraint`, in their order.
    weight_constraints = Addition()

    def constrain_by(self, constraint: WeightConstraint) -> None:
        """Make a constraint a part of the model."""
        setattr(self, constraint.attribute, constraint)
        add(self, weight_constraints=(*vars(self).get("weight_constraints", ()), constraint))

    def get_config(self) -> dict[str, Any]:
        """Return the config of the model, and its constraints in their order."""
        return {**super().get_config(), _KEY: _described(self)}  # type: ignore[misc]

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make the model, with constraints in their first state."""
        config = dict(config)
        held = config.pop(_KEY)
        model = super().from_config(config, custom_objects=custom_objects)  # type: ignore[misc]
        _constrain(model, held, custom_objects)
        return model

    def without_constraints(self) -> keras.Model:
        """Return a copy of the model as it was before it had constraints, with the weights of now."""
        return copy_model(self)

    def set_weights(self, weights: Any) -> None:
        """Set the weights, with the state of the constraints as `get_weights` gives it, or without: it stays then."""
        model: Any = self
        state = {id(variable) for one in self.weight_constraints for variable in one.weights}
        plain = [variable for variable in model.weights if id(variable) not in state]
        if len(weights) == len(plain):
            values = dict(zip(map(id, plain), weights, strict=True))
            weights = [values[id(one)] if id(one) in values else one.numpy() for one in model.weights]
        super().set_weights(weights)  # type: ignore[misc]
        self.hold_weights()

    def hold_weights(self) -> None:
        """Apply the constraints."""
        for one in self.weight_constraints:
            one.apply()

    def own_callbacks(self) -> list[keras.callbacks.Callback]:
        """Return the callbacks that any `fit` of this model should have."""
        return [
            *(callback for one in self.weight_constraints for callback in one.callbacks()),
            *super().own_callbacks(),
        ]


@keras.saving.register_keras_serializable("kopt")
class ConstrainedFunctional(ConstrainedModel, FunctionalModel):
    """A Functional model with weight constraints."""


@keras.saving.register_keras_serializable("kopt")
class ConstrainedSequential(CountsOwnLayers, ConstrainedModel, keras.Sequential):
    """A Sequential model with weight constraints."""

    def attribute_layers(self) -> tuple[keras.layers.Layer, ...]:
        """Return the constraints, which Keras would leave out of its variables."""
        return vars(self).get("weight_constraints", ())


@keras.saving.register_keras_serializable("kopt")
class ConstrainedSubclassed(ConstrainedModel):
    """A model whose `call` is Python code, with weight constraints.

    An object of the user's class gets a class derived from both. It is saved under the name of this one, with what
    Keras saves of the user's class inside, which is looked up as ever when the file is opened.
    """

    _bare: dict[str, Any]

    def constrain_by(self, constraint: WeightConstraint) -> None:
        """Make a constraint a part of the model."""
        with unlocked(self):
            super().constrain_by(constraint)

    def get_config(self) -> dict[str, Any]:
        """Return the model without constraints, and these."""
        return {"model": self._bare, _KEY: _described(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make the model, with constraints in their first state; Keras fills them in as it does the weights."""
        model = _with_room(keras.saving.deserialize_keras_object(config["model"], custom_objects))
        _constrain(model, config[_KEY], custom_objects)
        return model

    def without_constraints(self) -> keras.Model:
        """Return an object of the user's class with the weights of now."""
        kind = type(self).__bases__[1]
        plain = keras.saving.deserialize_keras_object(copy.deepcopy(self._bare), custom_objects={kind.__name__: kind})
        constraints = {id(one) for one in self.weight_constraints}
        ours: list[Any] = [layer for layer in inner_layers(self) if id(layer) not in constraints]
        for one, other in zip(ours, inner_layers(plain), strict=True):
            copy_weights(one, other)
            other.name = one.name
        for variable, twin in zip(own_variables(self), own_variables(plain), strict=True):
            twin.assign(variable)
        mark_called(plain)
        return plain


def masked_inside(model: keras.Model) -> list[keras.Model]:
    """Return the models with masks or codebooks in a model, itself first."""
    return [one for one in flatten_layers(model) if isinstance(one, ConstrainedModel) and constraints_of(one)]


def _described(model: Any) -> list[dict[str, Any]]:
    """Return the constraints of a model, by the places of variables: layers without a name may get another one."""
    places = {one.path: place for place, one in enumerate(owned_variables(model))}
    held = []
    for one in model.weight_constraints:
        settings = one.settings()
        if "paths" in settings:
            settings["paths"] = [places[path] for path in settings["paths"]]
        held.append({"class_name": keras.saving.get_registered_name(type(one)), "settings": settings})
    return held


def _constrain(model: Any, held: Sequence[dict[str, Any]], custom_objects: Any) -> None:
    owned = owned_variables(model)
    for one in held:
        kind = keras.saving.get_registered_object(one["class_name"], custom_objects)
        settings = dict(one["settings"])
        if "paths" in settings:
            settings["paths"] = [owned[place].path for place in settings["paths"]]
        model.constrain_by(kind.from_settings(model, settings))


def _with_room(model: keras.Model) -> Any:
    """Return a subclassed model itself, made an object of a class that takes weight constraints."""
    with serializing_in_memory():
        bare = keras.saving.serialize_keras_object(model)
    kind: Any = type(model)
    model.__class__ = _class_with_constraints(kind)
    object.__setattr__(model, "_bare", bare)
    return model


@functools.cache
def _class_with_constraints(kind: type[keras.Model]) -> type[Any]:
    made = type(f"Constrained{kind.__name__}", (ConstrainedSubclassed, kind), {})
    register = keras.saving.register_keras_serializable("kopt", ConstrainedSubclassed.__name__)
    register(made)
    register(ConstrainedSubclassed)  # the name stands for this one where a file is opened, whatever class is in it
    return made


def constrainable(model: keras.Model) -> Any:
    """Return a copy of a model that takes weight constraints; it has those that the model has, in their state.

    Raises:
        UnsupportedModelError: a layer or a subclassed model does not rebuild from its config.
    """
    is_graph = graph_of(model) is not None
    if constraints_of(model) and (not is_graph or own_training(model)):
        copy = _with_room(model.without_constraints())
    elif not is_graph:
        copy = _with_room(copy_subclassed(model))
    elif own_training(model):
        copy = _with_room(copy_model(model))
    else:
        copy = copy_model(model, functional=ConstrainedFunctional, sequential=ConstrainedSequential)
    for one in constraints_of(model):
        copy.constrain_by(type(one).from_settings(copy, one.settings()))
        copy.weight_constraints[-1].set_weights(one.get_weights())
    return copy


def plain_copy(model: Any) -> keras.Model:
    """Return a copy of a model with weight constraints without them; they are applied once more before.

    The given model changes by that, if something else than an optimizer has changed its weights.
    """
    if isinstance(model, ConstrainedModel):
        model.hold_weights()
    return model.without_constraints()


def constraints_of(model: keras.Model) -> tuple[WeightConstraint, ...]:
    """Return the weight constraints of a model, in their order."""
    return model.weight_constraints if isinstance(model, ConstrainedModel) else ()


def value_of(variable: Any) -> Any:
    """Return the tensor or backend variable behind a Keras variable."""
    return variable.value if isinstance(variable, keras.Variable) else variable
