"""What magnitude pruning does to a model: frozen, serialisable."""

import dataclasses

from kopt.core.errors import ConfigError
from kopt.core.records.actions import LayerAction
from kopt.core.records.changes.footprint import Footprints
from kopt.core.serialization import Record
from kopt.core.settings import choice, whole

GRANULARITIES = ("element", "block", "n:m", "channel")
SCOPES = ("layer", "global")
POOLINGS = ("AVG", "MAX")


@dataclasses.dataclass(frozen=True)
class Pattern(Record):
    """Which weights are pruned together.

    Attributes:
        granularity: `"element"`, `"block"`, `"n:m"` or `"channel"`.
        block: height and width of a block; `(1, 1)` for the others.
        pooling: what stands for a block: `"AVG"` or `"MAX"` of its magnitudes.
        n_m: `n` of every `m` weights along the input channels are kept; `(1, 1)` for the others.
        scope: whether `"layer"`s are ranked each by itself, or all weights together (`"global"`).
    """

    granularity: str = "element"
    block: tuple[int, int] = (1, 1)
    pooling: str = "AVG"
    n_m: tuple[int, int] = (1, 1)
    scope: str = "layer"

    def __post_init__(self) -> None:
        choice("granularity", self.granularity, GRANULARITIES)
        choice("scope", self.scope, SCOPES)
        choice("block_pooling", self.pooling, POOLINGS)
        for name, pair in (("block_size", self.block), ("n_m", self.n_m)):
            if len(pair) != 2:
                raise ConfigError(f"`{name}` must be two whole numbers. Received: {pair!r}.")
            for value in pair:
                whole(name, value)
        if self.granularity == "n:m" and not self.n_m[0] < self.n_m[1]:
            raise ConfigError(
                f"`n_m` keeps `n` of `m` weights, with n < m: (2, 4) keeps two of four. Received: {self.n_m!r}."
            )
        if self.scope == "global" and self.granularity != "element":
            raise ConfigError(f'`scope="global"` ranks single weights. Received: granularity={self.granularity!r}.')


@dataclasses.dataclass(frozen=True)
class PrunedVariable(Record):
    """One kernel under a mask.

    Attributes:
        path: of the variable, e.g. `"backbone/conv/kernel"`.
        layer: path of the layer that holds it.
        layer_type: class of that layer.
        shape: of the kernel.
        target: sparsity that the schedule leads to, in this variable.
        sparsity: share of zeros now.
    """

    path: str
    layer: str
    layer_type: str
    shape: tuple[int, ...]
    target: float
    sparsity: float

    @property
    def weights(self) -> int:
        """Entries of the kernel."""
        total = 1
        for side in self.shape:
            total *= side
        return total


@dataclasses.dataclass(frozen=True)
class MagnitudePruning(Record):
    """What was put under masks, and what was left dense.

    Attributes:
        model: its name.
        pattern: which weights are pruned together.
        schedule: in words.
        variables: under masks, in the order of the model.
        skipped: layers with kernels that stay dense, with the reason.
        notes: what to know before expecting speed.
        obstacles: what keeps XNNPACK from computing the model sparsely, by layer; empty where zeros come in another
            granularity than single weights and blocks.
        measured: the model before and after as exported files; `None` until `kopt.prune.measured` adds it.
    """

    model: str
    pattern: Pattern
    schedule: str
    variables: tuple[PrunedVariable, ...]
    skipped: tuple[LayerAction, ...] = ()
    notes: tuple[str, ...] = ()
    obstacles: tuple[LayerAction, ...] = ()
    measured: Footprints | None = None

    @property
    def weights(self) -> int:
        """Entries under masks."""
        return sum(one.weights for one in self.variables)

    @property
    def sparsity(self) -> float:
        """Share of zeros among them."""
        return sum(one.sparsity * one.weights for one in self.variables) / self.weights if self.weights else 0.0
