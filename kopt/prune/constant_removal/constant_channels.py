"""Channels that are the same for every example: they go, and what they gave goes into a bias."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from kopt.core.errors import DataError
from kopt.core.records.changes.constant_channels import ConstantChannels, ConstantChannelsReport
from kopt.core.settings import names, number, whole
from kopt.data.validation import as_model_inputs
from kopt.graph import from_tf_keras, require_built, require_finite, signature
from kopt.graph.channels import ChannelGraph, ChannelGroup, Flow, channel_graph, run
from kopt.graph.values import values_of
from kopt.profile import model as profile
from kopt.prune.channel_removal.rebuilding import rebuild
from kopt.prune.constant_removal.absorption import Place, place_of, responses
from kopt.prune.plain import require_unmasked
from kopt.report.changes.constant_channels import CONSTANT_CHANNELS
from kopt.report.look import Shown
from kopt.train import preserved
from kopt.train.batch_norm import Moments, input_batches

Kept = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class ConstantChannelRemoval(Shown, ConstantChannelsReport):
    """What `constant_channels` did, with ways to show it.

    Example:
        >>> kernel, bias = model.get_layer("conv2").get_weights()
        >>> kernel[..., 0], bias[0] = 0.0, -1.0  # a ReLU that is never positive
        >>> model.get_layer("conv2").set_weights([kernel, bias])
        >>> report = kopt.prune.constant_channels(model, x_train)[1]
        >>> [(group.layers, group.constant, group.zeros, group.removed) for group in report.groups]
        [(('conv2',), 1, 1, 1)]
    """

    look = CONSTANT_CHANNELS


def constant_channels(
    model: keras.Model,
    data: Any,
    *,
    tolerance: float = 1e-6,
    batches: int | None = None,
    batch_size: int = 32,
    protect: str | Iterable[str] = (),
) -> tuple[keras.Model, ConstantChannelRemoval]:
    """Return a smaller model without the channels that have one value whatever the input, and a report.

    Use it after training, and after sparse training above all: units whose ReLU is never positive, and those whose
    normalization has a factor of zero. On the data, and wherever the channels are as constant as there, the outputs
    stay what they were.

    Formula: a layer with the kernel `W` and the bias `b` reads the constants `c` of the channels `C` that go; its new
    bias is `b + sum_{i in C} W_i c_i`. Without a bias the moving mean of the batch normalization behind it takes the
    same off. A channel counts as constant if its standard deviation is at most `tolerance` wherever a layer reads it
    (after activations, normalizations and pooling), and as zero if its mean is, too.

    Channels whose constant cannot go anywhere exactly are kept and listed: a convolution that pads with zeros sees
    another value at the border (a zero is always exact), recurrent layers and attention read them, or a normalization
    over all channels counts them.

    Args:
        model: built Functional or Sequential model, nested as one likes; not changed.
        data: inputs as arrays, or a `tf.data.Dataset` of batches, with or without labels; as many different examples
            as can be had: what no example shows is taken for constant.
        tolerance: largest standard deviation of a constant, in units of the activations.
        batches: how many to read at most; all by default.
        batch_size: of arrays.
        protect: names or paths of layers that keep their outputs.

    Returns:
        The smaller model, not compiled, and the report. Where nothing is constant the model is a copy.

    Raises:
        ConfigError: a setting is out of range, or a name of `protect` is of no layer.
        DataError: the data does not fit the model, is empty, or one example.
        InputError: the model is not built, or has masks.
        NonFiniteError: a weight is NaN or infinite.
        UnsupportedModelError: a subclassed model, or one that does not rebuild from its config.

    Example:
        >>> kernel, bias = model.get_layer("conv2").get_weights()
        >>> kernel[..., :4], bias[:4] = 0.0, 0.25  # four channels that answer the same whatever they see
        >>> model.get_layer("conv2").set_weights([kernel, bias])
        >>> smaller, report = kopt.prune.constant_channels(model, x_train)
        >>> report.removed, smaller.get_layer("conv2").filters
        (4, 12)
        >>> kopt.measure.parity(smaller, model, x_val).max_abs < 1e-5
        True

    Source: Hu et al., "Network trimming", 2016, https://arxiv.org/abs/1607.03250, for units that are mostly zero.
    """
    number("tolerance", tolerance, least=0.0)
    whole("batch_size", batch_size)
    model = from_tf_keras(model)
    require_built(model)
    require_unmasked(model)
    graph = channel_graph(model, protect=names("protect", protect))
    require_finite(model)
    readers = _Readers(graph)
    with preserved(model):
        examples = readers.measure(model, input_batches(data, batches, batch_size), batches)
        if examples < 2:
            raise DataError(
                "Of one example every channel has one value, so that nothing shows which are constant. Pass as many "
                "different examples as can be had, some hundreds at least."
            )
        removal = _Removal(model, graph, readers, tolerance)
        before, after = profile(model), _smaller(model, graph, removal)
    report = ConstantChannelRemoval(
        model=model.name,
        tolerance=float(tolerance),
        examples=examples,
        groups=tuple(row for group in graph.groups if (row := removal.row(group)).constant),
        absorbed=tuple(place.path for place, _ in removal.shifts),
        parameters_before=before.parameters,
        parameters_after=after.count_params(),
        macs_before=before.macs,
        macs_after=profile(after).macs,
    )
    return after, report


@dataclasses.dataclass(eq=False)
class _Reader:
    """A layer that reads channels, by one of its inputs, with what came in there.

    Attributes:
        flow: of its first call.
        place: number of the input.
        moments: of every entry along the axis of the channels.
        shapes: of an example.
    """

    flow: Flow
    place: int
    moments: Moments
    shapes: set[tuple[int, ...]]

    @property
    def units(self) -> npt.NDArray[np.int64]:
        found = self.flow.inputs[self.place]
        assert found is not None
        return found[1]


class _Readers:
    """What layers with weights read, measured."""

    def __init__(self, graph: ChannelGraph):
        self._graph = graph
        self._paths = {weight.path for weight in graph.weights if weight.role == "input"}
        self._found: dict[tuple[int, int], _Reader] = {}

    def __iter__(self) -> Any:
        return iter(self._found.values())

    def measure(self, model: keras.Model, dataset: Any, batches: int | None) -> int:
        """Run the model on batches and return the number of examples."""
        examples, inputs = 0, signature(model)[0]
        for batch in dataset if batches is None else dataset.take(batches):
            x = keras.utils.unpack_x_y_sample_weight(batch)[0]
            arrays = list(as_model_inputs(keras.tree.map_structure(np.asarray, x), inputs).values())
            run(model, self._graph, arrays, self._note)
            examples += len(arrays[0])
        if not examples:
            raise DataError("There are no examples to look at: `data` is empty.")
        return examples

    def _note(self, flow: Flow, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        if flow.path not in self._paths:
            return
        for which, (tensor, place) in enumerate(zip(inputs, flow.inputs, strict=True)):
            if place is None:
                continue
            key = (id(flow.call.operation), which)
            reader = self._found.setdefault(key, _Reader(flow, which, Moments(), set()))
            entries = np.moveaxis(np.asarray(tensor, np.float64), place[0], -1).reshape(-1, place[1].size)
            reader.moments.add(len(entries), entries.mean(axis=0), entries.var(axis=0))
            reader.shapes.add(tuple(tensor.shape[1:]))


class _Removal:
    """Which units go, and what takes their place.

    Attributes:
        kept: of every unit, whether it stays.
        shifts: variables with what comes to them.
    """

    def __init__(self, model: keras.Model, graph: ChannelGraph, readers: _Readers, tolerance: float):
        self._constant, self._zero = _constant(graph, readers, tolerance)
        self._reasons: dict[int, str] = {}
        made = np.zeros(graph.unit_count, np.bool_)
        for group in graph.groups:
            made[group.units] = True
        self._constant &= made  # What comes from an input of the model is of no group.
        for group in graph.groups:
            self._keep(group.units, group.reason or _unfit(group))
        absorbed = [self._absorbed(model, graph, reader) for reader in readers]
        for group in graph.groups:
            if self._going[group.units].all():
                self._keep(group.units[:1], "a layer needs at least one channel")
        self.kept = ~self._going
        sums = [(place, self._sum(units, values)) for place, units, values in filter(None, absorbed)]
        self.shifts = [(place, shift) for place, shift in sums if shift.any()]

    @property
    def _going(self) -> Kept:
        going = self._constant.copy()
        going[list(self._reasons)] = False
        return going

    def _keep(self, units: npt.NDArray[np.int64], reason: str) -> None:
        for unit in units.tolist() if reason else ():
            if self._constant[unit]:
                self._reasons.setdefault(unit, reason)

    def _absorbed(
        self, model: keras.Model, graph: ChannelGraph, reader: _Reader
    ) -> tuple[Place, npt.NDArray[np.int64], npt.NDArray[np.float64]] | None:
        """Return the variable that takes in what constants give to a reader, the units and the shift by each of them.

        Units that nothing takes in exactly are made to stay.
        """
        units = np.unique(reader.units[(self._going & ~self._zero)[reader.units]])
        if not units.size:
            return None
        place, reason = place_of(model, graph, reader.flow)
        if place is None:
            self._keep(units, reason)
            return None
        constants = np.where(reader.units == units[:, None], reader.moments.mean, 0.0)
        shifts = None
        for shape in sorted(reader.shapes):
            shifts, even = responses(reader.flow, shape, constants)
            named = f"{reader.flow.path!r} ({type(reader.flow.call.operation).__name__})"
            self._keep(units[~even], f"{named} makes no constant of them: it pads with zeros, or has strides between")
        assert shifts is not None
        return place, units, shifts

    def _sum(self, units: npt.NDArray[np.int64], shifts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return shifts[~self.kept[units]].sum(axis=0)

    def row(self, group: ChannelGroup) -> ConstantChannels:
        """Return what became of a group."""
        units, each = group.units, group.channels_per_unit
        gone = units[~self.kept[units]]
        return ConstantChannels(
            layers=group.layers,
            before=group.width,
            constant=int(self._constant[units].sum()) * each,
            removed=gone.size * each,
            zeros=int(self._zero[gone].sum()) * each,
            skipped=tuple(dict.fromkeys(self._reasons[unit] for unit in units.tolist() if unit in self._reasons)),
        )


def _smaller(model: keras.Model, graph: ChannelGraph, removal: _Removal) -> keras.Model:
    """Return the smaller model; the given one is changed on the way and to be put back by the caller."""
    for place, shift in removal.shifts:
        place.variable.assign(values_of(place.variable) + (place.factor * shift).astype(np.float32))
    return rebuild(model, graph, removal.kept)


def _constant(graph: ChannelGraph, readers: _Readers, tolerance: float) -> tuple[Kept, Kept]:
    """Return which units are constant, and which are zero, wherever they are read."""
    read, constant, zero = np.zeros(graph.unit_count, np.bool_), *np.ones((2, graph.unit_count), np.bool_)
    for reader in readers:
        steady = np.sqrt(reader.moments.variance) <= tolerance
        read[reader.units] = True
        np.logical_and.at(constant, reader.units, steady)
        np.logical_and.at(zero, reader.units, steady & (np.abs(reader.moments.mean) <= tolerance))
    return constant & read, zero & read


def _unfit(group: ChannelGroup) -> str:
    if group.kind != "channels":
        return f"{group.kind} have a state of their own that is not looked at"
    return group.remark and f"a zero counts there: {group.remark}"
