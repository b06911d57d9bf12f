"""Removing channels from a model: a smaller, plain Keras model and a report."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from kopt.core.records.changes.channel_pruning import ChannelPruningReport
from kopt.core.settings import names, whole
from kopt.graph import from_tf_keras, require_built, require_finite
from kopt.graph.channels import channel_graph
from kopt.profile import model as profile
from kopt.prune.channel_removal import reporting
from kopt.prune.channel_removal.checking import KINDS, only, require_free, require_known_macs, require_settings
from kopt.prune.channel_removal.choosing import candidates_of, chosen, savings_of
from kopt.prune.channel_removal.costs import PrunedCosts
from kopt.prune.channel_removal.goals import Goal
from kopt.prune.channel_removal.rebuilding import rebuild
from kopt.prune.channel_removal.scoring import require_criterion, scores_of
from kopt.prune.plain import require_unmasked
from kopt.report.changes.channel_pruning import CHANNEL_PRUNING
from kopt.report.look import Shown


@dataclasses.dataclass(frozen=True)
class ChannelPruning(Shown, ChannelPruningReport):
    """What `channels` did, with ways to show it.

    Example:
        >>> report = kopt.prune.channels(model, keep=0.5)[1]
        >>> [(group.layers, group.before, group.after) for group in report.groups]
        [(('conv1',), 8, 4), (('conv2',), 16, 8), (('classes',), 10, 10)]
    """

    look = CHANNEL_PRUNING


def channels(
    model: keras.Model,
    *,
    keep: float | None = None,
    target_macs: float | None = None,
    target_params: float | None = None,
    target_latency_ms: float | None = None,
    target_latency: float | None = None,
    runtime: str = "tflite",
    criterion: str = "l2",
    per: str | None = None,
    data: Any = None,
    loss: Any = None,
    batches: int = 8,
    batch_size: int = 32,
    round_to: int = 8,
    min_channels: int = 1,
    protect: str | Iterable[str] = (),
    scope: str | None = None,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> tuple[keras.Model, ChannelPruning]:
    """Return a smaller model without the channels that matter least, and a report.

    Use it to make a model smaller and faster in every runtime: what is left is a plain, dense Keras model of the same
    class with the same layer names. It computes something else than before; train it for some epochs afterwards.

    Channels that depend on each other, e.g. by a residual connection, go together; see `kopt.graph.channel_graph`.
    Inputs and outputs of the model keep their shapes.

    Args:
        model: built Functional or Sequential model, nested as one likes; not changed.
        keep: share of the channels to keep, in (0, 1]: of every group, or of all together with `scope="global"`.
        target_macs: multiply-accumulates for one example to come down to: a share of those of `model` below 1, a count
            above. What rounding takes too much comes back, the channels that matter most first. Give one of these
            goals.
        target_params: parameters to come down to, in the same way.
        target_latency_ms: milliseconds to come down to for one example, also where they are fewer than 1, measured:
            smaller models are exported in float32, opened in `runtime` with one thread, and timed in turns with `model`
            until one is at most this slow, and no more than 5 % faster, or 8 were tried and the nearest is taken. What
            counts is the quickest turn, because other work on the machine only makes turns longer. Each model takes as
            long as an export and some 20 turns. The report lists them.
        target_latency: the same as a share of the present latency, in (0, 1).
        runtime: that latencies are measured in: `"tflite"` (LiteRT) or `"onnx"` (ONNX Runtime).
        criterion: which channels matter: `"l1"`, `"l2"`, `"geometric_median"`, `"lamp"`, `"bn_scale"` (by the factors
            of normalization layers; `"l2"` where a group has none), `"random"`; with data `"taylor"`, `"gradient"`
            (means over batches), `"fisher"` (mean over examples, one by one) and `"activation"`. See
            `kopt.prune.channel_removal.criteria`. A group of several layers takes the mean over them, and scores are
            divided by their mean over the group.
        per: with `scope="global"`, what importance is divided by: the `"macs"`, the `"params"` or the milliseconds of
            `"latency"` that the model loses with one channel of the group, all others in place. What contributes little
            for its cost then goes first. The latency is measured in `runtime`, with half of each group gone: an export
            for each group. One that saves too little to be measured stays as long as others can go.
        data: `(x, y)` of arrays, or a `tf.data.Dataset` of such batches, for the criteria that need it; for
            `"activation"` inputs are enough.
        loss: of the criteria with gradients: a loss of Keras; the compiled one by default.
        batches: of `data`, how many to read at most.
        batch_size: of arrays.
        round_to: widths become multiples of it where they can; groups of fewer than `2 * round_to` channels take
            half of it, or a quarter, as the report says. Whole heads and recurrent units count one by one.
        min_channels: that a group keeps at least.
        protect: names or paths of layers that keep their outputs; of a nested model, all inside.
        scope: `"layer"`: every group keeps the same share. `"global"`: the channels of the lowest scores go, wherever
            they are. By default `"layer"` for `keep` and `"global"` for a target.
        kinds: what may go: `"channels"`, `"units"` of recurrent layers, `"heads"` of attention.
        seed: of `"random"`.

    Returns:
        The smaller model, not compiled, and the report, with `.table()` and `.plot(path)`.

    Raises:
        ConfigError: a setting is out of range, a target is not below what the model has or below what can be reached,
            a name of `protect` is of no layer, or the criterion needs data.
        ExportError: a latency is asked for, and the model cannot be exported.
        InputError: the model is not built, is under masks or codebooks, or has no channels that can be removed.
        NonFiniteError: a weight is NaN or infinite.
        UnsupportedModelError: a subclassed model, or one that does not rebuild from its config.

    Example:
        >>> smaller, report = kopt.prune.channels(model, target_macs=0.5, round_to=1)
        >>> report.macs_before, report.macs_after <= 8208, smaller.name
        (16416, True, 'digits')
        >>> narrow, report = kopt.prune.channels(model, keep=0.5, protect=["conv1"])
        >>> [narrow.get_layer(name).filters for name in ("conv1", "conv2")]
        [8, 8]
    """
    goal = Goal.of(
        scope,
        keep=keep,
        target_macs=target_macs,
        target_params=target_params,
        target_latency_ms=target_latency_ms,
        target_latency=target_latency,
    )
    require_criterion(criterion, data, batches, batch_size)
    whole("seed", seed, least=0)
    model = from_tf_keras(model)
    require_built(model)
    require_unmasked(model)
    require_settings(goal, runtime=runtime, per=per, round_to=round_to, min_channels=min_channels, kinds=kinds)
    graph = only(channel_graph(model, protect=names("protect", protect)), names("kinds", kinds))
    require_free(model, graph)
    require_finite(model)
    before = profile(model)
    costs = PrunedCosts(model, graph, before.macs)
    require_known_macs(model, costs.is_open, goal, per)
    scores, notes = scores_of(
        model, graph, criterion, data=data, loss=loss, batches=batches, batch_size=batch_size, seed=seed
    )
    saved = savings_of(per, model, graph, costs, runtime)
    candidates = candidates_of(graph, scores, saved, criterion=criterion, round_to=round_to, min_channels=min_channels)
    kept, probes = chosen(goal, model, graph, candidates, costs, before, runtime)
    smaller = rebuild(model, graph, kept)
    after = profile(smaller)
    groups = tuple(reporting.rows(graph, candidates, kept, saved))
    report = ChannelPruning(
        model=model.name,
        goal=goal.text,
        criterion=criterion,
        scope=goal.scope,
        groups=groups,
        parameters_before=before.parameters,
        parameters_after=after.parameters,
        macs_before=before.macs,
        macs_after=after.macs,
        notes=(*notes, *reporting.notes(graph, costs.is_open, groups, probes)),
        per=per or "",
        probes=probes,
    )
    return smaller, report


def heads(
    model: keras.Model,
    *,
    keep: float,
    criterion: str = "l2",
    per: str | None = None,
    runtime: str = "tflite",
    data: Any = None,
    loss: Any = None,
    batches: int = 8,
    batch_size: int = 32,
    protect: str | Iterable[str] = (),
    scope: str = "layer",
    seed: int = 0,
) -> tuple[keras.Model, ChannelPruning]:
    """Return a model with fewer attention heads, those that matter least gone, and a report; nothing else changes.

    Arguments, results and errors are those of `channels`; `keep` is the share of the heads, of each attention layer or,
    with `scope="global"`, of all together. `criterion="taylor"` with data ranks heads by gradients.

    Example:
        >>> tokens = keras.Input((8, 16))
        >>> attended = keras.layers.MultiHeadAttention(4, 8, name="attention")(tokens, tokens)
        >>> encoder = keras.Model(tokens, keras.layers.GlobalAveragePooling1D()(attended))
        >>> smaller, report = kopt.prune.heads(encoder, keep=0.5)
        >>> smaller.get_layer("attention").num_heads
        2

    Source: Michel et al., "Are sixteen heads really better than one?", 2019, https://arxiv.org/abs/1905.10650
    """
    return channels(
        model,
        keep=keep,
        criterion=criterion,
        per=per,
        runtime=runtime,
        data=data,
        loss=loss,
        batches=batches,
        batch_size=batch_size,
        protect=protect,
        scope=scope,
        kinds=("heads",),
        seed=seed,
    )
