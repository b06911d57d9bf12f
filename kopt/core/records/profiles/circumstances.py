"""The circumstances of a model that advice is given on and no profile holds: frozen, serialisable."""

import dataclasses
from typing import ClassVar

from kopt.core.records.training.finders import MemoryEstimate, MemoryRemedy
from kopt.core.records.training.input_checks import InputScale
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class TrainingSettings(Record):
    """How a model is built and compiled.

    Attributes:
        optimizer: class name; empty if it is not compiled.
        learning_rate: now; `None` with a schedule or without an optimizer.
        iterations: updates so far.
        run_eagerly, jit_compile, steps_per_execution: as `fit` will use them.
        compute_dtypes: number of layers, by the type they compute in.
        output_dtypes: of the outputs.
        scales_loss: the optimizer scales the loss.
        batch_norms: paths of batch normalizations that are trained.
        dropouts: rate by path.
    """

    optimizer: str
    learning_rate: float | None
    iterations: int
    run_eagerly: bool
    jit_compile: bool
    steps_per_execution: int
    compute_dtypes: dict[str, int]
    output_dtypes: tuple[str, ...]
    scales_loss: bool
    batch_norms: tuple[str, ...]
    dropouts: dict[str, float]


@dataclasses.dataclass(frozen=True)
class RuntimeSettings(Record):
    """What TensorFlow may use in this process.

    Attributes:
        cores: of the machine.
        threads: that one operation may use; 0 leaves it to TensorFlow, which takes all.
        openmp_threads: `OMP_NUM_THREADS`; `None` if it is not set.
        gpus: that TensorFlow sees.
        nvidia_driver: the system has one loaded.
        replicas: copies of the model that its strategy trains.
    """

    cores: int
    threads: int
    openmp_threads: int | None
    gpus: int
    nvidia_driver: bool
    replicas: int


@dataclasses.dataclass(frozen=True)
class DataFacts(Record):
    """The first batches of the training data.

    Attributes:
        batch_size: examples of the first batch.
        batches, examples: that were read.
        shapes: how many of the batches had each shape of inputs, by its text; the last of an epoch is left out.
        unscaled: inputs far from 0 and 1 that the model does not scale itself.
        classes: examples by class; empty where targets are no classes.
        error_type, error: what keeps the first batch from being trained on, in the words of `kopt.train.check_inputs`.
        notes: remarks of the same.
    """

    batch_size: int
    batches: int
    examples: int
    shapes: dict[str, int]
    unscaled: tuple[InputScale, ...]
    classes: dict[str, int]
    error_type: str = ""
    error: str = ""
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class InferenceFacts(Record):
    """What a model answers in inference (`training=False`, as `predict` and files do), on a few examples.

    Attributes:
        examples: that were asked.
        nonfinite: entries of the outputs that are NaN or infinite.
        repeat_difference: largest difference between two calls with the same examples, over the largest output.
        batch_difference: likewise between one example alone and the same in the batch.
    """

    examples: int
    nonfinite: int
    repeat_difference: float
    batch_difference: float


@dataclasses.dataclass(frozen=True)
class LayerActivity(Record):
    """The channels of one layer's output over some examples.

    Attributes:
        layer: path.
        type: class name.
        channels: of the last axis.
        constant: that give one number for all examples and positions.
        copies: of the others, those that follow an earlier channel with a correlation above 0.99.
    """

    layer: str
    type: str
    channels: int
    constant: int
    copies: int


@dataclasses.dataclass(frozen=True)
class ChannelActivity(Record):
    """The channels of a model over some examples."""

    examples: int
    layers: tuple[LayerActivity, ...]


@dataclasses.dataclass(frozen=True)
class StepSpeeds(Record):
    """Milliseconds of a training step in several settings, all else as it is.

    Attributes:
        batch_examples: examples of the batch.
        compiled_ms: as the model is compiled.
        plain_ms: as a graph, without XLA, one step a call.
        jit_ms: with XLA; `None` if `jit_refusal` says why not.
        many_ms: several steps a call, of one.
        many: steps a call there.
        larger_ms: as `plain_ms`, of a batch that is `larger` times as large; `None` if it was not tried.
        larger: how many times.
        jit_refusal: why XLA was not tried; empty if it was.
    """

    batch_examples: int
    compiled_ms: float
    plain_ms: float
    jit_ms: float | None
    many_ms: float
    many: int
    larger_ms: float | None = None
    larger: int = 4
    jit_refusal: str = ""


@dataclasses.dataclass(frozen=True)
class FitScores(Record):
    """Loss and accuracy in inference on training and validation examples.

    Attributes:
        examples: of each.
        accuracy, validation_accuracy: `None` for a model without that metric.
        chance_loss: cross-entropy of answering with the shares of the classes; `None` for another loss.
        cross_entropy: of the training examples, without what the model's loss has beside it (regularization, smoothing,
            weights of classes), so that it can be held against that; `None` where there is no `chance_loss`.
    """

    examples: int
    loss: float
    validation_loss: float
    accuracy: float | None
    validation_accuracy: float | None
    chance_loss: float | None
    cross_entropy: float | None = None


@dataclasses.dataclass(frozen=True)
class MemoryNeeds(Record):
    """What a training step needs against what there is.

    Attributes:
        estimate: of the step.
        limit_bytes: of the device.
        remedies: what needs less, the least effort first; not worked out for a step that fits.
    """

    # Resident memory was up to half as much again as the estimate (`kopt.train.estimate_memory`).
    MARGIN: ClassVar[float] = 1.5

    estimate: MemoryEstimate
    limit_bytes: int
    remedies: tuple[MemoryRemedy, ...]

    def fits(self, total_bytes: int) -> bool:
        """Return whether a step of that estimate fits with the margin."""
        return self.MARGIN * total_bytes <= self.limit_bytes


@dataclasses.dataclass(frozen=True)
class DeployedFile(Record):
    """A way to ship the model, as it was measured.

    Attributes:
        name: e.g. `"tflite-int8"`; `"keras"` for the model itself.
        scheme: numeric scheme.
        threads: that the runtime was given; `None` for its own choice.
        latency_ms: median of a call with one example; `None` if it was not measured.
        size_bytes: of the file; `None` for the model itself.
        drop: how much of the metric is lost; `None` if it was not judged.
        reason: why there is no file.
    """

    name: str
    scheme: str
    threads: int | None
    latency_ms: float | None
    size_bytes: int | None
    drop: float | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Deployment(Record):
    """Ways to ship a model, measured together, and what may be lost.

    Attributes:
        files: the model itself first.
        max_drop: of the metric; `None` if nothing was said.
    """

    files: tuple[DeployedFile, ...]
    max_drop: float | None = None

    def file(self, name: str) -> DeployedFile | None:
        """Return what was measured under this name."""
        return next((one for one in self.files if one.name == name), None)
