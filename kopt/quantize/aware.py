"""Quantization-aware training on Keras 3, as TFLite's integers will compute."""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from kopt.core.bits_records import WEIGHT_BITS, BitsPlan
from kopt.core.errors import ConfigError, UnsupportedModelError, nearest
from kopt.core.quantize_records import Quantization, QuantizedKernel, RangeRule
from kopt.core.randomness import preserved_random_state
from kopt.core.settings import choice, whole
from kopt.data import calibration as sample
from kopt.graph import FreshNames, GraphView, require_built, require_finite, signature
from kopt.graph.internals import flatten_layers, graph_of, node_of
from kopt.graph.rewrite import copy_model_settings
from kopt.profile.cost.flat import FlatGraph, flatten_calls
from kopt.quantize.placement import Placement
from kopt.quantize.quantized_model import QuantizedFunctional, is_quantized
from kopt.quantize.ranges import observing
from kopt.quantize.reading import Reader, Request, paths_of
from kopt.quantize.retracing import Retracing
from kopt.report.look import Shown
from kopt.report.quantization import QUANTIZATION

L = keras.layers
Skip = Iterable[str | type] | Callable[[keras.layers.Layer], bool]
# From the name to the bits of activations and weights.
SCHEMES = {"int8": (8, 8), "int16x8": (16, 8)}
_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Aware(Shown, Quantization):
    """What `aware` did, with ways to show it."""

    look = QUANTIZATION


@preserved_random_state()
def aware(
    model: keras.Model,
    *,
    scheme: str = "int8",
    skip: Skip = (),
    bits: BitsPlan | Mapping[str, int] | None = None,
    ranges: str = "ema",
    momentum: float = 0.99,
    percentile: float = 99.99,
    start: int = 0,
    freeze: int | None = None,
    freeze_batch_norm: int | None = None,
    calibration: Any = None,
    samples: int = 100,
) -> tuple[keras.Model, Aware]:
    """Return a copy of a model that trains with the rounding of an integer file, and what was done to each layer.

    Use it when an int8 file of the trained model loses accuracy: train the copy for a few epochs at a small learning
    rate, then `kopt.export.tflite(copy, path, scheme="int8")`, which needs no calibration. The copy trains like any
    model, in `fit` or a loop of your own, compiled or not, in mixed precision, on several replicas; it saves to
    `.keras` and loads, and goes on where it was. Compile it anew.

    Kernels are rounded channel by channel, symmetric, biases to 32 bits, activations tensor by tensor where TFLite
    writes one. A BatchNormalization behind a kernel is part of it, with the statistics of the batch until
    `freeze_batch_norm`. Convolutions, sums and products are rounded behind their ReLU; pooling, reshaping, padding and
    concatenation keep the range of what they take. Zeros of a pruned kernel stay zero, and weights that share a value
    go on sharing it.

    Args:
        model: Functional or Sequential, built; not changed. Nested models come out flat.
        scheme: `"int8"`, or `"int16x8"`: activations of 16 bits, for models without concatenation and float layers.
        skip: layers to leave in float: names, paths, patterns with `*`, classes; or a function of the layer.
        bits: of the weights of single layers, by their paths, 4 or 8, or a plan of `kopt.quantize.bits`; others have 8.
            Weights of 4 bits take half the bytes of the file; LiteRT unpacks them, so that they are not faster. For
            `scheme="int8"`.
        ranges: how those of activations are found: `"ema"`, the moving average of the smallest and largest value of a
            batch; `"percentile"`, of percentiles; `"learned"`, trained with the weights (LSQ), which needs
            `calibration`.
        momentum: of the moving average.
        percentile: of `"percentile"`.
        start: batches that only set ranges, before activations are rounded.
        freeze: batches after which ranges stay; `None`: never.
        freeze_batch_norm: batches after which normalizations use moving statistics in training, as the file will;
            `None`: never.
        calibration: inputs from which ranges start, see `kopt.data.calibration`; without, the first batch of training
            sets them.
        samples: how many examples of `calibration` are used.

    Returns:
        The copy, not compiled, and a report: `kernels` and `ranges` list what is rounded, `left` what computes in
        float, with the reason.

    Raises:
        InputError: a setting or the model cannot be used.
        NonFiniteError: a weight is NaN or infinite.
        UnsupportedModelError: a subclassed model, one that is quantized already, or one without a layer that has an
            integer operator.

    Example:
        ```python
        copy, report = kopt.quantize.aware(model)
        copy.compile(keras.optimizers.Adam(1e-5), "sparse_categorical_crossentropy")
        copy.fit(x, y)
        kopt.export.tflite(copy, "model.tflite", scheme="int8")
        ```

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", 2018, section 3; Esser et al., "Learned Step Size Quantization", 2020.
    """
    rule = RangeRule(ranges, momentum, percentile, start, freeze)
    activation_bits, weight_bits = SCHEMES[choice("scheme", scheme, tuple(SCHEMES))]
    if freeze_batch_norm is not None:
        whole("freeze_batch_norm", freeze_batch_norm, least=0)
    if ranges == "learned" and calibration is None:
        raise ConfigError('`ranges="learned"` trains ranges from where `calibration` puts them: give it real inputs.')
    _require_fit(model)
    view = GraphView.of(model)
    graph = flatten_calls(view, tuple(tuple(tensor.shape) for tensor in view.inputs))
    narrow = _bits_of_layers(graph, bits, scheme)
    request = Request(activation_bits, weight_bits, freeze_batch_norm, _skipped(graph, skip), narrow)
    data = None if calibration is None else sample(calibration, samples=samples, inputs=signature(model)[0])
    copy, record = _retraced(model, view, graph, request, rule, scheme)
    if data is not None:
        _calibrate(copy, data)
    return copy, Aware(**{field.name: getattr(record, field.name) for field in dataclasses.fields(record)})


def _require_fit(model: keras.Model) -> None:
    require_built(model)
    if is_quantized(model):
        raise UnsupportedModelError(
            f"Model {model.name!r} is quantization-aware already. Train it, or pass the model it was made from."
        )
    layers = flatten_layers(model)
    integer = [layer.name for layer in layers if getattr(layer, "quantization_mode", None)]
    if integer:
        raise UnsupportedModelError(
            f"Model {model.name!r} was converted with `keras.Model.quantize`: {', '.join(integer[:5])} hold integers, "
            f"which neither train nor pass the TFLite converter. Pass the float model that it was made from."
        )
    require_finite(model)
    if graph_of(model) is None:
        raise UnsupportedModelError(
            f"Model {model.name!r} is of the class {type(model).__module__}.{type(model).__qualname__}, whose `call` "
            f"is Python code: there is no graph in which to place quantizers. Build it as "
            f'`keras.Model(inputs, outputs)`; `kopt.export.tflite` with `scheme="int8"` and `calibration` quantizes '
            f"it as it is, without training."
        )


def _retraced(
    model: keras.Model, view: GraphView, graph: FlatGraph, request: Request, rule: RangeRule, scheme: str
) -> tuple[keras.Model, Quantization]:
    names = FreshNames({node_of(tensor).operation.name for tensor in (*view.inputs, *view.outputs)})
    reader = Reader(graph, request, names)
    reader.read()
    if not reader.kernels:
        reasons = "; ".join(f"{one.layer} ({one.type}): {one.detail}" for one in list(reader.left.values())[:5])
        raise UnsupportedModelError(f"No layer of model {model.name!r} has a kernel to quantize. {reasons}")
    _require_kernels(reader.kernels, request.bits_of_layers)
    if scheme == "int16x8" and reader.left:
        reasons = "; ".join(f"{one.layer} ({one.type}): {one.detail}" for one in list(reader.left.values())[:5])
        raise UnsupportedModelError(
            f"A file of 16-bit activations cannot hold float layers, and model {model.name!r} has some: {reasons}. "
            f'Use `scheme="int8"`, in whose files they stay float.'
        )
    floats = [key for tensor, key in zip(view.inputs, graph.inputs, strict=True) if str(tensor.dtype)[:5] == "float"]
    placement = Placement(reader.steps, floats, graph.outputs)
    retracing = Retracing(placement, rule, request.bits, names)
    inputs = retracing.inputs(view, graph)
    retracing.follow(reader.steps)
    copy = QuantizedFunctional(inputs, retracing.outputs(view, graph), name=model.name)
    copy_model_settings(model, copy)
    record = Quantization(
        model.name, scheme, tuple(reader.kernels), tuple(retracing.quantizers), tuple(reader.left.values())
    )
    copy.remember(record, reader.float_names, reader.sources)
    return copy, record


def _bits_of_layers(graph: FlatGraph, bits: BitsPlan | Mapping[str, int] | None, scheme: str) -> Mapping[str, int]:
    """Return the bits of weights by the paths of layers.

    Raises:
        ConfigError: a path is no layer's, there is no such number of bits, or the scheme takes none.
    """
    given = dict(bits.bits if isinstance(bits, BitsPlan) else bits or {})
    known = dict(paths_of(graph))
    for path, value in given.items():
        if path not in known:
            raise ConfigError(f"`bits` names {path!r}, and no layer is called so.{nearest(path, known)}")
        if value not in WEIGHT_BITS:
            raise ConfigError(
                f"`bits` of a layer are {' or '.join(map(str, WEIGHT_BITS))}. Received: {path}={value!r}."
            )
    if scheme != "int8" and any(value != 8 for value in given.values()):
        raise ConfigError(f"Weights of 4 bits go with `scheme='int8'`. Received: scheme={scheme!r}.")
    return given


def _require_kernels(kernels: Iterable[QuantizedKernel], bits: Mapping[str, int]) -> None:
    """Raise if a layer that was given bits has no kernel of so many."""
    for path, value in bits.items():
        own = [one for one in kernels if one.layer == path or one.layer.startswith(f"{path}/")]
        if not any(one.bits == value for one in own):
            reason = "only of 8 bits" if own else "not rounded"
            raise ConfigError(
                f"`bits` gives layer {path!r} {value} bits, and its kernel is {reason} in files of TFLite. Leave it "
                f"out."
            )


def _skipped(graph: FlatGraph, skip: Skip) -> Mapping[str, str]:
    """Return the paths to leave in float, with the reason.

    Raises:
        ConfigError: an entry of `skip` matches no layer.
    """
    known = dict(paths_of(graph))
    if callable(skip) and not isinstance(skip, type):
        return {path: "`skip` chose it" for path, one in known.items() if isinstance(one, L.Layer) and skip(one)}
    found: dict[str, str] = {}
    for entry in [skip] if isinstance(skip, (str, type)) else skip:
        matches = [path for path, one in known.items() if _matches(entry, path, one)]
        if not matches:
            raise ConfigError(
                f"`skip` names {entry!r}, and no layer is called so.{nearest(str(entry), known)} Accepted: names, "
                f"paths, patterns with `*`, classes of layers, or a function of the layer."
            )
        found.update(dict.fromkeys(matches, "named in `skip`"))
    return found


def _matches(entry: Any, path: str, operation: keras.Operation) -> bool:
    if isinstance(entry, type):
        return isinstance(operation, entry)
    inside = any(part == entry for part in path.split("/")) or path.startswith(f"{entry}/")
    return path == entry or inside or fnmatch.fnmatchcase(path, str(entry)) or type(operation).__name__ == entry


def _calibrate(model: keras.Model, data: Mapping[str, np.ndarray]) -> None:
    """Let every quantizer see the examples once."""
    arrays = list(data.values())
    with observing():
        for begin in range(0, len(arrays[0]), _BATCH):
            flat = [array[begin : begin + _BATCH] for array in arrays]
            model(keras.tree.pack_sequence_as(model.input, flat), training=False)
