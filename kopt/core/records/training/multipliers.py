"""Learning rates of their own for layers."""

import dataclasses

from kopt.core.errors import ConfigError
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class LayerMultiplier(Record):
    """What the learning rate of one variable is multiplied with.

    Attributes:
        variable: its path in the model.
        layer_type: class of the innermost layer around it.
        gradient_variance: variance of the layer's gradient between batches, mean over its parameters; `None` if it was
            not measured.
    """

    variable: str
    layer_type: str
    multiplier: float
    gradient_variance: float | None = None


@dataclasses.dataclass(frozen=True)
class LayerMultipliers(Record):
    """Multipliers of the learning rate for all variables to train, in the order of the model."""

    rows: tuple[LayerMultiplier, ...]

    def __post_init__(self) -> None:
        known: dict[str, float] = {}
        for row in self.rows:
            if known.setdefault(row.variable, row.multiplier) != row.multiplier:
                raise ConfigError(
                    f"Two variables have the path {row.variable!r} and different multipliers, {known[row.variable]:g} "
                    f"and {row.multiplier:g}. Give their layers different names."
                )

    @property
    def by_variable(self) -> dict[str, float]:
        """Multipliers by path of the variable."""
        return {row.variable: row.multiplier for row in self.rows}
