"""Everything that is known of a model in one record: frozen, serialisable."""

import dataclasses

from kopt.core.records.measurements import Machine
from kopt.core.records.profiles.cost import ModelProfile, RooflineProfile
from kopt.core.records.profiles.gradients import GradientProfile
from kopt.core.records.profiles.parameters import ParameterProfile
from kopt.core.records.profiles.sensitivity import SensitivityProfile
from kopt.core.records.profiles.time import LayerTimes, OpProfile
from kopt.core.serialization import Record

PARTS = ("cost", "roofline", "parameters", "layer times", "operations", "gradients", "sensitivity")


@dataclasses.dataclass(frozen=True)
class FullProfile(Record):
    """The profiles of a model, as far as they could be made.

    Attributes:
        model: name.
        cost: by layer.
        roofline: `None` as everything below if it was not asked for or could not be made; see `skipped`.
        parameters: by variable.
        layer_times: forward and backward times.
        operations: times of TensorFlow's operations.
        gradients: by variable.
        sensitivity: by layer.
        skipped: why a part is missing, by part.
        machine: where times were measured.
        seconds: that it took.
    """

    model: str
    cost: ModelProfile
    roofline: RooflineProfile | None
    parameters: ParameterProfile | None
    layer_times: LayerTimes | None
    operations: OpProfile | None
    gradients: GradientProfile | None
    sensitivity: SensitivityProfile | None
    skipped: dict[str, str]
    machine: Machine
    seconds: float
