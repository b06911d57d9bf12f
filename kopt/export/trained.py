"""A model that was trained for integers: whether one is, and the graph that converters get in its place."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kopt.core.errors import ConfigError
from kopt.core.schemes import Scheme
from kopt.export.source import Source, trace
from kopt.export.twins import is_trained_for_integers
from kopt.graph.checks import input_structure
from kopt.graph.internals import flatten_layers

_BATCH = 32


def trained_for(model: Any, scheme: Scheme) -> Any:
    """Return the model if it was trained for integers, else `None`.

    Raises:
        ConfigError: it was trained for another scheme.
    """
    if not has_ranges(model):
        return None
    model = model.model if isinstance(model, Source) else model
    record = getattr(model, "quantization", None)
    if record is not None and record.scheme != scheme.name:
        raise ConfigError(
            f"Model {model.name!r} was trained for the scheme {record.scheme!r}. Received: scheme={scheme.name!r}. "
            f"Export it with the scheme it was trained for, or the float model that it was made from."
        )
    return model


def has_ranges(model: Any) -> bool:
    """Return whether a model brings the ranges of its integers, so that no calibration is needed.

    Args:
        model: from `open_model`.

    Example:
        >>> copy, _ = kopt.quantize.aware(model, calibration=x_train)
        >>> kopt.export.has_ranges(model), kopt.export.has_ranges(copy)
        (False, True)
    """
    model = model.model if isinstance(model, Source) else model
    return model is not None and not isinstance(model, Path) and is_trained_for_integers(model)


@contextlib.contextmanager
def integer_outputs(model: Any) -> Iterator[None]:
    """Let a model that was trained for integers round outputs that it computes in float, too."""
    layers = [layer for layer in flatten_layers(model) if hasattr(layer, "rounds_output")]
    for layer in layers:
        layer.rounds_output = True
    try:
        yield
    finally:
        for layer in layers:
            layer.rounds_output = False


def layers_without_range(model: Any) -> list[Any]:
    """Return the layers of a model that was trained for integers whose range training has not seen."""
    return [layer for layer in flatten_layers(model) if getattr(layer, "is_ready", True) is False]


@contextlib.contextmanager
def ranges_from(model: Any, arrays: Mapping[str, np.ndarray] | None) -> Iterator[tuple[str, ...]]:
    """Give a model that was trained for integers those ranges that training has not seen, inside the block.

    Args:
        model: that was trained, or `None`.
        arrays: examples by input name, in the model's order; `None`: ranges stay away.

    Yields:
        The names of the ranges that come from the examples.
    """
    missing = [] if model is None else layers_without_range(model)
    if arrays is None or not missing:
        yield ()
        return
    before = [layer.get_weights() for layer in missing]
    try:
        _calibrate(model, missing, arrays)
        yield tuple(layer.name for layer in missing)
    finally:
        for layer, weights in zip(missing, before, strict=True):
            layer.set_weights(weights)


def _calibrate(model: Any, layers: Sequence[Any], arrays: Mapping[str, np.ndarray]) -> None:
    for layer in layers:
        layer.calibrates = True
    try:
        for begin in range(0, len(next(iter(arrays.values()))), _BATCH):
            flat = [array[begin : begin + _BATCH] for array in arrays.values()]
            model(keras.tree.pack_sequence_as(input_structure(model), flat), training=False)
    finally:
        for layer in layers:
            layer.calibrates = False


def with_function_of(source: Source, twin: Any) -> Source:
    """Return `source` with the graph of a copy of its model for the converter; files are compared with its own."""
    converted = trace(twin, batch_size=source.batch_size)
    return dataclasses.replace(source, function=converted.function, concrete=converted.concrete)
