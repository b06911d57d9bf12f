"""Walks a model from its inputs to its outputs and follows the channels."""

import keras

from kopt.graph.channels.ledger import Ledger, Passage, Visit, fixed
from kopt.graph.channels.maps import ChannelMap, Channels, Fixed, UnfollowedError
from kopt.graph.channels.rules import rule_of
from kopt.graph.internals import node_of
from kopt.graph.layer_names import is_named, named
from kopt.graph.view import Call, GraphView

INPUT, OUTPUT = "it is an input of the model", "it is an output of the model"


def walk(view: GraphView, protect: tuple[str, ...] = ()) -> Ledger:
    """Return what there is to know about the channels of a model.

    Args:
        view: of the model.
        protect: paths or names of layers whose outputs stay as they are, with all layers inside a nested model.

    Raises:
        ConfigError: a name of `protect` is of no layer.
    """
    walker = _Walker(protect)
    outputs = walker.follow(view, tuple(Fixed(INPUT) for _ in view.inputs), "")
    for channels in outputs:
        walker.ledger.freeze(channels, OUTPUT, first=True)
    walker.settle()
    walker.require_known()
    return walker.ledger


class _Walker:
    def __init__(self, protect: tuple[str, ...]):
        self.ledger = Ledger()
        self._protect = protect
        self._paths: dict[str, None] = {}
        self._entered: dict[int, Channels] = {}
        self._unshrunk: list[tuple[keras.Operation, str, str]] = []

    def follow(self, view: GraphView, inputs: tuple[Channels, ...], prefix: str) -> tuple[Channels, ...]:
        """Return the channels of the outputs of `view`."""
        known = {id(tensor): channels for tensor, channels in zip(view.inputs, inputs, strict=True)}
        for call in view.calls:
            path = f"{prefix}{call.operation.name}"
            taken = tuple(known[id(tensor)] for tensor in call.inputs)
            if call.nested is not None:
                given = self._nested(call, taken, path)
            else:
                given = self._given(Visit(path, call, taken, self.ledger))
                self.ledger.passages.append(Passage(path, call, taken, given))
            self._paths[path] = None
            if any(is_named(path, name) for name in self._protect):
                for channels in given:
                    self.ledger.freeze(channels, "it is protected")
                self.ledger.freeze_made(call.operation, "it is protected")
            known.update({id(tensor): channels for tensor, channels in zip(call.outputs, given, strict=True)})
        return tuple(known[id(tensor)] for tensor in view.outputs)

    def _nested(self, call: Call, taken: tuple[Channels, ...], path: str) -> tuple[Channels, ...]:
        assert call.nested is not None
        if len(taken) != len(call.nested.inputs):
            return fixed(Visit(path, call, taken, self.ledger), f"{path!r} is called with masks")
        for tensor, channels in zip(call.nested.inputs, taken, strict=True):
            self._enter(tensor, channels, f"{path}/{node_of(tensor).operation.name}", call)
        return self.follow(call.nested, taken, f"{path}/")

    def _enter(self, tensor: keras.KerasTensor, channels: Channels, path: str, call: Call) -> None:
        """Write down the input of a nested model; if it is called again, its shape must stay one."""
        known = self._entered.setdefault(id(tensor), channels)
        if isinstance(channels, ChannelMap) and isinstance(known, ChannelMap) and channels.axis == known.axis:
            Visit(path, call, (), self.ledger).setting("batch_shape", channels.ids, channels.axis)
            return
        for one in (known, channels):
            self.ledger.freeze(one, f"{path!r} takes other tensors, too")

    def _given(self, visit: Visit) -> tuple[Channels, ...]:
        operation, rule = visit.operation, rule_of(visit.operation)
        kind = type(operation).__name__
        if not getattr(operation, "weights", ()) and all(isinstance(channels, Fixed) for channels in visit.inputs):
            reason = visit.inputs[0].reason if visit.inputs and isinstance(visit.inputs[0], Fixed) else "a constant"
            self._unshrunk.append((operation, visit.path, f"{visit.path!r} takes other tensors, too"))
            return tuple(Fixed(reason) for _ in visit.call.outputs)
        if rule is None:
            return self._unfollowed(visit, f"{visit.path!r} ({kind}) is not known to kopt")
        try:
            found = rule(visit)
        except UnfollowedError as reason:
            text = f"{visit.path!r} ({kind}): {reason}"
            self._unshrunk.append((operation, visit.path, text))
            return self._unfollowed(visit, text)
        return (found,) if isinstance(found, (ChannelMap, Fixed)) else tuple(found)

    def _unfollowed(self, visit: Visit, reason: str) -> tuple[Channels, ...]:
        if getattr(visit.operation, "weights", ()):
            self.ledger.unfollowed.setdefault(visit.path, reason)
        return fixed(visit, reason)

    def settle(self) -> None:
        """Make a layer stay in all of its calls if it has to in one."""
        for operation, path, reason in self._unshrunk:
            self.ledger.freeze_operation(operation, path, reason)

    def require_known(self) -> None:
        """Raise if a name to protect was not seen."""
        for name in self._protect:
            named(self._paths, name, "protect")
