"""What post-training quantization tried and chose: frozen, serialisable."""

import dataclasses

from kopt.core.records.changes.aware_training import Quantization
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class TriedOption(Record):
    """A row of the table of options, as it came out.

    Attributes:
        name: of the option.
        changes: what it changes: kernels, biases, ranges.
        kept: the returned model has it.
        error: of the outputs with it and with what was kept before it, see `PostTrainingQuantization`; `None`: it was
            not measured.
        layers: how many it changed.
        reason: why it was kept or not.
    """

    name: str
    changes: tuple[str, ...]
    kept: bool
    error: float | None
    layers: int
    reason: str


@dataclasses.dataclass(frozen=True)
class PostTrainingQuantization(Record):
    """What `kopt.quantize.post_training` did.

    Errors are root mean squares of the difference between outputs of the float model and of the rounded one, before
    their softmax, sigmoid or argmax, as shares of the root mean square of the float outputs, on examples from which
    nothing was learned.

    Attributes:
        quantization: what is rounded.
        examples: from which ranges and corrections come.
        held_out: on which errors are measured.
        plain_error: of ranges from the extremes and nothing else.
        error: of the returned model.
        agreement: share of the held-out examples whose largest output is that of the float model; `None` if outputs
            have a single entry.
        options: in the order of the table.
        warnings: what there is to know about the examples.
    """

    quantization: Quantization
    examples: int
    held_out: int
    plain_error: float
    error: float
    agreement: float | None
    options: tuple[TriedOption, ...]
    warnings: tuple[str, ...] = ()
