"""Techniques that leave what the model computes in float as it is: channels scaled and shifted between layers."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kopt.quantize.after_training import scales
from kopt.quantize.after_training.bench import Bench
from kopt.quantize.after_training.sites import CAP, Site, scaling_sites
from kopt.quantize.after_training.techniques import Done
from kopt.quantize.after_training.weight_changes import divided, largest_made, largest_taken, multiplied
from kopt.quantize.weights import QuantizedWeights

# Pairs of layers share kernels along a chain, so that they are gone through until nothing moves by more than this.
_ROUNDS, _STILL = 40, 1e-3
# From a site, the weights as they are and what calibration saw of its channels to the numbers to divide them by.
Rule = Callable[[Site, dict[str, Any], "Seen"], np.ndarray]


class Seen:
    """What calibration saw of the channels of every site, in float.

    Attributes:
        largest: absolute value where the next kernel takes it.
        highest, lowest: value that the first kernel makes.
    """

    def __init__(self, bench: Bench, sites: list[Site]):
        """Look at all sites at once."""
        self.largest: dict[str, np.ndarray] = {}
        self.highest: dict[str, np.ndarray] = {}
        self.lowest: dict[str, np.ndarray] = {}
        first = {site.first.name: site for site in sites}
        behind = {site.behind[0].name: site for site in sites}

        def look(call: Any, taken: Any, given: Any) -> None:
            name = call.operation.name
            if name in first:
                width = first[name].width
                made = _by_channel(given[0], width)
                _merge(self.highest, name, made.max(axis=0), np.maximum)
                _merge(self.lowest, name, made.min(axis=0), np.minimum)
            if name in behind:
                site = behind[name]
                largest = np.abs(_by_channel(taken[0], site.width)).max(axis=0)
                _merge(self.largest, site.first.name, largest, np.maximum)

        bench.in_float(look)

    def scaled(self, site: Site, by: np.ndarray) -> None:
        """Take note that channels were divided."""
        for part in (self.largest, self.highest, self.lowest):
            part[site.first.name] = part[site.first.name] / by


def equalize(bench: Bench) -> Done:
    """Make the weights that make and that take a channel equally large, through chains of layers."""
    return _scale(bench, _balance_weights, rounds=_ROUNDS)


def smooth(bench: Bench, alpha: float) -> Done:
    """Move a share of the spread of activations over channels into the weights that take them."""

    def rule(site: Site, weights: dict[str, Any], seen: Seen) -> np.ndarray:
        return scales.by_activations(seen.largest[site.first.name], _taken(site, weights), alpha)

    return _scale(bench, rule, rounds=1)


def absorb(bench: Bench) -> Done:
    """Move what every value of a channel exceeds from the bias before a ReLU into the biases behind."""
    sites = [site for site in scaling_sites(bench.view)[0] if site.rectified]
    seen = Seen(bench, sites)
    weights: dict[str, Any] = dict(bench.state.weights)
    moved = 0
    for site in sites:
        shift = np.maximum(seen.lowest[site.first.name], 0.0).astype(np.float32)
        if not shift.any():
            continue
        moved += 1
        kernel, bias = weights[site.first.name]
        weights[site.first.name] = kernel, bias - shift
        for one in site.behind:
            kernel, bias = weights[one.name]
            weights[one.name] = kernel, bias + _of_constant(one, kernel, shift).reshape(bias.shape)
    if not moved:
        return Done(0, "no channel before a ReLU is above 0 in all examples")
    bench.change(weights, exact=True)
    return Done(moved, f"biases of {moved} layer(s) moved behind their ReLU")


def _scale(bench: Bench, rule: Rule, rounds: int) -> Done:
    sites, reasons = scaling_sites(bench.view)
    if not sites:
        return Done(0, "no kernel whose channels only kernels take: " + next(iter(reasons.values()), "none"))
    seen = Seen(bench, sites)
    weights: dict[str, Any] = dict(bench.state.weights)
    for _ in range(rounds):
        largest = 0.0
        for site in sites:
            by = rule(site, weights, seen)
            if site.caps:
                by = scales.under_cap(by, seen.highest[site.first.name], CAP)
            by = by.astype(np.float32)
            _apply(site, by, weights)
            seen.scaled(site, by)
            largest = max(largest, float(np.abs(np.log(by)).max()))
        if largest < _STILL:
            break
    bench.change(weights, exact=True)
    capped = sum(site.caps for site in sites)
    note = f"channels of {len(sites)} layer(s) scaled"
    return Done(len(sites), note + (f", {capped} of them below the cap of a ReLU6" if capped else ""))


def _balance_weights(site: Site, weights: dict[str, Any], seen: Seen) -> np.ndarray:
    made = largest_made(weights[site.first.name][0], site.first.channels)
    return scales.by_weights(made, _taken(site, weights))


def _taken(site: Site, weights: Mapping[str, Any]) -> np.ndarray:
    """Return the largest absolute weight that takes each channel, of all kernels behind."""
    found = [
        largest_taken(weights[one.name][0], axis, inputs, site.width)
        for one in site.behind
        for axis, inputs in [_inputs(one)]
    ]
    return np.asarray(np.max(found, axis=0))


def _apply(site: Site, by: np.ndarray, weights: dict[str, Any]) -> None:
    kernel, bias = weights[site.first.name]
    weights[site.first.name] = divided(kernel, site.first.channels, by), bias / by
    for one in site.behind:
        kernel, bias = weights[one.name]
        weights[one.name] = multiplied(kernel, *_inputs(one), by), bias


def _inputs(one: QuantizedWeights) -> tuple[int, int]:
    """Return the axis of input channels in a kernel, and how many there are in all groups."""
    axis = one.kind.inputs(one.layer)
    assert axis is not None
    return axis, one.layer.kernel.shape[axis] * getattr(one.layer, "groups", 1)


def _of_constant(one: QuantizedWeights, kernel: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return what a kernel without padding makes of channels that are constant."""
    _, inputs = _inputs(one)
    size = getattr(one.layer, "kernel_size", ())
    dilation = getattr(one.layer, "dilation_rate", (1,) * len(size))
    window = [1 + (length - 1) * rate for length, rate in zip(size, dilation, strict=True)]
    constant = np.broadcast_to(np.tile(shift, inputs // len(shift)), (1, *window, inputs))
    return np.asarray(one.product(constant, kernel))


def _by_channel(tensor: Any, channels: int) -> np.ndarray:
    return np.asarray(tensor).reshape(-1, channels)


def _merge(found: dict[str, np.ndarray], name: str, values: np.ndarray, join: np.ufunc) -> None:
    found[name] = join(found[name], values) if name in found else values
