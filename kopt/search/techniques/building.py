"""Another architecture in place of the model as given: by the user's own function of hyperparameters."""

import hashlib
import importlib
import inspect
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.core.records.search.techniques import BuildConfig, Step
from kopt.graph import signature
from kopt.graph.internals import graph_of, node_of
from kopt.search.techniques.outcome import Outcome
from kopt.search.techniques.work import Work

_ACCEPTED = (
    "a function `build(hp)` that returns a Keras model, a `keras_tuner.HyperModel` class that is made without "
    "arguments, or an instance with a name in its module"
)


def reference(builder: Any) -> str:
    """Return where other processes find a builder, `"module:name"`, which may be given as it is.

    Raises:
        ConfigError: it is none, or cannot be found by a name.
    """
    if isinstance(builder, str):
        return _checked(builder)
    if not callable(builder) and not isinstance(builder, keras_tuner.HyperModel):
        raise ConfigError(f"`builder` is {_ACCEPTED}. Received: {builder!r}.")
    module, name = _place(builder)
    if module == "__main__" or "<" in name or not name:
        raise ConfigError(
            f"`builder` must be found by processes that make models: put it into a module of its own and import it "
            f"from there; it is {_ACCEPTED}. Received: {builder!r} of module {module!r}."
        )
    return f"{module}:{name}"


def source_sha256(where: str) -> str:
    """Return the hash of the source of a builder's module."""
    path = inspect.getsourcefile(importlib.import_module(where.partition(":")[0]))
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""


def hypermodel(where: str) -> keras_tuner.HyperModel:
    """Return the builder that `reference` named."""
    module, _, name = where.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    found = found() if isinstance(found, type) else found
    return found if isinstance(found, keras_tuner.HyperModel) else _Function(found)


def modules_of(steps: Iterable[Step]) -> tuple[str, ...]:
    """Return the modules of the builders of steps, whose layers what follows must know."""
    return tuple(step.config.builder.partition(":")[0] for step in steps if isinstance(step.config, BuildConfig))


def built(model: keras.Model, config: BuildConfig, work: Work) -> Outcome:
    """Build an architecture and train it."""
    hyperparameters = keras_tuner.HyperParameters()
    hyperparameters.values = json.loads(config.values)
    builder = hypermodel(config.builder)
    made = builder.build(hyperparameters)
    _check(made, model, config.builder)
    _take_names(made, model, config.builder)
    own = "what it was compiled with" if made.compiled else ""
    own = "its own `fit`" if type(builder).fit is not keras_tuner.HyperModel.fit else own
    trained = work.fit(made, epochs=config.epochs, rate=config.rate)
    trained += f" ({own} is not used: all architectures are trained alike)" if own else ""
    return Outcome(made, f"{made.count_params():,} parameters in place of {model.count_params():,}; {trained}")


def _checked(where: str) -> str:
    try:
        hypermodel(where)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"`builder` is written as module:name, e.g. 'shapes:build', with a module that can be imported. Received: "
            f"{where!r} ({error})."
        ) from error
    return where


def _check(made: Any, model: keras.Model, where: str) -> None:
    if not isinstance(made, keras.Model) or not made.built:
        raise UnsupportedModelError(f"{where} must return a built Keras model. Received: {made!r}.")
    for what in ("input_shape", "output_shape"):
        ours, given = getattr(made, what), getattr(model, what)
        if ours != given:
            raise UnsupportedModelError(
                f"{where} must return models with the {what.replace('_', ' ')} of the model as given, {given}. "
                f"Received: {ours}."
            )


def _take_names(made: Any, model: keras.Model, where: str) -> None:
    """Give the inputs the names that they have in the model as given, under which data is fed, in the same order.

    Raises:
        UnsupportedModelError: another layer has such a name, or one of several outputs has another name.
    """
    (inputs, outputs), (_, own) = signature(model), signature(made)
    if len(outputs) > 1 and [one.name for one in own] != [one.name for one in outputs]:
        raise UnsupportedModelError(
            f"{where} must name its outputs as the model as given does: {', '.join(one.name for one in outputs)}. "
            f"Received: {', '.join(one.name for one in own)}."
        )
    graph = graph_of(made)
    if graph is None or isinstance(graph.input, dict):
        return
    layers = [node_of(tensor).operation for tensor in graph.inputs]
    wanted = [one.name for one in inputs]
    taken = [one.name for one in made.layers if one not in layers and one.name in wanted]
    if taken:
        raise UnsupportedModelError(
            f"{where} has layers called {', '.join(map(repr, taken))}, as inputs of the model as given are. Give them "
            f"other names."
        )
    for tensor, layer, name in zip(graph.inputs, layers, wanted, strict=True):
        layer.name = tensor.name = name


class _Function(keras_tuner.HyperModel):
    """A builder that is a function."""

    def __init__(self, function: Any):
        self._function = function
        super().__init__()

    def build(self, hp: keras_tuner.HyperParameters) -> Any:
        return self._function(hp)


def _place(builder: Any) -> tuple[str, str]:
    if hasattr(builder, "__qualname__"):
        return builder.__module__, builder.__qualname__
    module = type(builder).__module__
    names = vars(sys.modules.get(module, object)).items()
    return module, next((name for name, value in names if value is builder), "")
