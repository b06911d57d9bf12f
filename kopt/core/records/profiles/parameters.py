"""What is known of the parameters of a model, and how two sets of them differ: frozen, serialisable."""

import collections
import dataclasses
import math

from kopt.core.serialization import Record
from kopt.core.settings import number, whole

DEFAULT_PERCENTILES = (0.1, 1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.9)


@dataclasses.dataclass(frozen=True)
class ParameterSettings(Record):
    """How parameters are counted and measured.

    Attributes:
        sample: entries read of a variable that is sampled; `None` if none is.
        seed: of the sampling and of the random vectors that estimate effective ranks.
        percentiles: which, in [0, 100].
        near_zero: an entry is near zero if its magnitude is at most this times the root mean square of its variable.
        dead_below: an output channel is dead if its L2 norm is at most this times the median norm of the channels of
            its variable that are not all zero.
        bins: of the histograms, of equal width from the least to the largest entry.
        effective_rank: whether it is worked out.
        exact_rank_side: effective ranks are exact up to this smaller side of the matrix, and estimated above.
    """

    sample: int | None = None
    seed: int = 0
    percentiles: tuple[float, ...] = DEFAULT_PERCENTILES
    near_zero: float = 0.01
    dead_below: float = 1e-3
    bins: int = 50
    effective_rank: bool = True
    exact_rank_side: int = 2048

    def __post_init__(self) -> None:
        if self.sample is not None:
            whole("sample", self.sample, least=100)
        whole("seed", self.seed, least=0)
        for percentile in self.percentiles:
            number("percentiles", percentile, least=0.0, most=100.0)
        number("near_zero", self.near_zero, least=0.0)
        number("dead_below", self.dead_below, least=0.0, most=1.0)
        whole("bins", self.bins)
        whole("exact_rank_side", self.exact_rank_side, least=0)


@dataclasses.dataclass(frozen=True)
class Histogram(Record):
    """Counts of entries in bins.

    Attributes:
        edges: one more than there are bins; each bin is half open, the last one closed. Empty without finite entries.
        counts: of the entries that were read.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class StandardErrors(Record):
    """Standard errors of statistics that come from a sample, in the unit of each.

    The least and the largest entry have none: those of the whole variable are at least as far apart.

    Attributes:
        percentiles: by the same keys as the values.
    """

    mean: float
    std: float
    l1: float
    l2: float
    zero_fraction: float
    near_zero_fraction: float
    percentiles: dict[str, float]


@dataclasses.dataclass(frozen=True)
class ValueStatistics(Record):
    """The distribution of the finite entries of one variable.

    Attributes:
        read: entries that were read, finite or not; all of them unless `errors` is there.
        mean, std, minimum, maximum: NaN without finite entries. The standard deviation divides by the number of
            entries, like `numpy.std`.
        skewness, excess_kurtosis: both 0 for a normal distribution; a large kurtosis means outliers, which cost
            precision when weights are quantized. NaN where all entries are equal.
        l1, l2: norms of the whole variable, estimated if it was sampled.
        zeros, near_zeros: how many of the entries that were read; the near ones include the zeros.
        nans, infinities: how many of the entries that were read.
        percentiles: value by percentile, e.g. `{"50": 0.01}`, with linear interpolation like `numpy.percentile`.
        histogram: of the entries that were read.
        errors: `None` if every entry was read.
    """

    read: int
    mean: float
    std: float
    skewness: float
    excess_kurtosis: float
    minimum: float
    maximum: float
    l1: float
    l2: float
    zeros: int
    near_zeros: int
    nans: int
    infinities: int
    percentiles: dict[str, float]
    histogram: Histogram
    errors: StandardErrors | None = None

    @property
    def finite(self) -> int:
        """Finite entries among those that were read."""
        return self.read - self.nans - self.infinities

    @property
    def zero_fraction(self) -> float:
        """Fraction of the entries that are exactly zero."""
        return self.zeros / self.finite if self.finite else math.nan

    @property
    def near_zero_fraction(self) -> float:
        """Fraction of the entries that are near zero."""
        return self.near_zeros / self.finite if self.finite else math.nan


@dataclasses.dataclass(frozen=True)
class Channels(Record):
    """The output channels of a kernel, or the rows of an embedding.

    Attributes:
        axes: of the kernel, that number its channels.
        count: how many there are.
        dead: how many of them are all zero or have a norm below the threshold.
        dead_indices: the first 100 of those, counted over `axes` in row-major order.
    """

    axes: tuple[int, ...]
    count: int
    dead: int
    dead_indices: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class EffectiveRank(Record):
    """How many directions a kernel uses: the exponential of the entropy of its normalized singular values.

    Attributes:
        value: between 1 and `full`; 0 for a kernel of zeros.
        full: the smaller side of the matrix.
        rows, columns: of the matrix: inputs (with kernel positions) x output channels.
        method: `"exact"` or `"stochastic Lanczos quadrature"`.
        error: standard error of an estimate; `None` if exact.
    """

    value: float
    full: int
    rows: int
    columns: int
    method: str
    error: float | None = None


@dataclasses.dataclass(frozen=True)
class VariableParameters(Record):
    """One variable of a model.

    Attributes:
        path: unique in the model, e.g. `"backbone/conv/kernel"`.
        layer: path of the layer that holds it.
        layer_type: class name of that layer.
        also_in: paths of other layers that hold the same variable; it is counted here only.
        shape, dtype: as stored.
        size_bytes: of the values.
        statistics: `None` where only counts were asked for, or `skipped` says why.
        channels: `None` for a variable without output channels (a bias), or if it was not read in full.
        effective_rank: `None` likewise, or if it was not asked for.
        skipped: what could not be worked out and why; empty if nothing.
    """

    path: str
    layer: str
    layer_type: str
    also_in: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    size_bytes: int
    statistics: ValueStatistics | None = None
    channels: Channels | None = None
    effective_rank: EffectiveRank | None = None
    skipped: str = ""

    @property
    def parameters(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def reading(self) -> str:
        """`"full"`, `"sample"` or `"counts"`: what was read of the values."""
        if self.statistics is None:
            return "counts"
        return "full" if self.statistics.errors is None else "sample"


@dataclasses.dataclass(frozen=True)
class ParameterProfile(Record):
    """What is in the weights of a model; also the baseline that later models are held against.

    Attributes:
        model: its name.
        variables: each once, in the order of `model.variables`, without seeds and metrics.
        settings: how they were measured.
    """

    model: str
    variables: tuple[VariableParameters, ...]
    settings: ParameterSettings

    @property
    def parameters(self) -> int:
        """Number of parameters; one that is shared counts once."""
        return sum(variable.parameters for variable in self.variables)

    @property
    def trainable_parameters(self) -> int:
        """Number of parameters that training changes."""
        return sum(variable.parameters for variable in self.variables if variable.trainable)

    @property
    def non_trainable_parameters(self) -> int:
        """Number of parameters that training leaves alone."""
        return self.parameters - self.trainable_parameters

    @property
    def size_bytes(self) -> int:
        """Bytes of all values."""
        return sum(variable.size_bytes for variable in self.variables)

    @property
    def bytes_by_dtype(self) -> dict[str, int]:
        """Bytes of the values, by dtype."""
        sizes: collections.Counter[str] = collections.Counter()
        for variable in self.variables:
            sizes[variable.dtype] += variable.size_bytes
        return dict(sizes)

    @property
    def nonfinite(self) -> int:
        """Entries that are NaN or infinite, among those that were read."""
        found = [variable.statistics for variable in self.variables if variable.statistics is not None]
        return sum(statistics.nans + statistics.infinities for statistics in found)

    def variable(self, path: str) -> VariableParameters:
        """Return the variable with this path.

        Raises:
            KeyError: there is none.
        """
        return {variable.path: variable for variable in self.variables}[path]
