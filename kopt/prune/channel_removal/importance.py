"""Scores of the units of a model: criteria applied to its weights, gradients and activations."""

import functools
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kopt.core.errors import NonFiniteError
from kopt.data.validation import as_model_inputs
from kopt.graph import signature
from kopt.graph.channels import ChannelGraph, WeightAxis
from kopt.graph.values import values_of
from kopt.prune.channel_removal import criteria
from kopt.train import preserved
from kopt.train.batch_loss import LossScale, batch_loss, scaled_gradients

Scores = npt.NDArray[np.float64]


class Tally:
    """The mean of all scores that a unit gets."""

    def __init__(self, units: int):
        self._sum, self._count = np.zeros(units), np.zeros(units)

    def add(self, units: npt.NDArray[np.int64], scores: Any) -> None:
        """Add scores of these units; a unit may be among them several times."""
        np.add.at(self._sum, units, np.asarray(scores, np.float64))
        np.add.at(self._count, units, 1)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Whether a unit got a score."""
        return self._count > 0

    def means(self) -> Scores:
        """Return the mean score of every unit, 0 where there is none."""
        return self._sum / np.maximum(self._count, 1)


def by_weights(graph: ChannelGraph, criterion: str) -> Tally:
    """Return scores by the weights that make the channels.

    A unit of several layers gets the mean over them. Scores of a layer are divided by their mean, so that a layer of
    large weights counts no more than another, unless the criterion is comparable between layers by itself.
    """
    tally, score = Tally(graph.unit_count), criteria.BY_WEIGHT[criterion]
    for weight in _makers(graph):
        tally.add(weight.units, leveled(score(rows_of(values_of(weight.variable), weight.axis)), criterion))
    return tally


def by_scale(graph: ChannelGraph) -> Tally:
    """Return `|gamma|` of batch normalization; a unit may have none.

    Source: Liu et al., "Learning efficient convolutional networks through network slimming", 2017.
    """
    tally = Tally(graph.unit_count)
    for weight in graph.weights:
        if weight.role == "scale" and len(weight.variable.shape) == 1:
            tally.add(weight.units, np.abs(values_of(weight.variable).astype(np.float32)))
    return tally


def at_random(graph: ChannelGraph, seed: int) -> Tally:
    """Return scores that mean nothing: what a criterion has to be better than."""
    tally = Tally(graph.unit_count)
    tally.add(np.arange(graph.unit_count), np.random.default_rng(seed).random(graph.unit_count))
    return tally


def by_gradients(graph: ChannelGraph, model: keras.Model, batches: Iterable[Any], loss: Any, criterion: str) -> Tally:
    """Return scores by the weights and the gradients of the loss of each batch, the mean over batches.

    Raises:
        NonFiniteError: a gradient is NaN or infinite.
    """
    makers, score = _makers(graph), criteria.BY_GRADIENT[criterion]
    variables = list({id(weight.variable): weight.variable for weight in makers}.values())

    def gradients(batch: Any, scale: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        values = [variable.value for variable in variables]
        return scaled_gradients(lambda: batch_loss(model, loss, batch, training=False), values, scale)

    traced, scaling = tf.function(gradients, reduce_retracing=True), LossScale(model)
    rows = [rows_of(values_of(weight.variable), weight.axis) for weight in makers]
    sums = [np.zeros(weight.units.size) for weight in makers]
    with preserved(model):
        for batch in batches:
            slopes = scaling.take(functools.partial(traced, batch))
            found = dict(zip(map(id, variables), slopes, strict=True))
            for total, weight, row in zip(sums, makers, rows, strict=True):
                total += score(row, rows_of(found[id(weight.variable)].numpy(), weight.axis))
    tally = Tally(graph.unit_count)
    for total, weight in zip(sums, makers, strict=True):
        if not np.isfinite(total).all():
            raise NonFiniteError(
                f"The gradient of {weight.path!r} is NaN or infinite. `kopt.train.locate_nonfinite` says where it "
                f"begins."
            )
        tally.add(weight.units, leveled(total, criterion))
    return tally


def by_activations(graph: ChannelGraph, model: keras.Model, batches: Iterable[Any]) -> Tally:
    """Return the share of positive entries of what layers with weights read; inside nested models there is none."""
    readers = {weight.path for weight in graph.weights if weight.role == "input"}
    read = {
        id(tensor): (tensor, place)
        for flow in graph.flows
        if flow.path in readers and flow.path == flow.call.operation.name
        for tensor, place in zip(flow.call.inputs, flow.inputs, strict=True)
        if place is not None
    }
    tally = Tally(graph.unit_count)
    if not read:
        return tally
    watched, inputs = keras.Model(model.inputs, [tensor for tensor, _ in read.values()]), signature(model)[0]
    with preserved(model):
        for x, *_ in batches:
            arrays = as_model_inputs(keras.tree.map_structure(np.asarray, x), inputs)
            values = keras.tree.flatten(watched(list(arrays.values()), training=False))
            for value, (_, (axis, units)) in zip(values, read.values(), strict=True):
                entries = np.moveaxis(np.asarray(value), axis, -1).reshape(-1, units.size)
                tally.add(units, criteria.active_share(entries))
    return tally


def rows_of(values: Any, axis: int) -> npt.NDArray[np.float32]:
    """Return a weight as a matrix with one row for every index of `axis`."""
    return np.moveaxis(np.asarray(values).astype(np.float32, copy=False), axis, 0).reshape(values.shape[axis], -1)


def _makers(graph: ChannelGraph) -> list[WeightAxis]:
    return [weight for weight in graph.weights if weight.role == "kernel"]


def leveled(scores: Any, criterion: str) -> Any:
    """Return scores divided by their mean, unless those of the criterion are comparable as they are."""
    mean = float(np.mean(scores))
    return scores if criterion in criteria.COMPARABLE or mean <= 0 else scores / mean
