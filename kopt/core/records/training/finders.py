"""What tests before training find, as frozen records: learning rates, batch sizes, memory; the unit is in the name."""

import dataclasses

from kopt.core.errors import TrainingError
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class LearningRateCurve(Record):
    """Losses of single training steps while the learning rate grew from step to step.

    Attributes:
        rates: learning rate of each step that was run.
        losses: loss of each step's batch, before the step's update; all finite.
        smoothed: weighted means over neighboring steps.
        steepest, valley, minimum: rates that the curve suggests (formulas: `kopt.train.finders.rate_curve`); `None` if
            the loss did not fall.
        stopped: why the test ended: `"completed"`, `"diverged"`, `"non-finite loss"` or `"data ended"`.
        passes: how often the data was begun.
        notes: what the reader should know, in sentences.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float | None
    valley: float | None
    minimum: float | None
    stopped: str
    passes: int
    notes: tuple[str, ...] = ()

    @property
    def suggestion(self) -> float:
        """The rate to train with: `steepest`.

        Raises:
            TrainingError: the loss did not fall, so there is none.
        """
        if self.steepest is None:
            raise TrainingError(
                f"The loss did not fall between the learning rates {self.rates[0]:.3g} and {self.rates[-1]:.3g}, so no "
                f"rate can be suggested. {' '.join(self.notes)} Check that labels belong to their inputs and that the "
                f"inputs are scaled, or test other rates, or with more steps."
            )
        return self.steepest


@dataclasses.dataclass(frozen=True)
class BatchTrial(Record):
    """A batch size that was tried.

    Attributes:
        fits: it could be trained with.
        run: steps were run; false where the memory was predicted and is above the limit.
        peak_memory_bytes: most that TensorFlow had allocated on the device while stepping, or the prediction; `None` if
            the device ran out of memory.
        resident_bytes: on a CPU, what this made of the resident memory of the process, or the prediction; `None` on a
            GPU.
        step_ms: median time of a step.
        examples_per_s: batch size divided by that.
        reason: why it does not fit.
    """

    batch_size: int
    fits: bool
    run: bool
    peak_memory_bytes: int | None
    resident_bytes: int | None = None
    step_ms: float | None = None
    examples_per_s: float | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class BatchSizeSearch(Record):
    """Every batch size that was tried, in the order of trying, and the choice.

    Attributes:
        largest: largest batch size that fits.
        fastest: batch size with the most examples a second.
        chosen: the one for `objective`, `"memory"` or `"throughput"`.
        why: in words, for `chosen`.
        limit_bytes: what `resident_bytes` on a CPU, `peak_memory_bytes` on a GPU was not to exceed; `None` where only
            the device itself ends the search.
        stopped: why no larger batch was tried, in words.
        device: where the steps ran.
    """

    trials: tuple[BatchTrial, ...]
    largest: int
    fastest: int
    chosen: int
    objective: str
    why: str
    limit_bytes: int | None
    stopped: str
    device: str


@dataclasses.dataclass(frozen=True)
class LayerMemory(Record):
    """Bytes that one layer keeps from the forward for the backward pass."""

    layer: str
    activation_bytes: int


@dataclasses.dataclass(frozen=True)
class MemoryEstimate(Record):
    """Memory of one training step, worked out from its graph without running it.

    Attributes:
        weights_bytes: all variables of the model.
        optimizer_bytes: all variables of the optimizer.
        gradients_bytes: gradients of the trainable weights, all at once.
        batch_bytes: the batch itself.
        activations_bytes: what the forward pass keeps for the backward pass, all layers together.
        step_bytes: most memory that the step's own tensors (batch, activations, gradients) take at one moment.
        layers: layers that keep most, largest first.
        notes: what is not counted.
    """

    model: str
    batch_size: int
    weights_bytes: int
    optimizer_bytes: int
    gradients_bytes: int
    batch_bytes: int
    activations_bytes: int
    step_bytes: int
    layers: tuple[LayerMemory, ...]
    notes: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Weights, optimizer and the step's tensors at their peak."""
        return self.weights_bytes + self.optimizer_bytes + self.step_bytes


@dataclasses.dataclass(frozen=True)
class MemoryRemedy(Record):
    """A change after which a training step needs less memory.

    Attributes:
        words: what it is and costs.
        code: that makes it.
        total_bytes: what the step then needs, about.
    """

    words: str
    code: str
    total_bytes: int
