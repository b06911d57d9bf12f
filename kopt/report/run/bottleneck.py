"""Where a model spends its work, in words."""

from collections.abc import Callable, Iterator

from kopt.core.records.profiles.cost import LayerCost, ModelProfile
from kopt.report.parts import formats

# A layer that has this share of a cost is named; more than three are no bottleneck.
_LEAST_SHARE, _MOST_NAMED = 0.15, 3
# Processors do some ten operations in the time in which they fetch a byte from memory.
_FEW = 10.0


def bottleneck(profile: ModelProfile | None) -> tuple[str, ...]:
    """Return sentences on what dominates arithmetic, weights and memory; empty without a profile."""
    return () if profile is None else tuple(_sentences(profile))


def _sentences(profile: ModelProfile) -> Iterator[str]:
    total = f"{formats.count(profile.macs)} multiply-accumulates an example"
    named = _largest(profile, lambda layer: layer.macs)
    if named:
        yield f"Of {total}, {named}."
    elif profile.macs:
        yield f"The {total} are spread over many layers; none has {_LEAST_SHARE:.0%} of them."
    weights = _largest(profile, lambda layer: layer.parameters)
    if weights:
        yield f"Of {formats.count(profile.parameters)} parameters, {weights}."
    if profile.peak_activation_bytes is not None and profile.peak_layer:
        peak = formats.size(profile.peak_activation_bytes)
        yield f"Activations take {peak} an example where they take most, at {profile.peak_layer}."
    moved = sum((layer.input_bytes or 0) + (layer.activation_bytes or 0) for layer in profile.layers)
    if profile.flops and moved:
        each = profile.flops / (moved + sum(layer.read_weight_bytes for layer in profile.layers))
        limit = "moving numbers" if each < _FEW else "arithmetic"
        yield f"An example takes {formats.number(each)} operations for each byte moved: {limit} is the likely limit."
    if profile.unknown:
        yield f"The cost of {len(profile.unknown)} layer(s) is not known and left out."


def _largest(profile: ModelProfile, cost: Callable[[LayerCost], int | None]) -> str:
    whole = sum(cost(layer) or 0 for layer in profile.layers)
    ordered = sorted(profile.layers, key=lambda layer: cost(layer) or 0, reverse=True)[:_MOST_NAMED]
    named = [layer for layer in ordered if whole and (cost(layer) or 0) / whole >= _LEAST_SHARE]
    shares = [f"{formats.share((cost(layer) or 0) / whole)} are in {layer.name}" for layer in named]
    return ", ".join([*shares[:-1], f"and {shares[-1]}"]) if len(shares) > 1 else "".join(shares)
