"""The channels of a model as groups that can shrink, with everything that must shrink with them."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from kopt.core.settings import names
from kopt.graph.channels.ledger import Block, Ledger, Passage
from kopt.graph.channels.maps import ChannelMap, Channels, Fixed
from kopt.graph.channels.space import Ids, Units
from kopt.graph.channels.walk import INPUT, OUTPUT, walk
from kopt.graph.view import Call, GraphView


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Units that come from the same layers: as many as one likes of them can go.

    Attributes:
        units: numbers of the units, in the order of the channels.
        layers: paths of the layers that make the channels.
        width: channels of each of these layers that belong to the group; of the layer with fewest, where they differ.
        kind: `"channels"`, `"units"` of recurrent layers, or `"heads"`.
        reason: why all of them stay; `""` if they may be removed.
        remark: what else changes when some are removed, e.g. a normalization over all channels; `""` if nothing does.

    Example:
        >>> group = kopt.graph.channel_graph(model).groups[-1]
        >>> group.layers, group.width, group.reason
        (('classes',), 10, 'it is an output of the model')
    """

    units: Ids
    layers: tuple[str, ...]
    width: int
    kind: str
    reason: str
    remark: str

    @property
    def channels_per_unit(self) -> int:
        """Channels of one layer that go together, e.g. one of each group of a grouped convolution."""
        return max(1, self.width // self.units.size)


@dataclasses.dataclass(frozen=True, eq=False)
class WeightAxis:
    """The units along an axis of a variable; `role` as in `kopt.graph.channels.ledger.Entry`."""

    path: str
    variable: Any
    axis: int
    units: Ids
    role: str


@dataclasses.dataclass(frozen=True, eq=False)
class SizeSetting:
    """A size in a config, `config[key]` or `config[key][index]`, that counts these units; dots go into dicts."""

    path: str
    key: str
    index: int | None
    units: Ids


@dataclasses.dataclass(frozen=True, eq=False)
class Flow:
    """What goes through a call: of every tensor the axis of the channels and their units, `None` if it is fixed.

    Attributes:
        path: names from the outside in.
        call: as its graph has it; never of a nested model.
        inputs, outputs: in the order of `call.inputs` and `call.outputs`.
    """

    path: str
    call: Call
    inputs: tuple[tuple[int, Ids] | None, ...]
    outputs: tuple[tuple[int, Ids] | None, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGraph:
    """Which channels of a model depend on each other.

    Attributes:
        unit_count: units are numbered from 0.
        groups: of all channels that layers make, also of those that stay.
        weights: every axis of a variable that has channels.
        settings: every size in a config that counts channels.
        flows: the calls in order, those of nested models one by one.
        doubled: paths of layers that are called inside a nested model and outside of it.
        unfollowed: why layers with weights stay whole that kopt cannot follow channels through.

    Example:
        >>> graph = kopt.graph.channel_graph(model)
        >>> graph.unit_count, [group.layers for group in graph.groups]  # a unit a channel, one of them the input's
        (35, [('conv1',), ('conv2',), ('classes',)])
    """

    unit_count: int
    groups: tuple[ChannelGroup, ...]
    weights: tuple[WeightAxis, ...]
    settings: tuple[SizeSetting, ...]
    flows: tuple[Flow, ...]
    doubled: tuple[str, ...]
    unfollowed: tuple[str, ...] = ()

    @property
    def free(self) -> tuple[ChannelGroup, ...]:
        """The groups of which channels can be removed."""
        return tuple(group for group in self.groups if not group.reason)


def channel_graph(model: keras.Model, *, protect: Iterable[str] = ()) -> ChannelGraph:
    """Return which channels of a model can be removed, and what must go with them.

    Use it to see what `kopt.prune.channels` can do, or to write another criterion. The model is walked from its inputs
    to its outputs: layers with weights make channels, additions tie them one to one, concatenations put them side by
    side, a flattening repeats them. What kopt does not know makes the channels that reach it stay.

    Args:
        model: built Functional or Sequential model, nested as one likes; not changed.
        protect: names or paths of layers that keep their outputs.

    Raises:
        InputError: the model is not built.
        UnsupportedModelError: a subclassed model.
        ConfigError: a name of `protect` is of no layer.

    Example:
        >>> for group in kopt.graph.channel_graph(model).groups:
        ...     print(group.layers, group.width, group.reason or "any of them can go")
        ('conv1',) 8 any of them can go
        ('conv2',) 16 any of them can go
        ('classes',) 10 it is an output of the model
    """
    ledger = walk(GraphView.of(model), names("protect", protect))
    units = ledger.space.resolve()
    return ChannelGraph(
        unit_count=len(units.reasons),
        groups=tuple(_groups(list(ledger.blocks.values()), units)),
        weights=tuple(
            WeightAxis(entry.path, entry.variable, entry.axis, units.of_id[entry.ids], entry.role)
            for entry in ledger.entries.values()
        ),
        settings=tuple(
            SizeSetting(setting.path, setting.key, setting.index, units.of_id[setting.ids])
            for setting in ledger.settings.values()
        ),
        flows=tuple(_flow(passage, units) for passage in ledger.passages),
        doubled=_doubled(ledger),
        unfollowed=tuple(ledger.unfollowed.values()),
    )


def end_layers(model: keras.Model) -> tuple[set[str], set[str]]:
    """Return the paths of the layers that take inputs of a model, and of those that make the channels of its outputs.

    Both also through operations that change no channels. Of a model with several inputs or outputs they are several.

    Args:
        model: built Functional or Sequential model.

    Raises:
        InputError: the model is not built.
        UnsupportedModelError: a subclassed model.
    """
    ledger = walk(GraphView.of(model))
    first = {one.path for one in ledger.passages if any(given == Fixed(INPUT) for given in one.inputs)}
    groups = _groups(list(ledger.blocks.values()), ledger.space.resolve())
    return first, {path for group in groups if group.reason == OUTPUT for path in group.layers}


def _groups(blocks: list[Block], units: Units) -> list[ChannelGroup]:
    """Return the units by the layers that make them, by how often, and by whether they may go."""
    makers: dict[int, dict[int, int]] = {}
    for number, block in enumerate(blocks):
        for unit in units.of_id[block.ids].tolist():
            counts = makers.setdefault(unit, {})
            counts[number] = counts.get(number, 0) + 1
    together: dict[Any, list[int]] = {}
    for unit, counts in makers.items():
        key = (tuple(counts.items()), units.reasons[unit], units.remarks[unit])
        together.setdefault(key, []).append(unit)
    return [
        ChannelGroup(
            units=np.array(members, np.int64),
            layers=tuple(blocks[number].path for number, _ in counts),
            width=len(members) * min(count for _, count in counts),
            kind=blocks[counts[0][0]].kind,
            reason=reason or ("it is the only one" if len(members) == 1 else ""),
            remark=remark,
        )
        for (counts, reason, remark), members in together.items()
    ]


def _flow(passage: Passage, units: Units) -> Flow:
    def resolved(channels: Channels) -> tuple[int, Ids] | None:
        return (channels.axis, units.of_id[channels.ids]) if isinstance(channels, ChannelMap) else None

    inputs, outputs = (tuple(map(resolved, side)) for side in (passage.inputs, passage.outputs))
    return Flow(passage.path, passage.call, inputs, outputs)


def _doubled(ledger: Ledger) -> tuple[str, ...]:
    paths: dict[int, list[str]] = {}
    for passage in ledger.passages:
        seen = paths.setdefault(id(passage.call.operation), [])
        if passage.path not in seen:
            seen.append(passage.path)
    return tuple(path for seen in paths.values() for path in seen[1:])
