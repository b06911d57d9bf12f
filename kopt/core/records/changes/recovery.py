"""How a pruned model came back: frozen, serialisable."""

import dataclasses

from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class RecoveryStage(Record):
    """What a model was worth at one moment.

    Attributes:
        name: `"as given"`, `"batch normalization"` or `"epoch 1"` and so on.
        loss: on the examples it was judged on, with the penalties of layers; without distillation.
        metric: on the same; `None` if only the loss was asked for.
    """

    name: str
    loss: float
    metric: float | None = None


@dataclasses.dataclass(frozen=True)
class RecoveryReport(Record):
    """A fine-tuning, stage by stage.

    Attributes:
        model: name.
        metric: by which the best stage was chosen; `"loss"`: the lowest, any other: the highest.
        judged_on: `"validation"` or `"train"`.
        teacher: name of the model that was learned from; `""` if there was none.
        stages: in order, `"as given"` first.
        best: name of the stage whose weights the returned model has.
    """

    model: str
    metric: str
    judged_on: str
    teacher: str
    stages: tuple[RecoveryStage, ...]
    best: str

    def value(self, stage: RecoveryStage) -> float:
        """Return what a stage is judged by."""
        return stage.loss if stage.metric is None else stage.metric

    @property
    def before(self) -> float:
        """What the model was worth as it was given."""
        return self.value(self.stages[0])

    @property
    def after(self) -> float:
        """What the returned model is worth."""
        return self.value(next(stage for stage in self.stages if stage.name == self.best))
