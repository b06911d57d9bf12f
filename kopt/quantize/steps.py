"""What the calls of a model become: steps that TFLite computes as one integer operator each."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from kopt.profile.cost.flat import FlatCall


@dataclasses.dataclass(frozen=True)
class Role:
    """What a step does to ranges.

    Attributes:
        range: of the output: `"observed"`; `"same"` as the first input; `"tied"`: one with all inputs; `"fixed"`;
            `"none"`: its output is not rounded.
        ends: of a fixed range.
        ties: of a `"same"` step that computes means: how they are rounded, see `grids.quantize_means`.
        takes_activation: the activation behind it is part of its operator.
        is_activation: it is such an activation.
        vanishes: inference passes through it, so that a file has no operator for it.
        unfit: why it computes in float; empty if it does not.
    """

    range: str = "observed"
    ends: tuple[float, float] | None = None
    ties: str = ""
    takes_activation: bool = False
    is_activation: bool = False
    vanishes: bool = False
    unfit: str = ""


OBSERVED = Role()
ARITHMETIC = Role(takes_activation=True)
SAME = Role("same")
VANISHING = Role("same", vanishes=True)
AVERAGED = Role("same", ties="away")
INTERPOLATED = Role("same", ties="up")
TIED = Role("tied")
NONE = Role("none")
# Why an operator whose tensors have one range stays in float where activations have 16 bits.
UNTIED = "the TFLite converter refuses trained ranges of 16 bits in an operator with one scale for all"


def left(reason: str) -> Role:
    """Return the role of what computes in float, between rounded inputs and outputs."""
    return Role(unfit=reason)


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One call in the new model.

    Attributes:
        name: of what is called, where it is new.
        flat: the call that it comes from.
        key: equal for the calls of one thing.
        inputs, outputs: keys of tensors.
        role: what it does to ranges.
        make: makes what is called; asked once for each `key`.
        finish: called with it after its first call, when it is built.
        whole: it takes the arguments of the call, not only its first input.
        weights: it is a `QuantizedWeights`, which takes the step of its input, too.
    """

    name: str
    flat: FlatCall
    key: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    role: Role
    make: Callable[[], Any]
    finish: Callable[[Any], None] = lambda made: None
    whole: bool = False
    weights: bool = False

    @property
    def operation(self) -> keras.Operation:
        """What the given model calls."""
        return self.flat.operation
