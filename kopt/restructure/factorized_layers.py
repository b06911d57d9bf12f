"""Dense and convolution layers as several smaller ones: the shell round `factors`."""

import abc
import dataclasses
import functools
import math
from typing import Any

import keras
import numpy as np

from kopt.graph import FreshNames
from kopt.graph.configs import without_arrays
from kopt.restructure import factors
from kopt.restructure.sites import Site
from kopt.restructure.substitution import Substitute, changed, like, values
from kopt.restructure.trade_off import Options

L = keras.layers
Ranks = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Factorization(abc.ABC):
    """A way to write one layer as several.

    Attributes:
        site: the layer with its calls.
        macs: of it in the model, all calls; `None` if a size is open.
    """

    site: Site
    macs: int | None

    @functools.cached_property
    def kernel(self) -> np.ndarray:
        """The layer's kernel in float64."""
        return values(self.site.layer.kernel)

    @functools.cached_property
    @abc.abstractmethod
    def parts(self) -> factors.Decomposition:
        """The kernel, decomposed."""

    @abc.abstractmethod
    def work(self, ranks: np.ndarray, sizes: "Sizes") -> np.ndarray:
        """Return kernel entries times how often each is used, for rows of ranks; parameters where sizes are all 1."""

    @abc.abstractmethod
    def substitute(self, ranks: Ranks, names: FreshNames) -> Substitute:
        """Return the layers that compute it with these ranks."""

    @property
    def full(self) -> Ranks:
        """The largest ranks."""
        return self.parts.full

    def parameters(self, ranks: np.ndarray) -> np.ndarray:
        """Return the kernel parameters for rows of ranks."""
        return self.work(ranks, Sizes(1, 1, 1))

    def work_of_calls(self, ranks: np.ndarray) -> np.ndarray | None:
        """Return the multiply-accumulates in the model for rows of ranks, `None` if a size is open."""
        if self.macs is None:
            return None
        sizes = [
            _sizes(self.site.layer, *shapes)
            for shapes in zip(self.site.input_shapes, self.site.output_shapes, strict=True)
        ]
        own = sum(self.kernel.size * size.outputs for size in sizes)
        # A nested model that is called several times does its work as often.
        times = max(1, self.macs // own) if own else 1
        return times * sum((self.work(ranks, size) for size in sizes), np.zeros(len(ranks), np.int64))

    def options(self, *, any_size: bool = False) -> Options | None:
        """Return all ranks that make the layer smaller, with what they cost; `None` if there are none.

        Costs are multiply-accumulates, or parameters where a size is open.
        """
        ranks = np.indices(self.full).reshape(len(self.full), -1).T + 1
        parameters, macs = self.parameters(ranks), self.work_of_calls(ranks)
        smaller = parameters < self.kernel.size
        if macs is not None:
            smaller &= macs < (self.macs or 0)
        if any_size:
            smaller[:] = True
        if not smaller.any():
            return None
        costs, unchanged = (parameters, self.kernel.size) if macs is None else (macs, self.macs or 0)
        return Options(ranks[smaller], costs[smaller], self.parts.lost.reshape(-1)[smaller], int(unchanged))

    def is_smaller(self, ranks: Ranks) -> bool:
        """Return whether these ranks save parameters, and multiply-accumulates where they are known."""
        row = np.array([ranks])
        macs = self.work_of_calls(row)
        return bool(self.parameters(row)[0] < self.kernel.size and (macs is None or macs[0] < (self.macs or 0)))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Positions at which a layer's parts compute.

    Attributes:
        inputs: of the input.
        outputs: of the output.
        between: of rows of the output and columns of the input.
    """

    inputs: int
    outputs: int
    between: int


class DenseFactors(Factorization):
    """`Dense(o)` as `Dense(r)`, `Dense(o)`."""

    @functools.cached_property
    def parts(self) -> factors.Decomposition:
        """The kernel by its singular values."""
        return factors.svd(self.kernel)

    def work(self, ranks: np.ndarray, sizes: Sizes) -> np.ndarray:
        """Two matrix products."""
        inputs, outputs = self.kernel.shape
        return sizes.outputs * ranks[:, 0] * (inputs + outputs)

    def substitute(self, ranks: Ranks, names: FreshNames) -> Substitute:
        """Two dense layers."""
        layer = self.site.layer
        left, right = factors.cut_svd(self.parts, ranks[0])
        first = like(layer, L.Dense, name=names(f"{layer.name}_in"), units=ranks[0], use_bias=False, **_kept(layer))
        last = changed(layer, kernel_constraint=None)
        return Substitute((first, last), ({"kernel": left}, {"kernel": right, **_bias(layer)}))


class ChannelFactors(Factorization):
    """`Conv(o, k)` as `Conv(r, k)`, `Conv(o, 1)`, in one, two or three dimensions."""

    @functools.cached_property
    def parts(self) -> factors.Decomposition:
        """The kernel over its outputs."""
        return factors.channel(self.kernel)

    def work(self, ranks: np.ndarray, sizes: Sizes) -> np.ndarray:
        """Both at the positions of the output."""
        *size, inputs, outputs = self.kernel.shape
        return sizes.outputs * ranks[:, 0] * (math.prod(size) * inputs + outputs)

    def substitute(self, ranks: Ranks, names: FreshNames) -> Substitute:
        """A convolution of the same size, then one of size 1."""
        layer = self.site.layer
        left, right = factors.cut_channel(self.parts, ranks[0], self.kernel.shape)
        first = _convolution(layer, names(f"{layer.name}_in"), ranks[0], layer.kernel_size)
        return Substitute((first, _pointwise_last(layer)), ({"kernel": left}, {"kernel": right, **_bias(layer)}))


class SpatialFactors(Factorization):
    """`Conv2D(o, (h, w))` as `Conv2D(r, (h, 1))`, `Conv2D(o, (1, w))`."""

    @functools.cached_property
    def parts(self) -> factors.Decomposition:
        """The kernel in columns and rows."""
        return factors.spatial(self.kernel)

    def work(self, ranks: np.ndarray, sizes: Sizes) -> np.ndarray:
        """Columns go over the whole width, rows over what the columns left."""
        height, width, inputs, outputs = self.kernel.shape
        return ranks[:, 0] * (sizes.between * height * inputs + sizes.outputs * width * outputs)

    def substitute(self, ranks: Ranks, names: FreshNames) -> Substitute:
        """A column, then a row."""
        layer = self.site.layer
        columns, rows = factors.cut_spatial(self.parts, ranks[0], self.kernel.shape)
        (height, width), strides, rates = layer.kernel_size, layer.strides, layer.dilation_rate
        first = _convolution(layer, names(f"{layer.name}_in"), ranks[0], (height, 1), (strides[0], 1), (rates[0], 1))
        last = changed(
            layer,
            kernel_size=(1, width),
            strides=(1, strides[1]),
            dilation_rate=(1, rates[1]),
            kernel_constraint=None,
        )
        return Substitute((first, last), ({"kernel": columns}, {"kernel": rows, **_bias(layer)}))


class TuckerFactors(Factorization):
    """`Conv(o, k)` as `Conv(r1, 1)`, `Conv(r2, k)`, `Conv(o, 1)`, in one, two or three dimensions."""

    @functools.cached_property
    def parts(self) -> factors.Decomposition:
        """The kernel over inputs and outputs."""
        return factors.tucker(self.kernel)

    def work(self, ranks: np.ndarray, sizes: Sizes) -> np.ndarray:
        """The first at the positions of the input, the others at those of the output."""
        *size, inputs, outputs = self.kernel.shape
        first, second = ranks[:, 0], ranks[:, 1]
        core = math.prod(size) * first * second
        return sizes.inputs * inputs * first + sizes.outputs * (core + second * outputs)

    def substitute(self, ranks: Ranks, names: FreshNames) -> Substitute:
        """Size 1, the size of the layer, size 1."""
        layer = self.site.layer
        kernels = factors.cut_tucker(self.parts, (ranks[0], ranks[1]))
        first = _convolution(layer, names(f"{layer.name}_in"), ranks[0], 1, 1, 1)
        core = _convolution(layer, names(f"{layer.name}_core"), ranks[1], layer.kernel_size)
        weights = ({"kernel": kernels[0]}, {"kernel": kernels[1]}, {"kernel": kernels[2], **_bias(layer)})
        return Substitute((first, core, _pointwise_last(layer)), weights)


KINDS = (L.Dense, L.Conv1D, L.Conv2D, L.Conv3D)
CONVOLUTIONS: dict[str, type[Factorization]] = {
    "tucker": TuckerFactors,
    "channel": ChannelFactors,
    "spatial": SpatialFactors,
}


def factorization(site: Site, conv: str, macs: int | None) -> Factorization:
    """Return how a layer of `KINDS` is factorized.

    A convolution of size 1 has channels only, and rows and columns are of images alone.
    """
    if type(site.layer) is L.Dense:
        return DenseFactors(site, macs)
    kind = ChannelFactors if all(size == 1 for size in site.layer.kernel_size) else CONVOLUTIONS[conv]
    if kind is SpatialFactors and type(site.layer) is not L.Conv2D:
        kind = ChannelFactors
    return kind(site, macs)


def _sizes(layer: keras.layers.Layer, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> Sizes:
    if isinstance(layer, L.Dense):
        positions = math.prod(outputs[1:-1])
        return Sizes(positions, positions, positions)
    start, rank = 2 if layer.data_format == "channels_first" else 1, len(layer.kernel_size)
    before, after = inputs[start : start + rank], outputs[start : start + rank]
    return Sizes(math.prod(before), math.prod(after), after[0] * math.prod(before[1:]))


def _convolution(layer: Any, name: str, filters: int, kernel_size: Any, strides: Any = None, rate: Any = None) -> Any:
    """Return a linear convolution without bias; strides and dilation are the layer's where none are given."""
    return like(
        layer,
        type(layer),
        name=name,
        filters=filters,
        kernel_size=kernel_size,
        strides=layer.strides if strides is None else strides,
        dilation_rate=layer.dilation_rate if rate is None else rate,
        padding=layer.padding,
        data_format=layer.data_format,
        use_bias=False,
        **_kept(layer),
    )


def _pointwise_last(layer: Any) -> Any:
    one = (1,) * len(layer.kernel_size)
    return changed(layer, kernel_size=one, strides=one, dilation_rate=one, padding="valid", kernel_constraint=None)


def _kept(layer: Any) -> dict[str, Any]:
    return {
        "kernel_initializer": without_arrays(layer.kernel_initializer),
        "kernel_regularizer": layer.kernel_regularizer,
    }


def _bias(layer: Any) -> dict[str, np.ndarray]:
    return {} if layer.bias is None else {"bias": values(layer.bias)}
