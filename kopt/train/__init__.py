"""Training that is fast and stable, inside `fit` and in custom loops."""

from kopt.train import callbacks, schedules
from kopt.train.accelerate import AcceleratedModel, accelerate
from kopt.train.averaging import StochasticWeightAveraging
from kopt.train.batch_norm import reestimate_batch_norm
from kopt.train.batch_size_finder import find_batch_size
from kopt.train.checkpoints import Checkpointing
from kopt.train.devices import deterministic, logical_cpus, memory_growth, memory_limit, visible_devices
from kopt.train.distribution import strategy, watching
from kopt.train.distribution_plan import plan_distribution
from kopt.train.gradient_variance import multipliers_from_gradient_variance
from kopt.train.input_checks import check_inputs
from kopt.train.learning_rate_finder import LearningRateRange, find_learning_rate
from kopt.train.memory import estimate_memory, explain_out_of_memory
from kopt.train.mixed_precision import to_precision
from kopt.train.momentum import MomentumSchedule
from kopt.train.multipliers import LearningRateMultipliers, layer_multipliers
from kopt.train.nonfinite import locate_nonfinite
from kopt.train.placement import place_layers, placed_optimizer
from kopt.train.precision import choose_precision, needs_loss_scaling, precision, scaled_optimizer
from kopt.train.remat_measurement import measure_rematerialization
from kopt.train.rematerialization import Rematerialized, rematerialized
from kopt.train.snapshot import Snapshot, preserved
from kopt.train.step import TrainStep, make_train_step
from kopt.train.warmup import GradientWarmup, ScaledLearningRate

__all__ = [
    "AcceleratedModel",
    "Checkpointing",
    "GradientWarmup",
    "LearningRateMultipliers",
    "LearningRateRange",
    "MomentumSchedule",
    "Rematerialized",
    "ScaledLearningRate",
    "Snapshot",
    "StochasticWeightAveraging",
    "TrainStep",
    "accelerate",
    "callbacks",
    "check_inputs",
    "choose_precision",
    "deterministic",
    "estimate_memory",
    "explain_out_of_memory",
    "find_batch_size",
    "find_learning_rate",
    "layer_multipliers",
    "locate_nonfinite",
    "logical_cpus",
    "make_train_step",
    "measure_rematerialization",
    "memory_growth",
    "memory_limit",
    "multipliers_from_gradient_variance",
    "needs_loss_scaling",
    "place_layers",
    "placed_optimizer",
    "plan_distribution",
    "precision",
    "preserved",
    "reestimate_batch_norm",
    "rematerialized",
    "scaled_optimizer",
    "schedules",
    "strategy",
    "to_precision",
    "visible_devices",
    "watching",
]
