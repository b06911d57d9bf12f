"""Makes the copy of a model that computes with rounded numbers."""

from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from kopt.core.errors import ConfigError, UnsupportedModelError, nearest
from kopt.core.records.changes.aware_training import KeptWeights, Quantization, QuantizedKernel, RangeRule
from kopt.core.records.changes.bits import WEIGHT_BITS, BitsPlan
from kopt.core.settings import choice
from kopt.graph import FreshNames, GraphView, owned_variables, require_built, require_finite
from kopt.graph.checks import require_keras_training, require_unquantized
from kopt.graph.internals import allow_depth, flatten_layers, graph_of, node_of
from kopt.graph.layer_names import is_named
from kopt.graph.rewrite import copy_model_settings, copy_output_names
from kopt.profile.cost.flat import FlatGraph, flatten_calls
from kopt.quantize.placement import Placement
from kopt.quantize.preserved import distinct, what_to_keep
from kopt.quantize.quantized_model import QuantizedFunctional, is_quantized
from kopt.quantize.reading import Reader, Request, paths_of
from kopt.quantize.retracing import Retracing
from kopt.train.weight_constraints import constraints_of

L = keras.layers
Skip = Iterable[str | type] | Callable[[keras.layers.Layer], bool]
# From the name to the bits of activations and weights.
_TABLES = (L.StringLookup, L.IntegerLookup, L.TextVectorization)
SCHEMES = {"int8": (8, 8), "int16x8": (16, 8)}


def require_fit(model: keras.Model) -> None:
    """Refuse a model that cannot be quantized.

    Raises:
        InputError: it is not built.
        NonFiniteError: a weight is NaN or infinite.
        UnsupportedModelError: a subclassed model, or one that is quantized already.
    """
    require_built(model)
    if is_quantized(model):
        raise UnsupportedModelError(
            f"Model {model.name!r} is quantization-aware already. Train it, or pass the model it was made from."
        )
    require_unquantized(model)
    require_finite(model)
    tables = [one.name for one in flatten_layers(model) if isinstance(one, _TABLES)]
    if tables:
        raise UnsupportedModelError(
            f"Layers {', '.join(map(repr, tables[:5]))} of model {model.name!r} look values up in a table, which files "
            f"of TFLite do not hold. Build a model of what comes behind them, whose inputs are the numbers they give, "
            f"and look values up before it."
        )
    unfinished = next((one.unfinished for one in constraints_of(model) if one.unfinished), "")
    if unfinished:
        raise UnsupportedModelError(
            f"Model {model.name!r} is pruned as it trains: {unfinished}, which a copy would not go on with. Train it "
            f"to the end of the schedule, or `kopt.prune.finalize` it; the copy keeps the zeros that are there then."
        )
    if graph_of(model) is None:
        raise UnsupportedModelError(
            f"Model {model.name!r} is of the class {type(model).__module__}.{type(model).__qualname__}, whose `call` "
            f"is Python code: there is no graph in which to place quantizers. Build it as "
            f'`keras.Model(inputs, outputs)`; `kopt.export.tflite` with `scheme="int8"` and `calibration` quantizes '
            f"it as it is, without training."
        )


def require_trainable_copy(model: keras.Model) -> None:
    """Refuse a model whose training is not only that of its layers, which a copy would not have.

    Raises:
        UnsupportedModelError: its class overrides a part of the training, an output of a layer is regularized, or
            layers share variables.
    """
    require_keras_training(model)
    GraphView.of(model).require_untied()
    regularized = [one.name for one in flatten_layers(model) if getattr(one, "activity_regularizer", None) is not None]
    if regularized:
        raise UnsupportedModelError(
            f"Layers {', '.join(regularized[:5])} of model {model.name!r} have an `activity_regularizer`, which the "
            f"copy would not have. Set it to None to train without."
        )


def rounded_copy(
    model: keras.Model,
    scheme: str,
    rule: RangeRule,
    skip: Skip,
    *,
    in_float: Mapping[str, str] = MappingProxyType({}),
    freeze_batch_norm: int | None = None,
    fold: bool = False,
    bits: BitsPlan | Mapping[str, int] | None = None,
) -> tuple[QuantizedFunctional, Quantization]:
    """Return a copy of a model that computes with rounded numbers, and what was done to each layer.

    Args:
        model: that `require_fit` lets pass; not changed.
        scheme: a name in `SCHEMES`.
        rule: how quantizers find their ranges.
        skip: layers to leave in float.
        in_float: others, by path, each with the reason.
        freeze_batch_norm: see `kopt.quantize.aware`.
        fold: normalizations go into kernels and biases for good, and every kernel has a bias.
        bits: of weights, by the paths of layers, where they are not those of the scheme.

    Raises:
        ConfigError: an unknown scheme, an entry of `skip` that matches no layer, or bits that a layer cannot have.
        UnsupportedModelError: no layer has an integer operator.
    """
    activation_bits, weight_bits = SCHEMES[choice("scheme", scheme, tuple(SCHEMES))]
    view = GraphView.of(model)
    _require_without_masks(view)
    graph = flatten_calls(view, tuple(tuple(tensor.shape) for tensor in view.inputs))
    narrow = _bits_of_layers(graph, bits, scheme)
    request = Request(
        activation_bits, weight_bits, freeze_batch_norm, {**_skipped(graph, skip), **in_float}, fold, narrow
    )
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
    allow_depth(len(reader.steps) + len(retracing.quantizers))
    copy = QuantizedFunctional(inputs, retracing.outputs(view, graph), name=model.name)
    copy_model_settings(model, copy)
    copy_output_names(model, copy)
    preserved, kept = _preserved(copy, {step.name for step in reader.steps if step.whole}, reader.sources)
    record = Quantization(
        model.name, scheme, tuple(reader.kernels), tuple(retracing.quantizers), tuple(reader.left.values()), kept
    )
    copy.remember(record, reader.float_names, reader.sources)
    copy.preserve(preserved)
    copy.take_patterns()
    return copy, record


def _preserved(
    copy: keras.Model, whole: Collection[str], sources: Mapping[str, str]
) -> tuple[dict[int, str], tuple[KeptWeights, ...]]:
    """Return what training should leave of variables in layers that are called as they are, by place and for people."""
    found, kept = {}, []
    for place, one in enumerate(owned_variables(copy)):
        name, _, within = one.layer_path.partition("/")
        if one.trainable and len(one.variable.shape) > 1 and name in whole:
            values = one.variable.numpy()
            channels = (values.ndim - 1,)
            used = values[np.any(values, axis=tuple(range(1, values.ndim)))]  # rows of zeros may be those of padding
            what = what_to_keep(used, channels) if used.size else ""
            if what:
                found[place] = what
                path = "/".join(part for part in (sources[name], within) if part)
                zeros = float(np.mean(values == 0))
                kept.append(KeptWeights(path, one.variable.name, zeros, distinct(values, what, channels)))
    return found, tuple(kept)


def _require_without_masks(view: GraphView) -> None:
    for call in view.calls:
        if call.nested is None:
            continue
        if len(call.inputs) > len(call.nested.inputs):
            raise UnsupportedModelError(
                f"The nested model {call.operation.name!r} is called with a mask, by which its layers would compute "
                f"something else than their copies. Put its layers into the outer model, or leave out `mask_zero`."
            )
        _require_without_masks(call.nested)


def _bits_of_layers(graph: FlatGraph, bits: BitsPlan | Mapping[str, int] | None, scheme: str) -> Mapping[str, int]:
    """Return the bits of weights by the paths of layers.

    Raises:
        ConfigError: a path is no layer's, there is no such number of bits, or the scheme takes none.
    """
    if not isinstance(bits, (BitsPlan, Mapping, type(None))):
        raise ConfigError(f"`bits` must be a mapping of layers to bits, or a plan of `bits`. Received: {bits!r}.")
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
    found: dict[str, str] = {}
    if callable(skip) and not isinstance(skip, type):
        found = {path: "`skip` chose it" for path, one in known.items() if isinstance(one, L.Layer) and skip(one)}
        if not found:
            raise ConfigError("`skip` is a function that chooses none of the layers. Leave it out to skip none.")
        return found
    if not isinstance(skip, (str, type, Iterable)):
        raise ConfigError(
            f"`skip` must be names, classes of layers or a function of the layer. Received: {skip!r} "
            f"({type(skip).__name__})."
        )
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
    return is_named(path, str(entry)) or type(operation).__name__ == entry
