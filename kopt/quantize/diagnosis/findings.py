"""What is wrong with layers in integers, from their numbers: no model here."""

import math
from collections.abc import Callable, Iterator, Sequence

from kopt.core.records.changes.quantization_diagnosis import Finding, LayerDiagnosis, noise_share

# Of what shares a grid of 256 values, the smallest gets two or less where the largest is 128 times as large.
SPREAD = 100.0
# An output whose own rounding leaves less than this is coarse: an error of a tenth.
COARSE_DB = 20.0
SATURATED = 0.01
UNUSED = 0.1
DEAD = 0.25
LOST = 0.1
MOST = 0.5
# Below this share of the output's power an error is none of anybody's business.
_NEGLIGIBLE_DB = 50.0
# From a layer to what is wrong with it.
Rule = Callable[[LayerDiagnosis], Iterator[Finding]]


def findings_of(layers: Sequence[LayerDiagnosis], output_db: float) -> tuple[Finding, ...]:
    """Return what is wrong, of the layer that costs the output most first.

    Args:
        layers: of the model.
        output_db: of the outputs with all layers rounded.
    """
    gravest = sorted(layers, key=lambda one: one.output_db)
    found = [*most_of_the_error(layers), *(finding for one in gravest for rule in RULES for finding in rule(one))]
    return tuple(found or everywhere(gravest, output_db))


def everywhere(gravest: Sequence[LayerDiagnosis], output_db: float) -> Iterator[Finding]:
    """The output is coarse, and no layer stands out: small errors add up."""
    if output_db < COARSE_DB and gravest:
        words = (
            f"No layer stands out, and the output has {output_db:.1f} dB (threshold {COARSE_DB:.0f} dB): the errors of "
            f"{len(gravest)} operators add up; that of this one alone leaves {gravest[0].output_db:.1f} dB. Train with "
            f"the rounding (`kopt.quantize.aware`), or take `scheme='int16x8'`."
        )
        yield Finding("everywhere", gravest[0].layer, output_db, COARSE_DB, words)


def most_of_the_error(layers: Sequence[LayerDiagnosis]) -> Iterator[Finding]:
    """A single layer injects more than half of what all layers, each alone, add to the output."""
    shares: dict[str, float] = {}
    for one in layers:  # A dense layer and its softmax are two operators of one layer.
        shares[one.layer] = shares.get(one.layer, 0.0) + noise_share(one.output_db)
    total = sum(shares.values())
    worst = max(shares, key=lambda layer: shares[layer], default="")
    share = shares[worst] / total if total else 0.0
    if share > MOST and shares[worst] > noise_share(_NEGLIGIBLE_DB) and len(shares) > 2:
        words = (
            f"{worst} alone makes {share:.0%} of the error that all layers inject (threshold {MOST:.0%}): the output "
            f"has {-10 * math.log10(shares[worst]):.1f} dB with nothing else rounded. Begin there."
        )
        yield Finding("most of the error", worst, share, MOST, words)


def spread_output(one: LayerDiagnosis) -> Iterator[Finding]:
    """Channels of very different size share the range of an output, and rounding costs it something."""
    if one.output_spread >= SPREAD and one.kernel is not None and one.output_db < _NEGLIGIBLE_DB:
        words = (
            f"The channels of its output differ {one.output_spread:.0f}x in size (threshold {SPREAD:.0f}x) and share "
            f"one range, in which the small ones get {_levels(one.output_spread)}. Equalize the layers, or keep this "
            f"one and those behind it in float."
        )
        yield Finding("spread output", one.layer, one.output_spread, SPREAD, words)


def spread_kernel(one: LayerDiagnosis) -> Iterator[Finding]:
    """Weights that share a grid differ so much that many become zero."""
    kernel = one.kernel
    if kernel is None:
        return
    if kernel.input_spread >= SPREAD and kernel.lost > LOST and one.output_db < _NEGLIGIBLE_DB:
        words = (
            f"The input channels of its kernel differ {kernel.input_spread:.0f}x in size (threshold {SPREAD:.0f}x) and "
            f"share the grids of the outputs: {kernel.lost:.0%} of the weights that are not 0 are rounded to 0. "
            f"Equalize it with the layer before, or keep it in float."
        )
        yield Finding("spread kernel", one.layer, kernel.input_spread, SPREAD, words)
    elif kernel.spread >= SPREAD and (one.kernel_db or 0.0) < COARSE_DB:
        words = (
            f"The output channels of its kernel differ {kernel.spread:.0f}x in size (threshold {SPREAD:.0f}x). "
            f"Equalize, or see that they are rounded channel by channel."
        )
        yield Finding("spread kernel", one.layer, kernel.spread, SPREAD, words)


def outside(one: LayerDiagnosis) -> Iterator[Finding]:
    """Numbers of a layer do not fit into its integers."""
    if one.kernel is not None and one.kernel.outside:
        words = (
            f"{one.kernel.outside} of its biases and weights lie outside what the integers hold: their channels have "
            f"weights of almost 0. Take these channels out (`kopt.prune.constant_channels`), or keep it in float."
        )
        yield Finding("outside", one.layer, float(one.kernel.outside), 0.0, words)


def saturated(one: LayerDiagnosis) -> Iterator[Finding]:
    """Values are cut off at the ends of a range."""
    if one.saturated > SATURATED:
        words = (
            f"{one.saturated:.1%} of its output lies outside the range from {one.low:.3g} to {one.high:.3g} (threshold "
            f"{SATURATED:.0%}) and is cut off. Calibrate on data like these, or with a wider percentile."
        )
        yield Finding("saturated", one.layer, one.saturated, SATURATED, words)


def unused_range(one: LayerDiagnosis) -> Iterator[Finding]:
    """Few outliers stretch a range."""
    if one.range_use < UNUSED and one.rounding_db < COARSE_DB:
        words = (
            f"99.9% of its output lies in {one.range_use:.1%} of the range from {one.low:.3g} to {one.high:.3g} "
            f"(threshold {UNUSED:.0%}): few outliers stretch it. Take a range of percentiles."
        )
        yield Finding("unused range", one.layer, one.range_use, UNUSED, words)


def dead_channels(one: LayerDiagnosis) -> Iterator[Finding]:
    """Channels that never change cost time and nothing else."""
    share = one.dead_channels / one.channels if one.channels else 0.0
    if share > DEAD and one.kernel is not None:
        words = (
            f"{one.dead_channels} of {one.channels} channels of its output are the same for all examples (threshold "
            f"{DEAD:.0%}). `kopt.prune.constant_channels` takes them out."
        )
        yield Finding("dead channels", one.layer, share, DEAD, words)


RULES: tuple[Rule, ...] = (spread_output, spread_kernel, outside, saturated, unused_range, dead_channels)


def _levels(spread: float) -> str:
    levels = 255.0 / spread
    return f"{levels:.1f} of its 255 steps" if levels >= 1 else "less than one of its 255 steps"
