"""What is in the weights of a model, variable by variable."""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
from threadpoolctl import threadpool_limits

from kopt.core.blocks import is_number
from kopt.core.environment import machine
from kopt.core.progress import Progress, Silent
from kopt.core.records.profiles.parameter_layers import LayerParameters, layers_of
from kopt.core.records.profiles.parameters import (
    DEFAULT_PERCENTILES,
    EffectiveRank,
    ParameterProfile,
    ParameterSettings,
    VariableParameters,
)
from kopt.graph import OwnedVariable, layer_paths, require_built
from kopt.graph.internals import flatten_layers, inner_layers
from kopt.graph.values import values_of
from kopt.profile.tensorboard import InTensorBoard
from kopt.profile.weights.channels import as_matrix, channel_axes, channels_of
from kopt.profile.weights.effective_rank import effective_rank as rank_of
from kopt.profile.weights.selection import Selector, select_variables, weight_variables
from kopt.profile.weights.statistics import full_statistics, sampled_statistics
from kopt.report.profiles.parameters import PARAMETERS

# Each holds pieces and, for an effective rank, a square matrix: up to 32 MiB at the default `exact_rank_side`.
_MOST_WORKERS = 8


@dataclasses.dataclass(frozen=True)
class Parameters(InTensorBoard, ParameterProfile):
    """What `parameters` found, with ways to show it.

    `.table(by="layer")` and `.table(by="variable")` take `rows` and `sort`; `.plot(path)` draws histograms.
    `.to_json()` is a baseline for `kopt.profile.compare`.

    Example:
        >>> found = kopt.profile.parameters(model)
        >>> found.parameters, found.size_bytes, found.variable("classes/kernel").channels.count
        (2722, 10888, 10)
    """

    look = PARAMETERS

    def _scalars(self) -> Iterator[tuple[str, float]]:
        for one in self.variables:
            if one.statistics is not None:
                numbers = {"mean": one.statistics.mean, "std": one.statistics.std, "l2": one.statistics.l2}
                yield from ((f"{key}/{one.path}", value) for key, value in numbers.items())

    def _histograms(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for one in self.variables:
            if one.statistics is not None and one.statistics.histogram.counts:
                histogram = one.statistics.histogram
                yield one.path, np.array(histogram.edges), np.array(histogram.counts)

    @property
    def layers(self) -> tuple[LayerParameters, ...]:
        """The variables of each layer taken together."""
        return layers_of(self)


def parameters(
    model: keras.Model,
    *,
    select: Selector | Sequence[Selector] | None = None,
    min_size: int | None = None,
    max_size: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    percentiles: Sequence[float] = DEFAULT_PERCENTILES,
    near_zero: float = 0.01,
    dead_below: float = 1e-3,
    bins: int = 50,
    effective_rank: bool = True,
    exact_rank_side: int = 2048,
    progress: Progress | None = None,
) -> Parameters:
    """Return counts, bytes and statistics of the parameters of a model.

    Use it to see where the parameters are, which weights are dead, and whether a distribution will quantize badly; keep
    the result as a baseline that later models are compared with.

    What `select` and the sizes mean is read in full. Of the rest (of everything, if there is no selection), `sample`
    entries a variable are read at random if it is given, and nothing but the counts is taken if not. Values are read
    where they are and piece by piece, several variables at a time: the memory needed beyond the model's is that of some
    pieces and, for effective ranks, square matrices, whatever the size of the model.

    A quantized variable is taken as it is stored: integers without their scale.

    Args:
        model: built Keras 3 model; it is not changed.
        select: variables to read in full: `None` for all; or one or several of a class of layers, a name, class name or
            path with `*` and `?` as wildcards, a function from `kopt.graph.OwnedVariable` to a bool. A layer means what
            stands inside it, too: `select="MultiHeadAttention"`.
        min_size: entries that a variable must have at least to be read in full.
        max_size: entries that it may have at most.
        sample: entries to read of each other variable; at least 100. One with at most twice as many is read in full.
        seed: which entries those are.
        percentiles: which, in [0, 100].
        near_zero: an entry is near zero if its magnitude is at most this times the root mean square of its variable.
        dead_below: an output channel is dead if its L2 norm is at most this times the median norm of the others that
            are not all zero. Channels of all zeros always are.
        bins: of the histograms.
        effective_rank: `False` leaves it out; of large kernels it takes most of the time.
        exact_rank_side: of kernels whose smaller side is larger, it is estimated.
        progress: told of every variable.

    Returns:
        A record of every variable; `.layers` takes those of a layer together.

    Raises:
        InputError: not a Keras 3 model, or one that is not built.
        ConfigError: a setting is out of range, or the selection matches nothing.

    Example:
        >>> baseline = kopt.profile.parameters(model)
        >>> baseline.variable("conv2/kernel").shape, baseline.variable("conv2/kernel").statistics.zeros
        ((3, 3, 8, 16), 0)
        >>> path = baseline.plot("weights.svg")

    Source: Roy and Vetterli 2007 (effective rank); Pébay 2008 (moments); Cochran 1977 (sampling).
    """
    require_built(model)
    settings = ParameterSettings(
        sample=sample,
        seed=seed,
        percentiles=tuple(map(float, percentiles)),
        near_zero=near_zero,
        dead_below=dead_below,
        bins=bins,
        effective_rank=effective_rank,
        exact_rank_side=exact_rank_side,
    )
    variables = weight_variables(model)
    chosen = {id(owned) for owned in select_variables(model, variables, select, min_size, max_size)}
    rest = "counts" if sample is None else "sample"
    everything = select is None and min_size is None and max_size is None
    if everything and sample is not None:
        chosen = set()
    return measure(model, variables, lambda owned: "full" if id(owned) in chosen else rest, settings, progress)


def measure(
    model: keras.Model,
    variables: Sequence[OwnedVariable],
    reading: Callable[[OwnedVariable], str],
    settings: ParameterSettings,
    progress: Progress | None = None,
) -> Parameters:
    """Return the profile of variables, each read as `reading` says: `"full"`, `"sample"` or `"counts"`."""
    holders = _holders(model)
    progress = progress or Silent()
    progress.start(len(variables))
    records = []
    # A thread a variable, and one thread inside it: the threads of the linear-algebra library wait for each other so
    # often that on a machine with other work a decomposition takes ten times as long.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(min(_MOST_WORKERS, machine().cores)) as workers:
        pending = [
            workers.submit(_measured, owned, _others(owned, holders), reading(owned), settings) for owned in variables
        ]
        try:
            for owned, result in zip(variables, pending, strict=True):
                progress.step(owned.path)
                records.append(result.result())
        finally:
            workers.shutdown(wait=True, cancel_futures=True)
            progress.finish()
    return Parameters(model.name, tuple(records), settings)


def _others(owned: OwnedVariable, holders: dict[int, list[str]]) -> tuple[str, ...]:
    return tuple(path for path in holders[id(owned.variable)] if path != owned.layer_path)


def _measured(
    owned: OwnedVariable, also_in: tuple[str, ...], reading: str, settings: ParameterSettings
) -> VariableParameters:
    values = values_of(owned.variable)
    record = VariableParameters(
        path=owned.path,
        layer=owned.layer_path,
        layer_type=type(owned.layer).__name__,
        also_in=also_in,
        shape=tuple(values.shape),
        dtype=values.dtype.name,
        trainable=owned.trainable,
        size_bytes=values.nbytes,
    )
    if reading == "counts":
        return record
    if not is_number(values.dtype):
        return dataclasses.replace(record, skipped=f"statistics: {values.dtype.name} is no real number")
    # A generator for each variable, so that what is drawn of one does not depend on which others are drawn of.
    rng = np.random.default_rng([settings.seed, zlib.crc32(owned.path.encode())])
    if reading == "sample":
        return dataclasses.replace(record, statistics=sampled_statistics(values, settings, rng))
    record = dataclasses.replace(record, statistics=full_statistics(values, settings))
    axes = channel_axes(owned.layer, owned.variable.name, values.ndim)
    return (
        record
        if axes is None or not values.size
        else _with_channels(record, as_matrix(values, axes), axes, settings, rng)
    )


def _with_channels(
    record: VariableParameters,
    matrix: np.ndarray,
    axes: tuple[int, ...],
    settings: ParameterSettings,
    rng: np.random.Generator,
) -> VariableParameters:
    assert record.statistics is not None
    rank: EffectiveRank | None = None
    skipped = ""
    if settings.effective_rank and record.statistics.finite == record.statistics.read:
        rank = rank_of(matrix, settings.exact_rank_side, rng)
    elif settings.effective_rank:
        skipped = "effective rank: NaN or infinite entries"
    channels = channels_of(matrix, axes, settings.dead_below)
    return dataclasses.replace(record, channels=channels, effective_rank=rank, skipped=skipped)


def _holders(model: keras.Model) -> dict[int, list[str]]:
    """Return the paths of all layers that hold a variable themselves, by the variable's id."""
    paths = layer_paths(model)
    holders: dict[int, list[str]] = {}
    for layer in dict.fromkeys(flatten_layers(model)):
        inside = {id(variable) for inner in inner_layers(layer) for variable in inner.variables}
        for variable in layer.variables:
            if id(variable) not in inside:
                holders.setdefault(id(variable), []).append(paths[id(layer)])
    return holders
