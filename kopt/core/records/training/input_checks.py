"""What is wrong with the first batch, or with the first number that is not finite."""

import dataclasses

from kopt.core.serialization import Record

# In notes on targets of another shape than the output: what a loss of regression makes of it.
STRETCHED, UNFIT = "stretches one to the other", "has no numbers to compare"


@dataclasses.dataclass(frozen=True)
class NonFiniteReport(Record):
    """The first place of a training step at which a number was NaN or infinite.

    Attributes:
        kind: `"input"`, `"weight"`, `"activation"`, `"loss"` or `"gradient"`.
        name: of the input, the path of the weight or layer, or `"loss"`.
        what: the class of the layer; empty for an input and the loss.
        nans, infinities: bad entries of the tensor.
        size: all of its entries.
        index: of the first bad entry.
        dtype: of the tensor.
        detail: what the tensor is, in words.
        hint: what to try.
    """

    kind: str
    name: str
    what: str
    nans: int
    infinities: int
    size: int
    index: tuple[int, ...]
    dtype: str
    detail: str
    hint: str

    def __str__(self) -> str:
        return (
            f"{self.detail} has {self.nans} NaN and {self.infinities} infinite of {self.size} {self.dtype} numbers, "
            f"the first at index {self.index}. {self.hint}"
        )


@dataclasses.dataclass(frozen=True)
class InputScale(Record):
    """An input that is far from a mean of 0 and a deviation of 1, and that the model does not scale.

    Attributes:
        name: of the input.
        mean, deviation: over the first batch.
        remedy: the layer that scales it, as code.
    """

    name: str
    mean: float
    deviation: float
    remedy: str

    def __str__(self) -> str:
        return (
            f"The input {self.name!r} has mean {self.mean:.3g} and standard deviation {self.deviation:.3g} in the "
            f"first batch; networks train best near 0 and 1. Put {self.remedy} first in the model, or scale the data."
        )


@dataclasses.dataclass(frozen=True)
class InputCheck(Record):
    """What was looked at before the first training step, and what is worth knowing about it.

    Attributes:
        examples: in the batch that was looked at.
        inputs: names of the model's inputs.
        notes: warnings and remarks; empty if nothing is unusual. What cannot be trained on is an error instead.
        unscaled: the inputs that a note calls far from 0 and 1.
    """

    examples: int
    inputs: tuple[str, ...]
    notes: tuple[str, ...]
    unscaled: tuple[InputScale, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self.notes) or f"The first batch ({self.examples} examples) fits the model."
