"""Which layers of an integer file stay in float: frozen, serialisable, to be applied again."""

import dataclasses

from kopt.core.errors import ConfigError
from kopt.core.serialization import Record
from kopt.core.settings import choice

FALLBACK_TYPES = ("float32", "float16")
_NO_16_BITS = (
    "A file cannot mix activations of 8 and 16 bits: the TFLite converter gives all of them one type. Take `to="
    "'float32'` or `'float16'`, or export the whole model with `scheme='int16x8'`."
)


def fallback_type(name: str) -> str:
    """Return the type in which a layer can stay out of integers, if there is such a one.

    Raises:
        ConfigError: there is none, with the reason.
    """
    if str(name).startswith("int16"):
        raise ConfigError(f"{_NO_16_BITS} Received: {name!r}.")
    return choice("to", name, FALLBACK_TYPES)


@dataclasses.dataclass(frozen=True)
class FallbackStep(Record):
    """Layers that went to float together.

    Attributes:
        added: their paths; none for the integer model that the plan begins with.
        output_db: signal-to-quantization-noise ratio of the outputs from then on.
        metric: what is budgeted.
    """

    added: tuple[str, ...]
    output_db: float
    metric: float


@dataclasses.dataclass(frozen=True)
class FallbackPlan(Record):
    """The fewest layers that were found to need float for a budget to hold.

    Attributes:
        model: name.
        scheme: numeric scheme of the others.
        to: type of these layers' weights: `"float32"`, or `"float16"`, with arithmetic in float32.
        layers: paths, in the order of the model.
        least_db: the budget: smallest signal-to-quantization-noise ratio of the outputs; `None` for `max_drop`.
        max_drop: largest drop of `metric` against the float model.
        metric: `"accuracy"`, or `"output_db"`.
        reference: metric of the float model.
        steps: how the budget was reached, one after the other, by a model that rounds as the file does.
        measured: the metric of the file in LiteRT.
        measured_db: the ratio of the file in LiteRT.
        within_budget: whether the file holds the budget.
        examples: that the metric was measured on.
        notes: what to know before the plan is applied.
    """

    model: str
    scheme: str
    to: str
    layers: tuple[str, ...]
    least_db: float | None
    max_drop: float | None
    metric: str
    reference: float
    steps: tuple[FallbackStep, ...]
    measured: float
    measured_db: float
    within_budget: bool
    examples: int
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fallback_type(self.to)
