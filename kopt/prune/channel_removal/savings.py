"""What removing one unit saves, and importance for what it costs: the ranking of whole models."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kopt.graph.channels import ChannelGraph

Kept = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]

PER = ("macs", "params", "latency")


def savings(graph: ChannelGraph, cost: Callable[[Kept], int]) -> list[int]:
    """Return for every free group by how much the cost falls when one of its units goes and all others stay.

    Args:
        graph: the channels.
        cost: of the units with `True`, such as `PrunedCosts.macs`.
    """
    kept = np.ones(graph.unit_count, np.bool_)
    whole, saved = cost(kept), []
    for group in graph.free:
        kept[group.units[0]] = False
        saved.append(whole - cost(kept))
        kept[group.units[0]] = True
    return saved


def per_saving(scores: Scores, saving: float) -> Scores:
    """Return importance for each unit of cost that removing a channel saves: the lowest goes first.

    A channel that saves nothing has infinite importance: it stays as long as others can go.

    Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, section 2.2, and Liu et
    al., "Group Fisher pruning", 2021, section 3.3, which divide so by computations or memory.
    """
    return scores / saving if saving > 0 else np.full_like(scores, np.inf)
