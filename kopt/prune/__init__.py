"""Making a model smaller by what matters least in it."""

from kopt.prune.channel_removal.pruning import ChannelPruning, channels

__all__ = ["ChannelPruning", "channels"]
