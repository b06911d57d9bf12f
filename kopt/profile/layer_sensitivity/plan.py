"""From measured drops to what every layer may take: pure functions of records, and the check of all layers together."""

import dataclasses
from collections.abc import Callable, Sequence

from kopt.core.records.profiles.sensitivity import Perturbation, SensitivityProfile
from kopt.core.records.profiles.sensitivity_plan import JointMeasurement, LayerAllowance, SensitivityPlan
from kopt.profile.layer_sensitivity.measured import Change

BITS, SPARSITY = "bits", "sparsity"
_KINDS = {BITS: "quantized", SPARSITY: "pruned"}
_FULL_BITS = 32
# Measures what the given perturbations, by layer and in order, do together.
JointMeasure = Callable[[dict[str, list[Perturbation]]], Change]
Choice = dict[str, Perturbation]


@dataclasses.dataclass(frozen=True)
class Step:
    """One layer goes from one perturbation (or none) to a stronger one of the same kind.

    Attributes:
        layer: its path.
        to: the stronger perturbation.
        drop: by which the layer's own measured drop grows.
        saving: bits, or weights set to zero, that it gains.
    """

    layer: str
    to: Perturbation
    drop: float
    saving: float


def steps_within(profile: SensitivityProfile, kind: str, budget: float, caution: float = 0.0) -> list[Step]:
    """Return steps whose drops add up to at most `budget`, those that save most for their drop first.

    The drop of a step is that of its perturbation, taken for 0 where the metric got better, and never less than that
    of a milder one. Greedy: it is the best use of the budget up to the last step that no longer fits.

    Args:
        profile: with drops of single layers.
        kind: `"bits"` or `"sparsity"`.
        budget: of the sum of drops.
        caution: standard errors that are added to every drop.
    """
    waiting = {layer: steps for layer, steps in _ladders(profile, kind, caution).items() if steps}
    taken, left = [], budget
    while waiting:
        layer = min(
            waiting, key=lambda name: (waiting[name][0].drop / waiting[name][0].saving, -waiting[name][0].saving)
        )
        step = waiting[layer].pop(0)
        if step.drop <= left:
            left -= step.drop
            taken.append(step)
            if waiting[layer]:
                continue
        del waiting[layer]  # Stronger perturbations of this layer cost more still.
    return taken


def _ladders(profile: SensitivityProfile, kind: str, caution: float) -> dict[str, list[Step]]:
    """Return the steps of every layer, the mildest first, without those that cost more and save no more."""
    perturbations = [one for one in map(Perturbation.of, profile.perturbations) if one.kind == _KINDS[kind]]
    perturbations.sort(key=lambda one: -one.amount if kind == BITS else one.amount)
    ladders: dict[str, list[Step]] = {}
    for layer in profile.layers:
        steps, drop, saved = ladders.setdefault(layer.layer, []), 0.0, 0.0
        for perturbation in perturbations:
            effect = layer.effect(perturbation.name)
            worse = effect.metric_drop + caution * (effect.metric_error or 0.0)
            if worse != worse:  # NaN: the model broke, and would with more.
                break
            share = _FULL_BITS - perturbation.amount if kind == BITS else perturbation.amount
            steps.append(Step(layer.layer, perturbation, max(worse - drop, 0.0), layer.parameters * share - saved))
            drop, saved = max(drop, worse), layer.parameters * share
        ladders[layer.layer] = _merged(steps)
    return ladders


def _merged(steps: Sequence[Step]) -> list[Step]:
    """Return steps that cost more and more for what they save: one that is cheaper than that before it joins it."""
    merged: list[Step] = []
    for step in steps:
        while merged and step.drop * merged[-1].saving <= merged[-1].drop * step.saving:
            before = merged.pop()
            step = Step(step.layer, step.to, before.drop + step.drop, before.saving + step.saving)
        merged.append(step)
    return merged


def choice_of(steps: Sequence[Step]) -> Choice:
    """Return the strongest perturbation by layer."""
    return {step.layer: step.to for step in steps}


def back_off(steps: Sequence[Step], budget: float, measure: JointMeasure) -> tuple[list[Step], Change, Change]:
    """Return as many of `steps` as stay within `budget` when measured together, and the changes of all and of those.

    Steps are given up from the end, where they save least for their drop; how many is found by halving. That takes the
    joint drop to grow with the steps; whatever is returned was measured and is within the budget.
    """

    def change(count: int) -> Change:
        return measure({layer: [one] for layer, one in choice_of(steps[:count]).items()})

    whole = change(len(steps))
    if whole.metric_drop <= budget:
        return list(steps), whole, whole
    low, high, best = 0, len(steps), Change(0.0, 0.0, 0.0, 0.0)
    while high - low > 1:
        middle = (low + high) // 2
        found = change(middle)
        if found.metric_drop <= budget:
            low, best = middle, found
        else:
            high = middle
    return list(steps[:low]), whole, best


def make_plan(
    profile: SensitivityProfile, max_drop: float, caution: float, measure: JointMeasure | None
) -> SensitivityPlan:
    """Return the plan for bits and for sparsity; see `Sensitivity.plan`."""
    choices: dict[str, Choice] = {}
    joint: list[JointMeasurement] = []
    for kind in (BITS, SPARSITY):
        steps = steps_within(profile, kind, max_drop, caution)
        if measure is not None and steps:
            wanted = choice_of(steps)
            steps, _, change = back_off(steps, max_drop, measure)
            relaxed = tuple(layer for layer in wanted if choice_of(steps).get(layer) != wanted[layer])
            joint.append(_joint(kind, profile, [choice_of(steps)], change, relaxed))
        choices[kind] = choice_of(steps)
    if measure is not None and choices[BITS] and choices[SPARSITY]:
        both: dict[str, list[Perturbation]] = {}
        for kind in (SPARSITY, BITS):
            for layer, perturbation in choices[kind].items():
                both.setdefault(layer, []).append(perturbation)
        joint.append(_joint("bits and sparsity", profile, list(choices.values()), measure(both), ()))
    return SensitivityPlan(
        model=profile.model,
        fingerprint=profile.fingerprint,
        metric=profile.metric,
        metric_value=profile.metric_value,
        max_drop=max_drop,
        layers=tuple(_allowance(layer.layer, profile, choices) for layer in profile.layers),
        joint=tuple(joint),
        examples=profile.examples,
        notes=_notes(profile, max_drop, joint, measure is not None),
    )


def _joint(
    what: str, profile: SensitivityProfile, choices: Sequence[Choice], change: Change, relaxed: tuple[str, ...]
) -> JointMeasurement:
    total = sum(_drop(profile, layer, one) for choice in choices for layer, one in choice.items())
    return JointMeasurement(what, change.metric_drop, change.metric_error, change.loss_change, total, relaxed)


def _allowance(path: str, profile: SensitivityProfile, choices: dict[str, Choice]) -> LayerAllowance:
    layer = profile.layer(path)
    quantized, pruned = choices[BITS].get(path), choices[SPARSITY].get(path)
    return LayerAllowance(
        layer=path,
        type=layer.type,
        parameters=layer.parameters,
        bits=int(quantized.amount) if quantized else None,
        sparsity=pruned.amount if pruned else 0.0,
        bits_drop=_drop(profile, path, quantized),
        sparsity_drop=_drop(profile, path, pruned),
    )


def _drop(profile: SensitivityProfile, layer: str, perturbation: Perturbation | None) -> float:
    return profile.layer(layer).effect(perturbation.name).metric_drop if perturbation else 0.0


def _notes(
    profile: SensitivityProfile, max_drop: float, joint: Sequence[JointMeasurement], was_verified: bool
) -> tuple[str, ...]:
    notes = [
        "Drops were measured for one layer at a time; those of several layers add up only approximately."
        if was_verified
        else "Not verified: drops were measured for one layer at a time and add up only approximately. Pass `model` "
        "and `data` to measure all layers together.",
        "Only kernels were changed, and nothing was trained: activations in integers cost more, training after it "
        "brings some back.",
    ]
    for one in joint:
        if one.relaxed:
            notes.append(
                f"For {one.what}, {len(one.relaxed)} layer(s) were given less than their own drop allowed: together it "
                f"was too much."
            )
        if one.what == "bits and sparsity" and one.drop > max_drop:
            notes.append("Bits and sparsity together exceed the budget, which each of them keeps alone.")
        if one.error is not None and one.error > max_drop:
            notes.append(
                f"The standard error of the joint drop ({one.what}) is larger than the budget: {profile.examples} "
                f"examples are too few for it."
            )
    return tuple(notes)
