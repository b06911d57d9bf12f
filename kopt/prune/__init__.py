"""Weights that become zero, and channels that go."""

from kopt.prune import schedules
from kopt.prune.by_gradient import gradient
from kopt.prune.by_magnitude import Magnitude, finalize, magnitude
from kopt.prune.channel_removal.pruning import ChannelPruning, channels, heads
from kopt.prune.constant_channels import ConstantChannelRemoval, constant_channels
from kopt.prune.gradual_channels import channels_gradually
from kopt.prune.iteration import IterativePruning, iterative
from kopt.prune.measuring import measured
from kopt.prune.recovery import Recovery, recover
from kopt.prune.sparse_learning import GroupLasso, group_lasso

__all__ = [
    "ChannelPruning",
    "ConstantChannelRemoval",
    "GroupLasso",
    "IterativePruning",
    "Magnitude",
    "Recovery",
    "channels",
    "channels_gradually",
    "constant_channels",
    "finalize",
    "gradient",
    "group_lasso",
    "heads",
    "iterative",
    "magnitude",
    "measured",
    "recover",
    "schedules",
]
