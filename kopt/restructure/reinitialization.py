"""New initial values for layers, with the check that shows what they do to the signal."""

import dataclasses
import math
import zlib
from typing import Any

import keras
import numpy as np

from kopt.core.errors import UnsupportedModelError
from kopt.core.randomness import preserved_random_state
from kopt.core.records.actions import LayerAction
from kopt.core.records.artifacts import TensorInfo
from kopt.core.records.changes.restructuring import LayerVariance, ReinitializationReport
from kopt.core.settings import choice, whole
from kopt.data import calibration
from kopt.graph import GraphView, clone_layer, signature
from kopt.measure.feeding import random_inputs
from kopt.report.changes.variances import VARIANCES
from kopt.report.look import Shown
from kopt.restructure import initial_values
from kopt.restructure.deviations import output_deviations
from kopt.restructure.initial_values import INITIALIZERS, fans
from kopt.restructure.kinds import CONV, DEPTHWISE, KINDS, SEPARABLE, altered, kernel_names
from kopt.restructure.residual_branches import last_layers, residual_branches
from kopt.restructure.selection import Layers, chosen, require_applied, require_unconstrained
from kopt.restructure.sites import Site, sites_of
from kopt.restructure.substitution import Substitute, Weights, substituted

L = keras.layers
_NORMALIZATIONS = (L.BatchNormalization, L.LayerNormalization, L.GroupNormalization)
# What a normalization that does nothing holds.
_RESET = {"gamma": 1.0, "beta": 0.0, "moving_mean": 0.0, "moving_variance": 1.0}
_EXAMPLES = 32
_ZEROS, _NORMALIZATION = "zeros", "reset"


@dataclasses.dataclass(frozen=True)
class Reinitialization(Shown, ReinitializationReport):
    """What was drawn anew, with ways to show it."""

    look = VARIANCES


@preserved_random_state()
def reinitialize(
    model: keras.Model,
    *,
    layers: Layers = None,
    initializer: str = "he_normal",
    seed: int = 0,
    data: Any = None,
) -> tuple[keras.Model, Reinitialization]:
    """Return a copy of `model` with layers drawn anew, and how large every layer's output was and is.

    Use it to train an architecture again from the start, to begin the last layers anew before a fine-tuning, or to see
    whether an initializer keeps the signal alive through the depth of a model.

    Kernels are drawn; biases become 0; normalizations become the identity (gamma 1, beta 0, mean 0, variance 1). The
    fans are those of the layer: of a depthwise kernel its size alone, of a transposed one what an output sees on
    average. The first kernel of a separable convolution, behind which no activation comes, is drawn with half the
    variance of He's.

    `"fixup"` needs residual additions of two tensors. The last kernel of each branch, and those that give the model's
    outputs, become 0; others in a branch of `m` kernels are He's times `L ** (-1 / (2 m - 2))` for `L` branches; all
    others are He's. It is meant for networks without normalization, which would undo the factor; the biases and
    multipliers that the paper adds are not added, because the architecture stays.

    Args:
        model: built Functional or Sequential model, nested models included; not changed.
        layers: names or paths, or a function of the layer; by default all with weights that there is a rule for:
            convolutions, dense layers and normalizations. Others keep their weights and are listed.
        initializer: `"he_normal"`, `"glorot_uniform"`, `"orthogonal"` or `"fixup"`.
        seed: every layer draws from its own generator of this seed and its path, so that a layer more or less leaves
            the others' draws as they are.
        data: examples on which the outputs are computed, as for `kopt.data.calibration`; 32 of them. Random numbers of
            mean 0 and variance 1 by default.

    Returns:
        The copy, a plain Functional model, not compiled, and a report with the standard deviations of weights and
        outputs before and after, in inference. `report.spread_after` far above 1 says that the signal fades or
        explodes; with normalizations, which do nothing at first in inference, that is what they hold back in training.

    Raises:
        ConfigError: an unknown initializer or name, or an impossible seed.
        DataError: `data` does not fit the model, or none was given and an input has an open size.
        UnsupportedModelError: a subclassed model, no layer to draw, or `"fixup"` without residual branches.

    Example:
        >>> fresh, report = kopt.restructure.reinitialize(model, layers=["classes"], data=x_train)
        >>> [change.path for change in kopt.profile.compare(model, fresh).changed]
        ['classes/kernel', 'classes/bias']

    Source: see `kopt.restructure.initial_values`.
    """
    choice("initializer", initializer, INITIALIZERS)
    whole("seed", seed, least=0)
    view = GraphView.of(model)
    require_unconstrained(model)
    sites = sites_of(view)
    inputs, _ = signature(model)
    arrays = (
        _noise(inputs, seed)
        if data is None
        else calibration(data, samples=_EXAMPLES, seed=seed, inputs=inputs, name="data")
    )
    rules = _Rules(initializer, sites, model.name)
    left: dict[str, LayerAction] = {}
    made: dict[Site, Substitute] = {}
    for site in chosen(sites, layers, lambda layer: bool(layer.weights)):
        if reason := _unfit(site):
            left[site.path] = LayerAction(site.path, type(site.layer).__name__, reason)
        else:
            generator = np.random.default_rng([seed, zlib.crc32(site.path.encode())])
            made[site] = Substitute((clone_layer(site.layer, site.path),), (rules.draw(site.layer, generator),))
    require_applied("reinitialize", model.name, len(made), left.values(), "layers with weights")
    fresh = substituted(model, {id(site.layer): new for site, new in made.items()})
    values = [arrays[info.name] for info in inputs]
    before, after = output_deviations(view, values), output_deviations(GraphView.of(fresh), values)
    report = Reinitialization(
        model=model.name,
        initializer=initializer,
        seed=seed,
        examples=len(values[0]),
        data="noise" if data is None else "given",
        layers=tuple(
            LayerVariance(
                name=site.path,
                type=type(site.layer).__name__,
                rule=rules.name(site.layer),
                weight_std_before=_weight_std(site.layer),
                weight_std_after=_weight_std(new.layers[0]),
                output_std_before=before[site.path],
                output_std_after=after[site.path],
            )
            for site, new in made.items()
        ),
        left=tuple(left.values()),
    )
    return fresh, report


class _Rules:
    """What each layer of a model is drawn from."""

    def __init__(self, initializer: str, sites: tuple[Site, ...], model: str):
        self._initializer = initializer
        self._scales: dict[int, float] = {}
        if initializer != "fixup":
            return
        branches = residual_branches(sites)
        if not branches:
            raise UnsupportedModelError(
                f"`initializer='fixup'` is for residual networks, and model {model!r} adds no two tensors of which one "
                f"went through a layer of its own. Use 'he_normal' or 'orthogonal'."
            )
        for branch in branches:
            *inner, last = branch.layers
            for layer in inner:
                self._scales[id(layer)] = initial_values.fixup_scale(len(branches), len(branch.layers))
            self._scales[id(last)] = 0.0
        self._scales.update({id(layer): 0.0 for layer in last_layers(sites)})

    def name(self, layer: keras.layers.Layer) -> str:
        """Return what a layer was drawn from, in words."""
        if isinstance(layer, _NORMALIZATIONS):
            return _NORMALIZATION
        if self._initializer != "fixup":
            return self._initializer
        scale = self._scales.get(id(layer), 1.0)
        if not scale:
            return _ZEROS
        return "he_normal" if scale == 1.0 else f"he_normal * {scale:.3f}"

    def draw(self, layer: keras.layers.Layer, generator: np.random.Generator) -> Weights:
        """Return the new weights of a layer."""
        if isinstance(layer, _NORMALIZATIONS):
            held = ((name, getattr(layer, name, None)) for name in _RESET)
            return {name: np.full(variable.shape, _RESET[name]) for name, variable in held if variable is not None}
        kind, weights = KINDS[type(layer)], {}
        for name in kernel_names(kind):
            part = kind if kind != SEPARABLE else DEPTHWISE if name == "depthwise_kernel" else CONV
            shape = tuple(getattr(layer, name).shape)
            gain = 1.0 if kind == SEPARABLE and part == DEPTHWISE else 2.0
            strides = tuple(getattr(layer, "strides", ()))
            if self._initializer == "orthogonal":
                weights[name] = initial_values.orthogonal(generator, shape, part, getattr(layer, "groups", 1))
            else:
                weights[name] = self._kernel(generator, shape, fans(part, shape, strides), gain)
            weights[name] = weights[name] * self._scales.get(id(layer), 1.0)
        if layer.bias is not None:
            weights["bias"] = np.zeros(layer.bias.shape)
        return weights

    def _kernel(
        self, generator: np.random.Generator, shape: tuple[int, ...], fan: tuple[float, float], gain: float
    ) -> np.ndarray:
        if self._initializer == "glorot_uniform":
            return initial_values.glorot_uniform(generator, shape, *fan)
        return initial_values.he_normal(generator, shape, fan[0], gain)


def _unfit(site: Site) -> str:
    layer = site.layer
    if site.in_training_mode:
        return "it is called with `training=True`"
    if not layer.weights:
        return "it has no weights"
    if type(layer) in _NORMALIZATIONS:
        return ""
    if type(layer) not in KINDS:
        return "there is no rule for its weights"
    return altered(layer)


def _weight_std(layer: keras.layers.Layer) -> float:
    kind = KINDS.get(type(layer))
    variable = getattr(layer, "gamma", None) if kind is None else getattr(layer, kernel_names(kind)[-1])
    return 0.0 if variable is None else float(np.std(keras.ops.convert_to_numpy(variable).astype(np.float64)))


def _noise(inputs: tuple[TensorInfo, ...], seed: int) -> dict[str, np.ndarray]:
    """Return random inputs; the reals, which come evenly spread over [0, 1), with mean 0 and variance 1."""
    return {
        name: (values - 0.5) * math.sqrt(12) if values.dtype.kind == "f" else values
        for name, values in random_inputs(inputs, _EXAMPLES, seed).items()
    }
