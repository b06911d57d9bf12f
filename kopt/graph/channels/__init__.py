"""Which channels of a model depend on each other, so that they can only be removed together."""

from kopt.graph.channels.graph import (
    ChannelGraph,
    ChannelGroup,
    Flow,
    SizeSetting,
    WeightAxis,
    channel_graph,
    end_layers,
)
from kopt.graph.channels.running import run

__all__ = ["ChannelGraph", "ChannelGroup", "Flow", "SizeSetting", "WeightAxis", "channel_graph", "end_layers", "run"]
