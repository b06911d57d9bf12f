"""What a walk writes down: who makes channels, which weights and settings have them, what goes through a call."""

import dataclasses
from typing import Any

import keras

from kopt.graph.channels.maps import ChannelMap, Channels, Fixed, UnfollowedError
from kopt.graph.channels.space import ChannelSpace, Ids
from kopt.graph.view import Call

# What the entries of a weight mean along an axis. A channel is zero if its kernels, biases, scales, offsets and means
# are; "other" are weights that leave a zero what it is.
ROLES = ("kernel", "bias", "scale", "offset", "mean", "other", "input")


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """Ids along an axis of a variable.

    Attributes:
        path: of the layer.
        variable: `keras.Variable`.
        axis: of the variable, counted from the front.
        ids: of every index of that axis.
        role: one of `ROLES`: what it is to the channels that it makes, or `"input"` if it reads them.
    """

    path: str
    variable: Any
    axis: int
    ids: Ids
    role: str


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """A size in the config of a layer or operation: `config[key]`, or `config[key][index]`; dots go into dicts."""

    path: str
    key: str
    index: int | None
    ids: Ids


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Channels that one layer makes.

    Attributes:
        path: of the layer.
        ids: one a channel, in order.
        kind: `"channels"`, `"units"` of a recurrent layer or `"heads"` of attention.
    """

    path: str
    ids: Ids
    kind: str


@dataclasses.dataclass(frozen=True, eq=False)
class Passage:
    """A call that was followed.

    Attributes:
        path: names from the outside in.
        call: as its graph has it; never of a nested model.
        inputs, outputs: channels of the tensors of `call.inputs` and `call.outputs`.
    """

    path: str
    call: Call
    inputs: tuple[Channels, ...]
    outputs: tuple[Channels, ...]


class Ledger:
    """Everything that a walk finds out; what two calls say of one variable is tied."""

    def __init__(self) -> None:
        self.space = ChannelSpace()
        self.entries: dict[tuple[int, int], Entry] = {}
        self.settings: dict[tuple[str, str, int | None], Setting] = {}
        self.blocks: dict[tuple[int, str], Block] = {}
        self.passages: list[Passage] = []
        self.unfollowed: dict[str, str] = {}

    def freeze(self, channels: Channels, reason: str, *, first: bool = False) -> None:
        """Make the channels of a tensor stay."""
        if isinstance(channels, ChannelMap):
            self.space.freeze(channels.ids, reason, first=first)

    def freeze_operation(self, operation: Any, path: str, reason: str) -> None:
        """Make everything stay that is written down of a layer: one of its calls cannot shrink."""
        own = {id(variable) for variable in getattr(operation, "variables", ())}
        written = [entry.ids for (variable, _), entry in self.entries.items() if variable in own]
        written += [block.ids for (maker, _), block in self.blocks.items() if maker == id(operation)]
        written += [setting.ids for setting in self.settings.values() if setting.path == path]
        for ids in written:
            self.space.freeze(ids, reason)

    def freeze_made(self, operation: Any, reason: str) -> None:
        """Make the channels stay that a layer makes, also those that do not leave it, as heads of attention."""
        for (maker, _), block in self.blocks.items():
            if maker == id(operation):
                self.space.freeze(block.ids, reason)

    def ids(self, channels: Channels, axis: int, shape: tuple[int | None, ...]) -> Ids:
        """Return the ids of a tensor along `axis`; of a fixed one new ids that stay.

        Raises:
            UnfollowedError: the channels are on another axis, or the size is open.
        """
        axis %= len(shape)
        size = shape[axis]
        if isinstance(channels, ChannelMap):
            if channels.axis != axis:
                raise UnfollowedError("it takes another axis for the channels")
            return channels.ids
        if size is None:
            raise UnfollowedError("the number of channels is open")
        ids = self.space.new(size)
        self.space.freeze(ids, channels.reason)
        return ids


@dataclasses.dataclass(frozen=True, eq=False)
class Visit:
    """One call with the channels of its inputs: what a rule gets.

    Attributes:
        path: of the layer or operation.
        call: as its graph has it.
        inputs: channels of the tensors of `call.inputs`.
        ledger: to write down what is found.
        prefix: of keys in the config; that of a wrapper holds the config of the layer inside, at `"layer.config."`.
    """

    path: str
    call: Call
    inputs: tuple[Channels, ...]
    ledger: Ledger
    prefix: str = ""

    @property
    def operation(self) -> Any:
        """What is called."""
        return self.call.operation

    def main(self) -> keras.KerasTensor:
        """Return the only tensor that data comes in by; masks do not count.

        Raises:
            UnfollowedError: there is another one.
        """
        args, kwargs = self.call.arguments
        tensors = _tensors([args, {key: value for key, value in kwargs.items() if not key.endswith("mask")}])
        if len(tensors) != 1:
            raise UnfollowedError("it is called with several tensors")
        return tensors[0]

    def of(self, tensor: keras.KerasTensor) -> Channels:
        """Return the channels of an input."""
        return next(found for one, found in zip(self.call.inputs, self.inputs, strict=True) if one is tensor)

    def ids(self, axis: int, tensor: keras.KerasTensor | None = None) -> Ids:
        """Return the ids along `axis` of an input, by default of the only one; see `Ledger.ids`."""
        tensor = self.main() if tensor is None else tensor
        return self.ledger.ids(self.of(tensor), axis, tuple(tensor.shape))

    def variable(self, name: str) -> Any:
        """Return the variable of the layer that has this name, or `None`."""
        return next((one for one in self.operation.variables if one.name == name), None)

    def require_variables(self, *names: str) -> None:
        """Raise `UnfollowedError` if the layer has others than these, e.g. those of a quantized layer."""
        others = [one.name for one in self.operation.variables if one.name not in names]
        if others:
            raise UnfollowedError(f"it has the weights {', '.join(others)}")

    def block(self, size: int, kind: str = "channels") -> Ids:
        """Return ids of channels that the layer makes; at every call of a shared layer the same."""
        blocks, key = self.ledger.blocks, (id(self.operation), kind)
        if key not in blocks:
            blocks[key] = Block(self.path, self.ledger.space.new(size), kind)
        return blocks[key].ids

    def entry(self, variable: Any, axis: int, ids: Ids, role: str) -> None:
        """Say that a variable has these ids along an axis; without a variable nothing happens."""
        if variable is None:
            return
        axis %= len(variable.shape)
        known = self.ledger.entries.setdefault((id(variable), axis), Entry(self.path, variable, axis, ids, role))
        self.ledger.space.tie(known.ids, ids)

    def setting(self, key: str, ids: Ids, index: int | None = None) -> None:
        """Say that a size in the config counts these ids."""
        found = Setting(self.path, f"{self.prefix}{key}", index, ids)
        known = self.ledger.settings.setdefault((found.path, found.key, index), found)
        self.ledger.space.tie(known.ids, ids)


def _tensors(structure: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, keras.KerasTensor)]


def fixed(visit: Visit, reason: str) -> tuple[Channels, ...]:
    """Make everything that the call takes stay, and return that what it gives stays, too."""
    for channels in visit.inputs:
        visit.ledger.freeze(channels, reason)
    return tuple(Fixed(reason) for _ in visit.call.outputs)
