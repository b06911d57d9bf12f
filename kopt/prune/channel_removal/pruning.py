"""Removing channels from a model: a smaller, plain Keras model and a report."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from kopt.core.channel_pruning_records import ChannelPruningReport, PrunedGroup
from kopt.core.errors import ConfigError, InputError
from kopt.core.settings import choice, number, whole
from kopt.graph import require_finite
from kopt.graph.channels import ChannelGraph, ChannelGroup, channel_graph
from kopt.profile import model as profile
from kopt.prune.channel_removal import criteria, importance, widths
from kopt.prune.channel_removal.costs import PrunedCosts
from kopt.prune.channel_removal.rebuilding import rebuild
from kopt.report.channel_pruning import CHANNEL_PRUNING
from kopt.report.look import Shown
from kopt.train import check_inputs
from kopt.train.batch_loss import require_loss
from kopt.train.labelled_batches import labelled_batches

Kept = npt.NDArray[np.bool_]
# Steps between keeping everything and keeping the least, where all groups keep the same share.
_SHARES = 1000

KINDS = ("channels", "units", "heads")


@dataclasses.dataclass(frozen=True)
class ChannelPruning(Shown, ChannelPruningReport):
    """What `channels` did, with ways to show it."""

    look = CHANNEL_PRUNING


def channels(
    model: keras.Model,
    *,
    keep: float | None = None,
    target_macs: float | None = None,
    target_params: float | None = None,
    criterion: str = "l2",
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
            above. Give one of `keep`, `target_macs` and `target_params`.
        target_params: parameters to come down to, in the same way.
        criterion: which channels matter: `"l1"`, `"l2"`, `"geometric_median"`, `"lamp"`, `"bn_scale"` (by the factors
            of normalization layers; `"l2"` where a group has none), `"random"`; with data `"taylor"` and
            `"activation"`. See `kopt.prune.channel_removal.criteria`. A group of several layers takes the mean over
            them, and scores are divided by their mean over the group.
        data: `(x, y)` of arrays, or a `tf.data.Dataset` of such batches, for the criteria that need it.
        loss: of `"taylor"`: a loss of Keras; the compiled one by default.
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
        InputError: the model is not built, or has no channels that can be removed.
        NonFiniteError: a weight is NaN or infinite.
        UnsupportedModelError: a subclassed model, or one that does not rebuild from its config.

    Example:
        ```python
        smaller, report = kopt.prune.channels(model, target_macs=0.5)
        print(report.table())
        ```
    """
    goal = _Goal.of(keep, target_macs, target_params, scope)
    choice("criterion", criterion, criteria.CRITERIA)
    for name, value in (("batches", batches), ("batch_size", batch_size), ("round_to", round_to)):
        whole(name, value)
    whole("min_channels", min_channels)
    if criterion in criteria.NEED_DATA and data is None:
        raise ConfigError(f"`criterion={criterion!r}` needs examples: pass `data=(x, y)`.")
    graph = channel_graph(model, protect=(protect,) if isinstance(protect, str) else tuple(protect))
    for kind in kinds:
        choice("kinds", kind, KINDS)
    graph = _only(graph, kinds)
    _require_free(model, graph)
    require_finite(model)
    before = profile(model)
    costs = PrunedCosts(model, graph, before.macs)
    if goal.quantity == "target_macs" and costs.is_open:
        raise ConfigError(
            f"`target_macs` needs to know the multiply-accumulates, and model {model.name!r} accepts inputs of any "
            f"size: {[tuple(tensor.shape) for tensor in model.inputs]}. Build it with a fixed size, or give `keep` or "
            f"`target_params`."
        )
    tally = _tally(model, graph, criterion, data, loss, batches, batch_size, seed)
    scores, notes = _with_substitute(graph, criterion, tally)
    candidates = [_candidate(group, scores[group.units], criterion, round_to, min_channels) for group in graph.free]
    counts = goal.counts(candidates, lambda counts: _kept(graph, candidates, counts), costs, before)
    kept = _kept(graph, candidates, counts)
    smaller = rebuild(model, graph, kept)
    after = profile(smaller)
    report = ChannelPruning(
        model=model.name,
        goal=goal.text,
        criterion=criterion,
        scope=goal.scope,
        groups=tuple(_rows(graph, candidates, kept)),
        parameters_before=before.parameters,
        parameters_after=after.parameters,
        macs_before=before.macs,
        macs_after=after.macs,
        notes=(*notes, *_notes(graph, costs)),
    )
    return smaller, report


@dataclasses.dataclass(frozen=True)
class _Goal:
    """What is asked for: `quantity` is `"keep"`, `"target_macs"` or `"target_params"`."""

    quantity: str
    value: float
    scope: str

    @classmethod
    def of(cls, keep: Any, target_macs: Any, target_params: Any, scope: str | None) -> "_Goal":
        given = {"keep": keep, "target_macs": target_macs, "target_params": target_params}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            raise ConfigError(
                f"Give one of `keep`, `target_macs` and `target_params`. Received: {', '.join(given) or 'none'}."
            )
        (quantity, value), *_ = given.items()
        number(quantity, value, least=0, most=1 if quantity == "keep" else float("1e18"), open_below=True)
        scope = scope or ("layer" if quantity == "keep" else "global")
        return cls(quantity, value, choice("scope", scope, ("layer", "global")))

    @property
    def text(self) -> str:
        return f"{self.quantity}={self.value:g}" if self.value <= 1 else f"{self.quantity}={self.value:,.0f}"

    def counts(
        self,
        candidates: Sequence[widths.Candidate],
        kept: Callable[[list[int]], Kept],
        costs: PrunedCosts,
        before: Any,
    ) -> list[int]:
        """Return the units left of every candidate."""
        units = sum(candidate.scores.size for candidate in candidates)
        steps = units if self.scope == "global" else _SHARES

        def at(step: int) -> list[int]:
            if self.scope == "global":
                return widths.by_rank(candidates, step)
            return widths.by_share(candidates, 1 - step / steps)

        if self.quantity == "keep":
            share = self.value
            return widths.by_share(candidates, share) if self.scope == "layer" else at(round(units * (1 - share)))
        if self.quantity == "target_macs":
            return self._reach(at, steps, lambda step: costs.macs(kept(at(step))), before.macs, "multiply-accumulates")
        return self._reach(at, steps, lambda step: costs.parameters(kept(at(step))), before.parameters, "parameters")

    def _reach(
        self, at: Callable[[int], list[int]], steps: int, cost: Callable[[int], int], before: int, unit: str
    ) -> list[int]:
        """Return the counts of the first step at which the cost is at most the target: costs fall from step to step."""
        target = self.value * before if self.value < 1 else self.value
        if self.value == 1 or target >= before:
            raise ConfigError(
                f"`{self.quantity}={self.value:g}` is not below what the model has: {before:,} {unit}. Give a share "
                f"below 1, or a smaller count."
            )
        least = cost(steps)
        if least > target:
            raise ConfigError(
                f"`{self.quantity}={self.value:g}` ({target:,.0f} {unit}) cannot be reached: {least:,} "
                f"({least / before:.3f} of {before:,}) are left with every group at its smallest width. Lower "
                f"`round_to` or `min_channels`, or protect fewer layers."
            )
        low, high = 0, steps
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if cost(middle) <= target else (middle, high)
        return at(high)


def heads(
    model: keras.Model,
    *,
    keep: float,
    criterion: str = "l2",
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
        ```python
        smaller, report = kopt.prune.heads(model, keep=0.5, criterion="taylor", data=(x, y))
        ```

    Source: Michel et al., "Are sixteen heads really better than one?", 2019, https://arxiv.org/abs/1905.10650
    """
    return channels(
        model,
        keep=keep,
        criterion=criterion,
        data=data,
        loss=loss,
        batches=batches,
        batch_size=batch_size,
        protect=protect,
        scope=scope,
        kinds=("heads",),
        seed=seed,
    )


def _only(graph: ChannelGraph, kinds: Sequence[str]) -> ChannelGraph:
    """Return the graph with the groups of other kinds made to stay."""
    groups = tuple(
        group
        if group.kind in kinds or group.reason
        else dataclasses.replace(group, reason=f"only {', '.join(kinds)} go")
        for group in graph.groups
    )
    return dataclasses.replace(graph, groups=groups)


def _require_free(model: keras.Model, graph: ChannelGraph) -> None:
    if graph.free:
        return
    reasons = "; ".join(f"{group.layers[0]}: {group.reason}" for group in graph.groups[:10])
    raise InputError(
        f"Model {model.name!r} has no channels that can be removed. {reasons or 'No layer of it makes channels'}. "
        f"`kopt.graph.channel_graph(model).groups` lists all."
    )


def _tally(
    model: keras.Model,
    graph: ChannelGraph,
    criterion: str,
    data: Any,
    loss: Any,
    batches: int,
    batch_size: int,
    seed: int,
) -> importance.Tally:
    if criterion == "bn_scale":
        return importance.by_scale(graph)
    if criterion == "random":
        return importance.at_random(graph, seed)
    if criterion not in criteria.NEED_DATA:
        return importance.by_weights(graph, criterion)
    if criterion == "taylor":
        require_loss(model, loss)
    examples = list(itertools.islice(labelled_batches(data, batch_size), batches))
    if not examples:
        raise ConfigError("`data` has no examples.")
    x, y, weight = examples[0]
    check_inputs(model, x, y, weight, loss=loss)
    if criterion == "taylor":
        return importance.by_gradients(graph, model, examples, loss)
    return importance.by_activations(graph, model, examples)


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


def _candidate(
    group: ChannelGroup, scores: importance.Scores, criterion: str, round_to: int, min_channels: int
) -> widths.Candidate:
    per_unit = group.channels_per_unit
    # Neither the number of heads nor that of recurrent units is a size that kernels want rounded.
    divisor = widths.divisor_of(group.units.size, per_unit, round_to) if group.kind == "channels" else 1
    return widths.Candidate(importance.leveled(scores, criterion), divisor, -(-min_channels // per_unit))


def _kept(graph: ChannelGraph, candidates: Sequence[widths.Candidate], counts: Sequence[int]) -> Kept:
    kept = np.ones(graph.unit_count, np.bool_)
    for group, candidate, count in zip(graph.free, candidates, counts, strict=True):
        kept[group.units] = False
        kept[group.units[widths.best(candidate.scores, count)]] = True
    return kept


def _rows(graph: ChannelGraph, candidates: Sequence[widths.Candidate], kept: Kept) -> Iterable[PrunedGroup]:
    divisors = iter(candidates)
    for group in graph.groups:
        per_unit = group.channels_per_unit
        yield PrunedGroup(
            layers=group.layers,
            kind=group.kind,
            before=group.width,
            after=int(kept[group.units].sum()) * per_unit,
            divisor=1 if group.reason else next(divisors).divisor * per_unit,
            frozen=group.reason,
            remark=group.remark,
        )


def _notes(graph: ChannelGraph, costs: PrunedCosts) -> Iterable[str]:
    yield "The smaller model is not compiled. Train it: what it computes has changed."
    if costs.is_open:
        yield "Multiply-accumulates of layers with open sizes are not known and not counted."
    if graph.doubled:
        yield f"Called in several models, each of which has its own copy now: {', '.join(graph.doubled[:5])}."
