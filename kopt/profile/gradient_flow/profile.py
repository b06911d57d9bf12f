"""Gradients over several batches, by variable, with verdicts."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import DataError, UnsupportedModelError
from kopt.core.records.profiles.gradients import GradientProfile, GradientThresholds, VariableGradient
from kopt.core.settings import whole
from kopt.graph import OwnedVariable, owned_variables, require_built
from kopt.graph.internals import declared_trainable
from kopt.profile.gradient_flow.collection import GradientCollection, Sums
from kopt.profile.gradient_flow.verdicts import activation_verdicts, gradient_verdicts
from kopt.profile.tensorboard import InTensorBoard
from kopt.report.profiles.gradients import GRADIENTS
from kopt.train import AcceleratedModel, check_inputs, preserved
from kopt.train.batch_loss import require_loss
from kopt.train.labelled_batches import labelled_batches

_LEAST_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class Gradients(InTensorBoard, GradientProfile):
    """What `gradients` found, with ways to show it.

    Example:
        >>> found = kopt.profile.gradients(model, (x_train, y_train), batches=4)
        >>> [variable.path for variable in found.variables][:3]
        ['conv1/kernel', 'norm1/gamma', 'norm1/beta']
        >>> path = found.plot("gradients.svg")
    """

    look = GRADIENTS

    def _scalars(self) -> Iterator[tuple[str, float]]:
        for one in self.variables:
            yield f"norm/{one.path}", one.norm
            if one.noise_scale is not None:
                yield f"noise_scale/{one.path}", one.noise_scale


def gradients(
    model: keras.Model,
    data: Any,
    *,
    batches: int = 16,
    batch_size: int = 32,
    loss: Any = None,
    training: bool = True,
    thresholds: GradientThresholds | None = None,
) -> Gradients:
    """Return what the gradients of every variable look like over several batches, and what is wrong with them.

    Use it when training does not move: it tells vanishing from exploding gradients, dead ReLUs from saturated sigmoids,
    and layers that nothing reaches from those that are frozen. Use it, too, to choose a batch size: `noise_scale` is
    the one beyond which larger batches gain little.

    Each batch takes one forward and one backward pass, the activations come out of the same pass, and the moments are
    kept on the device. Another copy of the weights stands in memory, besides what `kopt.train.preserved` keeps: the
    model comes out as it went in.

    Formulas: with `g_i` the gradient of batch `i` of `n`, `b` examples each, and `M = sum |g_i - mean(g)|^2`, the
    variance is `M / ((n - 1) * size)`, the noise scale `b * T / (|mean(g)|^2 - T / n)` with `T = M / (n - 1)`, which is
    `trace(covariance of an example's gradient) / |gradient|^2` without bias above and below the line, and the cosine
    `1 - n M / ((n - 1) sum |g_i|^2)`.

    Args:
        model: built; of an accelerated model the model inside is taken.
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, or a `tf.data.Dataset` of such batches.
        batches: how many to read at most; at least 2. Batches of another size than the first are left out.
        batch_size: of arrays.
        loss: a loss of Keras; the compiled one by default. What layers add counts with it.
        training: whether layers behave as in training: dropout draws, batch normalization uses the batch. `False` takes
            that noise out of the gradients.
        thresholds: where verdicts begin.

    Raises:
        ConfigError: a setting is out of range, or there is no loss.
        DataError: the first batch does not fit the model, or there are fewer than two.
        NonFiniteError: a gradient is NaN or infinite; names the variable and the batch.
        InputError: the model is not built.
        UnsupportedModelError: it has nothing to train, or is spread over several devices.

    Example:
        >>> found = kopt.profile.gradients(model, (x_train, y_train), batches=8)
        >>> found.batches, found.examples, [verdict.words for verdict in found.verdicts]  # nothing is wrong
        (8, 256, [])

    Source: McCandlish et al., "An empirical model of large-batch training", 2018, appendix A, for the noise scale.
    """
    whole("batches", batches, least=_LEAST_BATCHES)
    whole("batch_size", batch_size)
    model = model.model if isinstance(model, AcceleratedModel) else model
    require_built(model)
    require_loss(model, loss)
    thresholds = thresholds or GradientThresholds()
    weights, trained = _weights(model)
    with preserved(model):
        collection = GradientCollection(
            model, trained, loss, training=bool(training), width=thresholds.saturation_width
        )
        size, skipped = _collect(collection, model, labelled_batches(data, batch_size), batches, loss)
    variables = _statistics(weights, trained, collection, size)
    together = collection.sums()[-1]
    activations = tuple(counts.statistics() for counts in collection.activations)
    return Gradients(
        model=model.name,
        batches=collection.batches,
        examples=collection.batches * size,
        batch_examples=size,
        loss=collection.loss_sum / collection.batches,
        norm=together.norm / collection.batches,
        noise_scale=noise_scale(together, collection.batches, size),
        cosine=cosine(together, collection.batches),
        variables=variables,
        activations=activations,
        verdicts=(*gradient_verdicts(variables, thresholds), *activation_verdicts(activations, thresholds)),
        thresholds=thresholds,
        training=bool(training),
        notes=_notes(skipped, size, collection.batches),
    )


def noise_scale(sums: Sums, batches: int, size: int) -> float | None:
    """Return the batch size at which noise and gradient are equally large; `None` where noise drowns the gradient."""
    spread = sums.deviation / (batches - 1)
    mean_square = (sums.square - sums.deviation) / batches - spread / batches
    return size * spread / mean_square if mean_square > 0 else None


def cosine(sums: Sums, batches: int) -> float | None:
    """Return how far two batches agree; `None` for a gradient of 0."""
    return 1 - batches * sums.deviation / ((batches - 1) * sums.square) if sums.square else None


def _weights(model: keras.Model) -> tuple[list[OwnedVariable], list[OwnedVariable]]:
    if model.distribute_strategy.num_replicas_in_sync > 1:
        raise UnsupportedModelError(
            f"The model {model.name!r} was built under a strategy with several replicas. Load or clone it outside of "
            f"`strategy.scope()`: gradients are looked at on one device."
        )
    # Not the statistics of batch normalization and the seeds of dropout, which no optimizer would ever touch.
    weights = [
        one for one in owned_variables(model) if any(one.variable is own for own in declared_trainable(one.layer))
    ]
    trained = [one for one in weights if one.trainable]
    if not trained:
        raise UnsupportedModelError(f"Model {model.name!r} has no variables to train. Unfreeze layers.")
    return weights, trained


def _collect(
    collection: GradientCollection, model: keras.Model, batches: Iterator[Any], most: int, loss: Any
) -> tuple[int, int]:
    """Take batches; return the examples of one and how many batches were of another size."""
    size, skipped = 0, 0
    for batch in batches:
        x, y, weight = batch
        if not size:
            size = check_inputs(model, x, y, weight, loss=loss).examples
        if int(tf.nest.flatten(x)[0].shape[0]) != size:
            skipped += 1
        else:
            collection.take((x, y, weight))
        if collection.batches == most:
            break
    if collection.batches < _LEAST_BATCHES:
        raise DataError(
            f"Gradients vary between batches: at least {_LEAST_BATCHES} of one size are needed. Received: "
            f"{collection.batches}. Pass more data, or a smaller `batch_size`."
        )
    return size, skipped


def _statistics(
    weights: Sequence[OwnedVariable], trained: Sequence[OwnedVariable], collection: GradientCollection, size: int
) -> tuple[VariableGradient, ...]:
    pairs = zip(trained, zip(collection.sums()[:-1], collection.connected, strict=True), strict=True)
    found = {id(one.variable): (sums, connected) for one, (sums, connected) in pairs}
    nothing = (Sums(0.0, 0.0, 0.0, 0.0, 0.0), False)
    return tuple(_of(one, *found.get(id(one.variable), nothing), collection.batches, size) for one in weights)


def _of(one: OwnedVariable, sums: Sums, connected: bool, batches: int, size: int) -> VariableGradient:
    entries = max(1, math.prod(one.variable.shape))
    weight_norm = float(tf.norm(tf.cast(one.variable.value, tf.float32)))
    norm = sums.norm / batches
    return VariableGradient(
        path=one.path,
        layer=one.layer_path,
        layer_type=type(one.layer).__name__,
        shape=tuple(one.variable.shape),
        trainable=one.trainable,
        connected=connected,
        norm=norm,
        rms=math.sqrt(sums.square / (batches * entries)),
        mean=sums.entry / batches,
        variance=sums.deviation / ((batches - 1) * entries),
        zero_fraction=sums.zeros / batches,
        weight_norm=weight_norm,
        ratio=norm / weight_norm if weight_norm else None,
        cosine=cosine(sums, batches),
        noise_scale=noise_scale(sums, batches, size) if connected and sums.square else None,
    )


def _notes(skipped: int, size: int, batches: int) -> tuple[str, ...]:
    notes = [f"{skipped} batch(es) of another size than {size} were left out."] if skipped else []
    if batches < 8:
        notes.append(f"{batches} batches tell variance and noise scale only roughly.")
    return tuple(notes)
