"""What keeps layers from learning, from statistics of gradients and activations: no model here."""

from collections.abc import Iterable, Iterator, Sequence

from kopt.core.records.profiles.gradients import ActivationStatistics, GradientThresholds, VariableGradient, Verdict


def gradient_verdicts(variables: Sequence[VariableGradient], thresholds: GradientThresholds) -> tuple[Verdict, ...]:
    """Return what is wrong with the gradients of variables, given from the input to the output.

    Vanishing is judged of kernels, weights with two axes and more that are no bias: gradients of biases and scales are
    sums over positions and of another size.
    """
    return tuple(
        verdict
        for place, one in enumerate(variables)
        for verdict in _of_variable(one, _largest_after(variables[place + 1 :]), thresholds)
    )


def activation_verdicts(
    activations: Iterable[ActivationStatistics], thresholds: GradientThresholds
) -> tuple[Verdict, ...]:
    """Return which activations let too little through."""
    return tuple(verdict for one in activations for verdict in _of_activation(one, thresholds))


def _of_variable(one: VariableGradient, after: float, thresholds: GradientThresholds) -> Iterator[Verdict]:
    if not one.trainable:
        yield Verdict("frozen", one.path, 0.0, None, "Frozen: `trainable` is False, so that training leaves it.")
    elif not one.connected:
        words = "The loss does not depend on it, so that training leaves it. Use its output, or remove it."
        yield Verdict("not connected", one.path, 0.0, None, words)
    elif one.rms == 0.0:
        words = (
            "The gradient is exactly 0 in every batch: what follows lets nothing through (dead units, a constant "
            "output, a mask) or its inputs are 0."
        )
        yield Verdict("zero gradient", one.path, 0.0, 0.0, words)
    elif _is_kernel(one) and after and one.rms < thresholds.vanishing * after:
        share = one.rms / after
        words = (
            f"Its gradient is {share:.1e} of the largest one nearer the output (threshold {thresholds.vanishing:g}). "
            f"Use ReLU or GELU in the place of sigmoid and tanh, residual connections, normalization, or another "
            f"initializer."
        )
        yield Verdict("vanishing", one.path, share, thresholds.vanishing, words)
    # A bias begins at 0, so that beside a small learning rate its gradient is many times as large as itself.
    if one.trainable and _is_kernel(one) and one.ratio is not None and one.ratio > thresholds.exploding:
        words = (
            f"Its gradient is {one.ratio:.3g} times as large as itself (threshold {thresholds.exploding:g}). Scale the "
            f"inputs, normalize, use a smaller initializer, `global_clip_norm` or warm-up."
        )
        yield Verdict("exploding", one.path, one.ratio, thresholds.exploding, words)


def _largest_after(variables: Sequence[VariableGradient]) -> float:
    return max((one.rms for one in variables if _is_kernel(one) and one.trainable), default=0.0)


def _is_kernel(one: VariableGradient) -> bool:
    # Biases of attention have an axis for the heads; that of its keys changes no answer, so that its gradient is 0.
    return len(one.shape) > 1 and not one.path.endswith("/bias")


def _of_activation(one: ActivationStatistics, thresholds: GradientThresholds) -> Iterator[Verdict]:
    dead = (one.dead_units or 0) / one.units
    if dead > thresholds.dead:
        words = (
            f"{one.dead_units} of {one.units} units of {one.activation} are 0 for every example, so that nothing "
            f"before them learns from them (threshold {thresholds.dead:.0%}). Lower the learning rate, use "
            f"`LeakyReLU` or GELU, or `he_normal` initialization."
        )
        yield Verdict("dead units", one.layer, dead, thresholds.dead, words)
    if one.saturated_fraction is not None and one.saturated_fraction > thresholds.saturated:
        words = (
            f"{one.saturated_fraction:.0%} of its outputs are at a limit of {one.activation}, with almost no slope "
            f"(threshold {thresholds.saturated:.0%}). Normalize what it takes, or use a smaller initializer."
        )
        yield Verdict("saturated", one.layer, one.saturated_fraction, thresholds.saturated, words)
