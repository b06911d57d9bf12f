"""Batch normalization folded into the layers beside it."""

import dataclasses
from collections.abc import Iterable, Iterator

import keras
import numpy as np

from kopt.core.randomness import preserved_random_state
from kopt.core.records.actions import LayerAction
from kopt.graph import Call, GraphView
from kopt.graph.internals import flatten_layers
from kopt.restructure import folding
from kopt.restructure.accounting import Change, Costs, Restructuring, make_report
from kopt.restructure.kinds import KINDS, TRANSPOSE, altered, kernel_names
from kopt.restructure.selection import require_applied, require_unconstrained
from kopt.restructure.sites import Site, sites_of
from kopt.restructure.substitution import Substitute, Weights, changed, substituted, values

L = keras.layers
_CONSTRAINTS = ("kernel_constraint", "depthwise_constraint", "pointwise_constraint", "bias_constraint")


@preserved_random_state()
def fold_batch_norm(model: keras.Model) -> tuple[keras.Model, Restructuring]:
    """Return a copy of `model` without the batch normalizations that can be part of the weights beside them.

    Use it before a model is deployed as Keras model or SavedModel, and before its kernels are factorized or quantized:
    inference gives the same outputs and spares a pass over the activations. The TFLite converter folds normalizations
    behind convolutions by itself, so that a `.tflite` file gets no faster.

    Formula: with `scale = gamma / sqrt(variance + epsilon)` and `shift = beta - mean * scale`, a layer before becomes
    `kernel * scale` and `bias * scale + shift`; a layer behind becomes `kernel * scale` along its inputs and
    `bias + sum(kernel * shift)`. It is computed in float64 and rounded once to the type of the weights.

    A normalization goes into the convolution or dense layer before it if that has no activation and nothing else takes
    its output; else into the one behind it if nothing else takes the normalization's output and it does not pad with
    zeros, or the shift is zero. Training the copy trains without normalization. Constraints of a folded kernel are
    dropped, because the new weights need not obey them.

    Args:
        model: built Functional or Sequential model, nested models included; not changed.

    Returns:
        The copy, a plain Functional model, not compiled, and a report: `applied` lists the normalizations with the
        layer they went into, `left` the others with the reason.

    Raises:
        InputError: not a Keras model, not built, or one that carries masks or codebooks.
        UnsupportedModelError: a subclassed model, or none of its normalizations can be folded.

    Example:
        >>> folded, report = kopt.restructure.fold_batch_norm(model)
        >>> [layer.name for layer in folded.layers]
        ['image', 'conv1', 'relu1', 'conv2', 'flat', 'classes']
        >>> kopt.measure.parity(folded, model, x_val).max_abs < 1e-5
        True

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", 2018, section 3.2.
    """
    view = GraphView.of(model)
    require_unconstrained(model)
    sites = sites_of(view)
    folder = _Folder(sites)
    folder.run()
    left = {path: LayerAction(path, "BatchNormalization", reason) for path, reason in _wrapped(sites)}
    left |= {path: LayerAction(path, "BatchNormalization", reason) for path, reason in folder.reasons.items()}
    require_applied("fold_batch_norm", model.name, len(folder.into), left.values(), "BatchNormalization")
    folded = substituted(model, folder.substitutes())
    return folded, make_report("fold_batch_norm", Costs.of(model), Costs.of(folded), folder.changes(), left)


def _wrapped(sites: Iterable[Site]) -> Iterator[tuple[str, str]]:
    """Yield normalizations inside other layers, such as `TimeDistributed`, with the reason why they are left."""
    for site in sites:
        for inner in flatten_layers(site.layer)[1:]:
            if type(inner) is L.BatchNormalization:
                yield f"{site.path}/{inner.name}", f"it is a part of {site.path!r} ({type(site.layer).__name__})"


@dataclasses.dataclass
class _Host:
    """A layer that takes normalizations in, with its weights as they become."""

    site: Site
    kind: str
    weights: Weights


class _Folder:
    """Folds one normalization after the other until none goes in any more."""

    def __init__(self, sites: tuple[Site, ...]):
        self._norms = [site for site in sites if type(site.layer) is L.BatchNormalization]
        self._sites = {id(site.layer): site for site in sites}
        self._hosts: dict[int, _Host] = {}
        self._gone: set[int] = set()
        self.into: dict[str, tuple[Site, str]] = {}
        self.reasons: dict[str, str] = {}

    def run(self) -> None:
        pending = self._norms
        while True:
            waiting = [norm for norm in pending if not self._fold(norm)]
            if len(waiting) == len(pending):
                return
            pending = waiting

    def changes(self) -> list[Change]:
        ordered = [norm.path for norm in self._norms if norm.path in self.into]
        return [Change(path, "BatchNormalization", f"into {self.into[path][1]}", ()) for path in ordered]

    def substitutes(self) -> dict[int, Substitute]:
        made = {id(norm.layer): _passed_on(norm) for norm in self._norms if norm.path in self.into}
        for key, host in self._hosts.items():
            config = host.site.layer.get_config()
            dropped = {name: None for name in _CONSTRAINTS if name in config}
            layer = changed(host.site.layer, use_bias=True, **dropped)
            made[key] = Substitute((layer,), (host.weights,))
        return made

    def _fold(self, norm: Site) -> bool:
        """Fold one normalization if it can be; else note why not."""
        reason = _unfit_norm(norm)
        if not reason:
            before, reason_before = self._before(norm)
            if before is not None:
                self._take_in(norm, before, behind=False)
                return True
            after, reason_after = self._after(norm)
            if after is not None:
                self._take_in(norm, after, behind=True)
                return True
            reason = f"{reason_before}; {reason_after}"
        self.reasons[norm.path] = reason
        return False

    def _take_in(self, norm: Site, site: Site, *, behind: bool) -> None:
        host = self._hosts.setdefault(id(site.layer), _host(site))
        fold = folding.fold_before if behind else folding.fold_after
        host.weights = fold(host.kind, host.weights, *_scale_and_shift(norm.layer))
        self._gone.add(id(norm.layer))
        self.into[norm.path] = (site, f"{type(site.layer).__name__} {site.path!r}")
        self.reasons.pop(norm.path, None)

    def _before(self, norm: Site) -> tuple[Site | None, str]:
        """Return the layer before that takes the normalization in, or why there is none."""
        view, call = norm.calls[0]
        maker: Call | None = call
        while maker is not None and (maker is call or id(maker.operation) in self._gone):
            tensor = maker.inputs[0]
            maker = view.producer(tensor)
            if len(view.consumers(tensor)) > 1 or any(output is tensor for output in view.outputs):
                return None, f"other layers use the output of {_called(maker)} before it"
        if maker is None:
            return None, "an input of the model comes before it"
        site = self._sites.get(id(maker.operation))
        if site is None or type(site.layer) not in KINDS:
            return None, f"{_called(maker)} before it is no convolution or dense layer"
        if site.layer.activation is not keras.activations.linear:
            return None, f"{_called(maker)} before it has an activation"
        return _fitting(norm, site, "before")

    def _after(self, norm: Site) -> tuple[Site | None, str]:
        """Return the layer behind that takes the normalization in, or why there is none."""
        view, call = norm.calls[0]
        taker = call
        while taker is call or id(taker.operation) in self._gone:
            tensor = taker.outputs[0]
            takers = view.consumers(tensor)
            if any(output is tensor for output in view.outputs):
                return None, "its output is one of the model's"
            if len(takers) != 1:
                return None, f"{len(takers)} layers take its output"
            taker = takers[0]
        site = self._sites.get(id(taker.operation))
        if site is None or type(site.layer) not in KINDS:
            return None, f"{_called(taker)} behind it is no convolution or dense layer"
        if not _spreads_evenly(site.layer) and np.any(_scale_and_shift(norm.layer)[1]):
            return None, f"{_called(taker)} behind it pads with zeros, which the shift would change"
        return _fitting(norm, site, "behind")


def _fitting(norm: Site, site: Site, place: str) -> tuple[Site | None, str]:
    """Return the site if nothing forbids to change its weights for the normalization."""
    layer, named = site.layer, f"{type(site.layer).__name__} {site.layer.name!r} {place} it"
    if len(site.calls) > 1:
        return None, f"{named} is shared by {len(site.calls)} calls"
    if reason := altered(layer):
        return None, f"{named}: {reason}"
    if layer.compute_dtype != norm.layer.compute_dtype:
        return None, f"{named} computes in {layer.compute_dtype}, it in {norm.layer.compute_dtype}"
    rank = len(norm.input_shapes[0])
    if norm.layer.axis % rank != _channel_axis(layer, rank):
        return None, f"it normalizes axis {norm.layer.axis}, the channels of {named} are another"
    return site, ""


def _unfit_norm(norm: Site) -> str:
    """Return why a normalization stays whatever is beside it."""
    if len(norm.calls) > 1:
        return f"it is shared by {len(norm.calls)} calls"
    if norm.in_training_mode:
        return "it is called with `training=True` and uses the statistics of the batch"
    return ""


def _passed_on(norm: Site) -> Substitute:
    view, call = norm.calls[0]
    # The name of an output is that of the layer that gives it.
    is_output = any(output is call.outputs[0] for output in view.outputs)
    if not is_output:
        return Substitute()
    return Substitute((L.Identity(name=norm.layer.name, dtype=norm.layer.dtype_policy.name),), ({},))


def _host(site: Site) -> _Host:
    layer, kind = site.layer, KINDS[type(site.layer)]
    weights = {name: values(getattr(layer, name)) for name in kernel_names(kind)}
    channels = site.output_shapes[0][_channel_axis(layer, len(site.output_shapes[0]))]
    weights["bias"] = np.zeros(channels or 0) if layer.bias is None else values(layer.bias)
    return _Host(site, kind, weights)


def _scale_and_shift(norm: keras.layers.Layer) -> tuple[np.ndarray, np.ndarray]:
    gamma, beta = (None if variable is None else values(variable) for variable in (norm.gamma, norm.beta))
    return folding.scale_and_shift(gamma, beta, values(norm.moving_mean), values(norm.moving_variance), norm.epsilon)


def _spreads_evenly(layer: keras.layers.Layer) -> bool:
    """Return whether a constant image stays constant up to its border."""
    if isinstance(layer, L.Dense):
        return True
    pointlike = all(size == 1 for size in layer.kernel_size)
    if KINDS[type(layer)] == TRANSPOSE:
        return pointlike and all(stride == 1 for stride in layer.strides)
    return pointlike or layer.padding == "valid"


def _channel_axis(layer: keras.layers.Layer, rank: int) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def _called(call: Call | None) -> str:
    return "the input" if call is None else f"{type(call.operation).__name__} {call.operation.name!r}"
