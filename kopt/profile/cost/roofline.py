"""Which layers a machine computes and which it only feeds: the roofline model."""

import dataclasses
from typing import Any

import keras

from kopt.core.records.profiles.cost import LayerIntensity, MachinePeaks, RooflineProfile
from kopt.core.settings import whole
from kopt.profile.cost.machine import measured_peaks
from kopt.profile.cost.memory import VIEWS
from kopt.profile.cost.profile import Formulas
from kopt.profile.cost.profile import model as model_profile
from kopt.profile.tensorboard import InTensorBoard
from kopt.report.profiles.roofline import ROOFLINE


@dataclasses.dataclass(frozen=True)
class Roofline(InTensorBoard, RooflineProfile):
    """What `roofline` found, with ways to show it.

    Example:
        >>> peaks = kopt.core.records.profiles.cost.MachinePeaks(1e11, 1e10, "float32", "a CPU", "by hand")
        >>> found = kopt.profile.roofline(model, batch_size=32, peaks=peaks)
        >>> found.peaks.ridge, found.share("memory")  # all layers do fewer than 10 operations a byte
        (10.0, 1.0)
    """

    look = ROOFLINE


def roofline(
    model: keras.Model,
    data: Any = None,
    *,
    batch_size: int = 1,
    peaks: MachinePeaks | None = None,
    formulas: Formulas | None = None,
) -> Roofline:
    """Return for every layer how much it computes for each byte it moves, and which of the two limits it.

    Use it before optimizing: a memory-bound layer gets no faster by fewer operations, only by fewer bytes (smaller
    types, fused layers, larger batches); a compute-bound one does.

    Formula: a layer takes at least `max(flops / peak_flops, bytes / peak_bytes)`; the bytes are its weights once (of
    an embedding the rows it looks up), and its inputs and outputs once an example. What only moves numbers, such as
    padding, is memory-bound with no operation; what only gives them another shape takes no time.

    Args:
        model: built; see `kopt.profile.model`.
        data: see there.
        batch_size: examples that share a reading of the weights.
        peaks: of the machine that will run it; those of this one, measured, if `None`.
        formulas: see `kopt.profile.model`.

    Raises:
        InputError: the model is not built.
        ConfigError: an impossible `batch_size`.

    Example:
        >>> peaks = kopt.core.records.profiles.cost.MachinePeaks(1e11, 1e10, "float32", "a CPU", "by hand")
        >>> found = kopt.profile.roofline(model, batch_size=32, peaks=peaks)  # without `peaks` they are measured
        >>> {layer.name: layer.bound for layer in found.layers}
        {'conv1': 'memory', 'norm1': 'memory', 'relu1': 'memory', 'conv2': 'memory', 'classes': 'memory'}
        >>> path = found.plot("roofline.svg")

    Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 52 (2009).
    """
    whole("batch_size", batch_size)
    costs = model_profile(model, data, formulas=formulas)
    peaks = peaks or measured_peaks()
    layers, left_out = [], {}
    for layer in costs.layers:
        if layer.flops is None or layer.activation_bytes is None or layer.input_bytes is None:
            left_out[layer.name] = layer.reason or "A size is open: pass `data`."
            continue
        moved = layer.read_weight_bytes + batch_size * (layer.input_bytes + layer.activation_bytes)
        if layer.flops or (moved and layer.type not in VIEWS):
            layers.append(intensity(layer.name, layer.type, batch_size * layer.flops, moved, peaks))
    return Roofline(model.name, batch_size, peaks, tuple(layers), left_out)


def intensity(name: str, type_name: str, flops: int, moved_bytes: int, peaks: MachinePeaks) -> LayerIntensity:
    """Return what limits a layer of so many operations and bytes."""
    computing, moving = flops / peaks.flops_per_s, moved_bytes / peaks.bytes_per_s
    bound = "compute" if computing > moving else "memory"
    return LayerIntensity(name, type_name, flops, moved_bytes, bound, 1e3 * max(computing, moving))
