"""Weights that become zero, and channels that go."""

from kopt.prune import schedules
from kopt.prune.channel_removal.pruning import ChannelPruning, channels, heads
from kopt.prune.constant_removal.constant_channels import ConstantChannelRemoval, constant_channels
from kopt.prune.finalizing import finalize
from kopt.prune.gradual_removal.gradual_channels import channels_gradually
from kopt.prune.measuring import measured
from kopt.prune.recovering.iteration import IterativePruning, iterative
from kopt.prune.recovering.recovery import Recovery, recover
from kopt.prune.sparse_learning.group_lasso import GroupLasso, group_lasso
from kopt.prune.weight_masks.by_gradient import gradient
from kopt.prune.weight_masks.by_magnitude import Magnitude, magnitude

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
