"""Everything that rules read, as far as it is known: one record a look, `None` where nobody looked."""

import dataclasses

from kopt.core.records.changes.quantization_diagnosis import QuantizationDiagnosis
from kopt.core.records.checks import Check
from kopt.core.records.profiles.circumstances import (
    ChannelActivity,
    DataFacts,
    Deployment,
    FitScores,
    InferenceFacts,
    MemoryNeeds,
    RuntimeSettings,
    StepSpeeds,
    TrainingSettings,
)
from kopt.core.records.profiles.cost import ModelProfile, RooflineProfile
from kopt.core.records.profiles.gradients import GradientProfile
from kopt.core.records.profiles.parameters import ParameterProfile
from kopt.core.records.profiles.sensitivity import SensitivityProfile
from kopt.core.records.profiles.time import LayerTimes
from kopt.core.records.profiles.training import TrainingTrends
from kopt.core.records.training.data import PipelineDiagnosis
from kopt.core.records.training.distribution import DistributionPlan
from kopt.core.records.training.finders import LearningRateCurve
from kopt.core.records.training.hardware import PrecisionChoice


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a model, its training, its data and the machine.

    Attributes:
        installation: versions and clashes.
        runtime: what TensorFlow may use here.
        precision: that suits this hardware.
        distribution: strategy that suits its devices.
        settings: how the model is compiled.
        cost: by layer.
        parameters: by variable.
        data: the first batches.
        inference: a few answers.
        activity: of channels.
        fit: scores on training and validation data.
        memory: of a training step.
        gradients: by variable.
        trends: of a training that was watched, or of its history.
        pipeline: times of the input.
        steps: times of a training step in several settings.
        rates: losses while the learning rate grows.
        layer_times: of a training step.
        roofline: compute or memory, by layer.
        sensitivity: of layers to pruning and rounding.
        quantization: rounding error by layer.
        deployment: files in their runtimes.

    Example:
        >>> facts = kopt.advice.Facts(cost=kopt.profile.model(model), parameters=kopt.profile.parameters(model))
        >>> facts.cost.macs, facts.gradients  # what was not looked at is `None`
        (16416, None)
    """

    installation: tuple[Check, ...] | None = None
    runtime: RuntimeSettings | None = None
    precision: PrecisionChoice | None = None
    distribution: DistributionPlan | None = None
    settings: TrainingSettings | None = None
    cost: ModelProfile | None = None
    parameters: ParameterProfile | None = None
    data: DataFacts | None = None
    inference: InferenceFacts | None = None
    activity: ChannelActivity | None = None
    fit: FitScores | None = None
    memory: MemoryNeeds | None = None
    gradients: GradientProfile | None = None
    trends: TrainingTrends | None = None
    pipeline: PipelineDiagnosis | None = None
    steps: StepSpeeds | None = None
    rates: LearningRateCurve | None = None
    layer_times: LayerTimes | None = None
    roofline: RooflineProfile | None = None
    sensitivity: SensitivityProfile | None = None
    quantization: QuantizationDiagnosis | None = None
    deployment: Deployment | None = None
