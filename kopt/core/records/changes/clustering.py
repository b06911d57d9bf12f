"""What sharing weights does to a model: frozen, serialisable."""

import dataclasses
import math

from kopt.core.records.actions import LayerAction
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class ClusteredVariable(Record):
    """One kernel whose weights are shared.

    Attributes:
        path: of the variable, e.g. `"backbone/conv/kernel"`.
        layer: path of the layer that holds it.
        layer_type: class of that layer.
        shape: of the kernel.
        codebooks: that the kernel has: 1, or one a channel.
        clusters: values in a codebook.
        distinct: different values in the kernel now.
        sparsity: share of zeros now.
        error: root mean square of the difference to the weights before, divided by that of the weights; `None` where
            they are not known any more.
        gzip_before, gzip_after: bytes of the kernel, compressed; `gzip_before` is `None` in the same case.
    """

    path: str
    layer: str
    layer_type: str
    shape: tuple[int, ...]
    codebooks: int
    clusters: int
    distinct: int
    sparsity: float
    error: float | None
    gzip_before: int | None
    gzip_after: int

    @property
    def weights(self) -> int:
        """Entries of the kernel."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """That tell the values of a codebook apart."""
        return math.ceil(math.log2(self.clusters))


@dataclasses.dataclass(frozen=True)
class WeightClustering(Record):
    """What was clustered, and what was left as it was.

    Attributes:
        model: its name.
        method: in words.
        variables: clustered, in the order of the model.
        skipped: layers with kernels that stay as they are, with the reason.
        notes: what to know before expecting small files.
    """

    model: str
    method: str
    variables: tuple[ClusteredVariable, ...]
    skipped: tuple[LayerAction, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> int:
        """Entries of the clustered kernels."""
        return sum(one.weights for one in self.variables)

    @property
    def gzip_after(self) -> int:
        """Bytes of the clustered kernels, compressed."""
        return sum(one.gzip_after for one in self.variables)

    @property
    def gzip_before(self) -> int | None:
        """The same of the kernels before; `None` where they are not known any more."""
        before = [one.gzip_before for one in self.variables]
        return None if None in before else sum(size for size in before if size is not None)
