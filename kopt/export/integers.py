"""What may be wrong with the integers of a `.tflite` file: warnings with numbers."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from kopt.core.errors import ParityError
from kopt.export.inspection import TFLiteContent
from kopt.export.layout import KERNELS, builtin_of, input_at

_OPERATORS = schema.BuiltinOperator
# Operators whose outputs may end at their range only if it is too narrow: others keep a range or have a fixed one.
_COMPUTING = frozenset(
    (*KERNELS, _OPERATORS.ADD, _OPERATORS.SUB, _OPERATORS.MUL, _OPERATORS.MEAN, _OPERATORS.BATCH_MATMUL)
)
_INTEGERS: dict[int, Any] = {schema.TensorType.INT8: np.int8, schema.TensorType.INT16: np.int16}
_QUANTIZED = {**_INTEGERS, schema.TensorType.UINT8: np.uint8}
_CUTTING = frozenset((schema.ActivationFunctionType.RELU6, schema.ActivationFunctionType.RELU_N1_TO_1))
# The largest value of a calibrated tensor lies at its end; a share of all, and more than a few, are cut off.
_SATURATED = 0.01
_LEAST_SATURATED = 10
# Where a bias would be larger, the converter makes the steps of the weights wider until it is this.
_LARGEST_BIAS = 1 << 30
_NAMED = 3
# From so many examples on, the ranges of a calibration hold for others.
ENOUGH = 20


class FewExamplesWarning(UserWarning):
    """Ranges come from fewer examples than can be trusted."""


def warn_of_few(calibration: Mapping[str, np.ndarray] | None) -> tuple[str, ...]:
    """Warn of ranges that few examples have shown, and return what is said; nothing where there are enough, or none.

    To be called by a public function itself, one that brings the random state back by a decorator.

    Warns:
        FewExamplesWarning: there are few.
    """
    count = ENOUGH if calibration is None else len(next(iter(calibration.values())))
    if count >= ENOUGH:
        return ()
    note = (
        f"Calibrated with {count} example(s): from {ENOUGH} on, better 100, ranges can be trusted. Another example has "
        f"values outside a range with a probability of up to {beyond(count):.0%}, and they are clipped."
    )
    warnings.warn(note, FewExamplesWarning, stacklevel=4)
    return (note,)


def beyond(examples: int) -> float:
    """Return the largest probability that one more example is beyond the range of the others, at either end.

    Of examples in any order, each is as likely as any other to be the one with the largest value, or the smallest.
    """
    return 2 / (examples + 1)


@contextlib.contextmanager
def warned_already() -> Iterator[None]:
    """Leave the warning of few examples out, for a caller who says it himself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewExamplesWarning)
        yield


def integer_notes(path: Path, content: TFLiteContent, examples: Mapping[str, np.ndarray] | None) -> tuple[str, ...]:
    """Return what the reader of an integer file should know: float operators, dead channels, numbers that do not fit.

    Args:
        path: of the file.
        content: what is in it.
        examples: real inputs by name; `None` leaves out what only running the file can tell.
    """
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    notes = [*_float_note(content), *_dead_note(model), *_bias_note(model)]
    if examples is None:
        return tuple(notes)
    return (*notes, *_clipped_note(model, examples), *_saturation_note(path, model, examples))


def _float_note(content: TFLiteContent) -> Iterator[str]:
    if content.float_operators:
        yield f"{len(content.float_operators)} operator(s) compute in float: {_named(content.float_operators)}."


def _dead_note(model: Any) -> Iterator[str]:
    dead = {name: count for name, kernel, _ in _kernels(model) if (count := _zero_channels(kernel))}
    if dead:
        yield (
            f"Dead channels: {sum(dead.values())} output channels have no weight but 0, in "
            f"{_named([f'{name} ({count})' for name, count in dead.items()])}. `kopt.prune.constant_channels` takes "
            f"them out."
        )


def _bias_note(model: Any) -> Iterator[str]:
    full = {
        name: count
        for name, _, bias in _kernels(model)
        if bias is not None and (count := int((np.abs(bias.astype(np.int64)) >= _LARGEST_BIAS).sum()))
    }
    if full:
        yield (
            f"Outside the range: {sum(full.values())} biases are too large for 32 bits in the steps of their weights, "
            f"in {_named([f'{name} ({count})' for name, count in full.items()])}. The converter made the steps wider, "
            f"and the weights of these channels coarse. Keep the layers in float with `fallback`, or take the channels "
            f"out."
        )


def _clipped_note(model: Any, examples: Mapping[str, np.ndarray]) -> Iterator[str]:
    found = _large(clipped_shares(model, examples))
    if found:
        count = len(next(iter(examples.values())))
        yield (
            f"Clipped: of {count} examples more than {_SATURATED:.0%} of the values lie outside the range of their "
            f"input, {_named(found)}. Calibrate on more examples like "
            f"these, or train with a larger `percentile`."
        )


def _large(shares: Mapping[str, float]) -> list[str]:
    """Return names with their shares, those that are worth a word, the largest first."""
    found = sorted(((share, name) for name, share in shares.items() if share > _SATURATED), reverse=True)
    return [f"{name} ({share:.1%})" for share, name in found]


def clipped_shares(model: Any, examples: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return for every input that is made integers the share of its values outside the range."""
    graph, shares = model.subgraphs[0], {}
    for one in model.signatureDefs[0].inputs:
        name, grid = one.name.decode(), _grid_of_input(model, graph, one.tensorIndex)
        if grid is not None and name in examples:
            low, high = grid
            array = examples[name]
            shares[name] = float(((array < low) | (array > high)).mean())
    return shares


def _grid_of_input(model: Any, graph: Any, index: int) -> tuple[float, float] | None:
    """Return what is rounded to the first and the last integer of an input; `None` if it is not made integers."""
    tensor = graph.tensors[index]
    if tensor.type == schema.TensorType.FLOAT32:
        readers = [o for o in graph.operators if builtin_of(model, o) == _OPERATORS.QUANTIZE and index in o.inputs]
        if not readers:
            return None
        tensor = graph.tensors[readers[0].outputs[0]]
    grid, dtype = tensor.quantization, _QUANTIZED.get(tensor.type)
    if dtype is None or grid is None or grid.scale is None:
        return None
    limits, scale, zero = np.iinfo(dtype), float(grid.scale[0]), int(grid.zeroPoint[0])
    return (limits.min - zero - 0.5) * scale, (limits.max - zero + 0.5) * scale


def _saturation_note(path: Path, model: Any, examples: Mapping[str, np.ndarray]) -> Iterator[str]:
    found = _large(saturated_shares(path, model, examples))
    if found:
        count = len(next(iter(examples.values())))
        yield (
            f"Saturated: on {count} examples more than {_SATURATED:.0%} of the values lie at an end of their range in "
            f"{_named(found)}. Calibrate on more examples like these."
        )


def saturated_shares(path: Path, model: Any, examples: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return for every operator that computes integers the share of its outputs at an end of their range.

    Few are none, as the ends were calibrated, nor is a channel that never changes. The low end does not count where it
    stands for 0, as behind a ReLU, nor the high end of a ReLU6.
    """
    graph = model.subgraphs[0]
    watched = [operator for operator in graph.operators if _is_watched(model, graph, operator)]
    interpreter = Interpreter(
        str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    runner = interpreter.get_signature_runner()
    ends: dict[int, np.ndarray] = {}  # by channel
    sizes: dict[int, int] = {}
    batch = int(next(iter(runner.get_input_details().values()))["shape"][0])
    for row in range(0, len(next(iter(examples.values()))) - batch + 1, batch):
        feeds = {name: _as_input(array[row : row + batch], runner, name) for name, array in examples.items()}
        try:
            runner(**feeds)
        except RuntimeError as error:
            raise ParityError(f"The converter reported success, but LiteRT cannot run the file: {error}") from error
        interpreter.reset_all_variables()
        for index in (operator.outputs[0] for operator in watched):
            values = interpreter.get_tensor(index)
            flat = values.reshape(-1, values.shape[-1])
            ends[index] = ends.get(index, 0) + np.isin(flat, _ends(graph.tensors[index])).sum(0)
            sizes[index] = sizes.get(index, 0) + len(flat)
    return {graph.tensors[index].name.decode(): _share(count, sizes[index]) for index, count in ends.items()}


def _share(ends: np.ndarray, size: int) -> float:
    """Return the share of values at an end of the range, of channels that are not always there.

    Args:
        ends: how many of each channel are.
        size: how many there are of each channel.
    """
    moving = ends[ends < size]
    return float(moving.sum() / (len(ends) * size)) if moving.sum() > _LEAST_SATURATED else 0.0


def _as_input(array: np.ndarray, runner: Any, name: str) -> np.ndarray:
    detail = runner.get_input_details()[name]
    scale, zero = detail["quantization"]
    if not scale:
        return array.astype(detail["dtype"])
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.rint(array / scale) + zero, limits.min, limits.max).astype(detail["dtype"])


def _ends(tensor: Any) -> list[int]:
    limits = np.iinfo(_INTEGERS[tensor.type])
    is_zero = int(tensor.quantization.zeroPoint[0]) == limits.min
    return [int(limits.max)] if is_zero else [int(limits.min), int(limits.max)]


def _is_watched(model: Any, graph: Any, operator: Any) -> bool:
    options = operator.builtinOptions
    cuts = getattr(options, "fusedActivationFunction", None) in _CUTTING
    tensor = graph.tensors[operator.outputs[0]]
    return builtin_of(model, operator) in _COMPUTING and tensor.type in _INTEGERS and not cuts


def _kernels(model: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Yield name, kernel with the output channels first, and bias of every integer operator that has them."""
    for graph in model.subgraphs:
        for operator in graph.operators:
            kind = builtin_of(model, operator)
            if kind not in KERNELS:
                continue
            kernel, bias = (_constant(model, graph, operator, place) for place in KERNELS[kind])
            if kernel is not None and kernel.dtype == np.int8:
                last = kind == _OPERATORS.DEPTHWISE_CONV_2D
                kernel = np.moveaxis(kernel, -1, 0) if last else kernel
                yield graph.tensors[operator.outputs[0]].name.decode(), kernel, bias


def _constant(model: Any, graph: Any, operator: Any, place: int) -> np.ndarray | None:
    tensor = input_at(graph, operator, place)
    if tensor is None:
        return None
    data, dtype = model.buffers[tensor.buffer].data, {**_INTEGERS, schema.TensorType.INT32: np.int32}.get(tensor.type)
    return None if data is None or dtype is None else np.asarray(data, np.uint8).view(dtype).reshape(tensor.shape)


def _zero_channels(kernel: np.ndarray) -> int:
    return int((~kernel.reshape(len(kernel), -1).any(1)).sum())


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
