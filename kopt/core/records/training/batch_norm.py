"""What became of the statistics and momenta of batch normalizations."""

import dataclasses

from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class BatchNormChange(Record):
    """How the statistics of one batch normalization changed.

    Attributes:
        layer: its path in the model.
        values: numbers that each channel's new statistics were computed from.
        mean_shift: root mean square over the channels of the change of the mean, in old standard deviations.
        variance_ratio: geometric mean over the channels of new variance over old.
    """

    layer: str
    values: int
    mean_shift: float
    variance_ratio: float


@dataclasses.dataclass(frozen=True)
class BatchNormReport(Record):
    """What a re-estimation of batch normalization statistics did.

    Attributes:
        mode: `"joint"` or `"sequential"`.
        batches, examples: what was read.
        layers: changed layers in the order in which the model calls them.
        skipped: layers that were left as they were, as (path, reason).
    """

    mode: str
    batches: int
    examples: int
    layers: tuple[BatchNormChange, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class MomentumChange(Record):
    """One adaptation of the momentum of a batch normalization.

    Attributes:
        step: training steps since the start of `fit`.
        layer: name of the layer.
        drift: distance of the recent batch statistics from the moving ones, in standard deviations.
        momentum: what the layer uses from then on.
    """

    step: int
    layer: str
    drift: float
    momentum: float
