"""What is worth trying for a model, by small rules over its facts, each with its reason. Pure."""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

from kopt.core.records.candidates import ExportConfig
from kopt.core.records.search.recipes import Recipe
from kopt.core.records.search.techniques import Step
from kopt.search.proposing.facts import Facts, Share
from kopt.search.techniques.catalog import CATALOG

# A technique that reaches less of the model than this is not worth a training.
_LEAST_SHARE = 0.2
_SIZE = "size"


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A recipe, and what speaks for it."""

    recipe: Recipe
    why: str


@dataclasses.dataclass(frozen=True)
class Ladder:
    """One technique in several strengths, of which the strongest inside the budget is wanted.

    Attributes:
        technique: name of a row of the catalog.
        levels: values of its strength, the mildest first.
        neutral: the value at which nothing changes, from which strengths between levels can be searched; `None` if
            there are none between.
        why: what speaks for it.
    """

    technique: str
    levels: tuple[Any, ...]
    neutral: float | None
    why: str


def ladders(facts: Facts, objective: str, allowed: Collection[str]) -> tuple[tuple[Ladder, ...], tuple[str, ...]]:
    """Return what to try in several strengths, the most promising first, and why the rest is not.

    Args:
        facts: of the model.
        objective: what is to become small.
        allowed: names of techniques that may be used.
    """
    found, left = [], []
    for name, rule in _RULES.items():
        if name not in allowed:
            continue
        share, ladder = rule(facts, objective)
        if share >= _LEAST_SHARE:
            found.append((share, ladder))
        else:
            left.append(f"{name}: {ladder.why}, too little for a training.")
    found.sort(key=lambda pair: -pair[0])  # stable: rules of one share stay in order
    return tuple(ladder for _, ladder in found), tuple(left)


def exact(facts: Facts, allowed: Collection[str], ways: Collection[str]) -> Iterator[Proposal]:
    """Yield recipes that change no output: they need no training and lose nothing."""
    if "constant_channels" in allowed:
        for name in ways:
            yield Proposal(
                Recipe((CATALOG["constant_channels"].step(),), CATALOG[name].export),
                "channels that are constant for every calibration example cost time and bytes and say nothing",
            )
    if "fold_batch_norm" in allowed and "saved_model" in ways and facts.normalizations:
        yield Proposal(
            Recipe((CATALOG["fold_batch_norm"].step(),), ExportConfig("saved_model")),
            f"{facts.normalizations} batch normalization(s) can go into kernels, which TensorFlow does not do itself",
        )


def compressible(objective: str, allowed: Collection[str], epochs: int) -> Iterator[tuple[Step, str]]:
    """Yield trainings whose file is smaller after compression, with what speaks for them."""
    if objective != _SIZE:
        return
    for name, what in (("magnitude", "zeros"), ("cluster", "weights of a few values")):
        if name in allowed:
            why = f"a file with {what} is smaller after compression, e.g. in an app package; the file itself is not"
            yield CATALOG[name].step(epochs=epochs), why


def _channels(facts: Facts, objective: str) -> tuple[float, Ladder]:
    return _ladder("channels", 1.0, facts.removable, objective, "in layers whose channels can go")


def _low_rank(facts: Facts, objective: str) -> tuple[float, Ladder]:
    return _ladder("low_rank", 1.0, facts.dense, objective, "in dense layers, which can be products of smaller ones")


def _heads(facts: Facts, objective: str) -> tuple[float, Ladder]:
    return _ladder("heads", 1.0, facts.attention, objective, "in attention, whose heads can go")


def _separable(facts: Facts, objective: str) -> tuple[float, Ladder]:
    text = "in convolutions of more than one point, which can be depthwise-separable"
    share, ladder = _ladder("depthwise_separable", None, facts.wide_kernels, objective, text)
    # Its strengths differ by which layers are left out, and each is a training: all layers are tried.
    return share, dataclasses.replace(ladder, levels=ladder.levels[-1:])


def _ladder(name: str, neutral: float | None, share: Share, objective: str, text: str) -> tuple[float, Ladder]:
    value = share.parameters if objective == _SIZE else share.macs
    return value, Ladder(name, CATALOG[name].ladder, neutral, f"{value:.0%} of the {cost_noun(objective)} are {text}")


def cost_noun(objective: str) -> str:
    """Return what stands for an objective before any file is measured."""
    return "parameters" if objective == _SIZE else "multiply-accumulates"


_RULES: dict[str, Callable[[Facts, str], tuple[float, Ladder]]] = {
    "channels": _channels,
    "depthwise_separable": _separable,
    "low_rank": _low_rank,
    "heads": _heads,
}
