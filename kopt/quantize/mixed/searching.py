"""The fewest layers that have to leave the integers: a greedy search over functions, no model here."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

# How many layers, of the largest error, are tried in each step.
_TRIED = 5


@dataclasses.dataclass(frozen=True)
class State:
    """Layers in float, and how good the model is with them.

    Attributes:
        layers: that are in float.
        added: of these, in the last step.
        score: more is better.
    """

    layers: frozenset[str]
    added: tuple[str, ...]
    score: float


def search(
    order: Sequence[str],
    noise: Mapping[str, float],
    takers: Mapping[str, frozenset[str]],
    judge: Callable[[frozenset[str]], float],
    least: float,
    most: int,
) -> list[State]:
    """Return the states on the way to a score of at least `least`, the integer model first.

    In each step the layers of the largest error are tried, alone and together with those that take their outputs: an
    output is rounded as long as one of its takers computes in integers. What reaches the budget with the fewest layers
    is taken, else what gains most for each layer. Layers that turn out not to be needed go back.

    Args:
        order: of the layers.
        noise: that each layer injects into the output.
        takers: from a layer to those that take its output.
        judge: from the layers in float to a score, more is better.
        least: score that is wanted.
        most: layers in float.
    """
    states = [State(frozenset(), (), judge(frozenset()))]
    while states[-1].score < least:
        now = states[-1]
        tried = []
        for added in _moves(now.layers, noise, takers):
            layers = now.layers | added
            if len(layers) <= most:
                tried.append(State(layers, tuple(name for name in order if name in added), judge(layers)))
        better = [state for state in tried if state.score > now.score]
        if not better:
            break
        enough = [state for state in better if state.score >= least]
        if enough:
            states.append(min(enough, key=lambda state: (len(state.layers), -state.score)))
        else:
            states.append(max(better, key=lambda state: (state.score - now.score) / len(state.added)))
    return _without_needless(states, judge, least)


def _moves(
    layers: frozenset[str], noise: Mapping[str, float], takers: Mapping[str, frozenset[str]]
) -> Iterator[frozenset[str]]:
    left = sorted((name for name in noise if name not in layers), key=lambda name: -noise[name])
    seen = set()
    for name in left[:_TRIED]:
        for move in (frozenset([name]), (frozenset([name]) | takers[name]) - layers):
            if move not in seen:
                seen.add(move)
                yield move
    # What is in float already may need its takers.
    for name in layers:
        move = takers[name] - layers
        if move and move not in seen:
            seen.add(move)
            yield move


def _without_needless(states: list[State], judge: Callable[[frozenset[str]], float], least: float) -> list[State]:
    last = states[-1]
    if last.score < least:
        return states
    layers, score = last.layers, last.score
    for name in [name for state in states for name in state.added]:
        without = layers - {name}
        if len(without) and (found := judge(without)) >= least:
            layers, score = without, found
    if layers == last.layers:
        return states
    return [*states, State(layers, (), score)]
