"""Scores of all units by one criterion, with the examples that it needs."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError
from kopt.core.records.changes.channel_pruning import NEED_DATA
from kopt.core.settings import choice, whole
from kopt.graph.channels import ChannelGraph
from kopt.prune.channel_removal import criteria, importance
from kopt.train import check_inputs
from kopt.train.batch_loss import require_loss
from kopt.train.labelled_batches import labelled_batches


def require_criterion(criterion: str, data: Any, batches: int, batch_size: int) -> None:
    """Make sure that a criterion is known and has the data that it needs.

    Raises:
        ConfigError: it has not, or a number is out of range.
    """
    choice("criterion", criterion, criteria.CRITERIA)
    whole("batches", batches)
    whole("batch_size", batch_size)
    if criterion in NEED_DATA and data is None:
        raise ConfigError(f"`criterion={criterion!r}` needs examples: pass `data=(x, y)`.")


def scores_of(
    model: keras.Model,
    graph: ChannelGraph,
    criterion: str,
    *,
    data: Any,
    loss: Any,
    batches: int,
    batch_size: int,
    seed: int,
) -> tuple[importance.Scores, tuple[str, ...]]:
    """Return a score of every unit, larger matters more, and what the reader should know of them.

    Groups that the criterion says nothing of take `"l2"`, which is noted.
    """
    if criterion in NEED_DATA:
        examples = _examples(model, criterion, data, loss, batches, batch_size)
        tally, notes = _by_data(model, graph, criterion, examples, loss)
    else:
        tally, notes = _without_data(graph, criterion, seed), ()
    scores, substituted = _with_substitute(graph, criterion, tally)
    return scores, (*notes, *substituted)


def _without_data(graph: ChannelGraph, criterion: str, seed: int) -> importance.Tally:
    if criterion == "bn_scale":
        return importance.by_scale(graph)
    if criterion == "random":
        return importance.at_random(graph, seed)
    return importance.by_weights(graph, criterion)


def _examples(
    model: keras.Model, criterion: str, data: Any, loss: Any, batches: int, batch_size: int
) -> list[tuple[Any, Any, Any]]:
    if criterion in criteria.BY_GRADIENT:
        require_loss(model, loss)
    elif isinstance(data, (np.ndarray, tf.Tensor, dict, list)):  # inputs alone
        data = tf.data.Dataset.from_tensor_slices((tuple(data) if isinstance(data, list) else data,)).batch(batch_size)
    examples = list(itertools.islice(labelled_batches(data, batch_size), batches))
    if not examples:
        raise ConfigError("`data` has no examples.")
    x, y, weight = examples[0]
    check_inputs(model, x, y, weight, loss=loss)
    return examples


def _by_data(
    model: keras.Model, graph: ChannelGraph, criterion: str, examples: list[tuple[Any, Any, Any]], loss: Any
) -> tuple[importance.Tally, tuple[str, ...]]:
    if criterion not in criteria.BY_GRADIENT:
        return importance.by_activations(graph, model, examples), ()
    if criterion not in criteria.BY_EXAMPLE:
        return importance.by_gradients(graph, model, examples, loss, criterion), ()
    fixed = next((tensor.shape[0] for tensor in model.inputs if tensor.shape[0] is not None), 1)
    if fixed == 1:
        return importance.by_gradients(graph, model, _one_by_one(examples), loss, criterion), ()
    note = f"{criterion!r} took the gradients of batches of {fixed}, not of single examples: the model takes no others."
    return importance.by_gradients(graph, model, examples, loss, criterion), (note,)


def _one_by_one(batches: Iterable[tuple[Any, Any, Any]]) -> Iterator[Any]:
    """Yield the examples of batches as batches of one."""
    for batch in batches:
        for place in range(len(keras.tree.flatten(batch[0])[0])):
            yield tuple(None if part is None else _rows(part, place) for part in batch)


def _rows(part: Any, place: int) -> Any:
    return keras.tree.map_structure(lambda array: array[place : place + 1], part)


def _with_substitute(
    graph: ChannelGraph, criterion: str, tally: importance.Tally
) -> tuple[importance.Scores, tuple[str, ...]]:
    """Return the scores; groups that the criterion says nothing of take `"l2"`, which is noted."""
    scores, known = tally.means(), tally.known
    without = [group for group in graph.free if not known[group.units].all()]
    if not without:
        return scores, ()
    substitute = importance.by_weights(graph, "l2").means()
    for group in without:
        scores[group.units] = substitute[group.units] / max(float(substitute[group.units].mean()), 1e-30)
    names = ", ".join(group.layers[0] for group in without[:5]) + (", ..." if len(without) > 5 else "")
    return scores, (f"{criterion!r} says nothing of {len(without)} group(s), which took 'l2' instead: {names}.",)
