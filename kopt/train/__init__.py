"""Training that is fast and stable, inside `fit` and in custom loops."""

from kopt.train import callbacks, schedules
from kopt.train.acceleration.accelerate import AcceleratedModel, accelerate
from kopt.train.acceleration.checkpoints import Checkpointing
from kopt.train.averaging import StochasticWeightAveraging
from kopt.train.batch_norm import reestimate_batch_norm
from kopt.train.distribution.devices import deterministic, logical_cpus, memory_growth, memory_limit, visible_devices
from kopt.train.distribution.placement import place_layers, placed_optimizer
from kopt.train.distribution.plan import plan_distribution
from kopt.train.distribution.strategies import strategy, watching
from kopt.train.finders.batch_size import find_batch_size
from kopt.train.finders.learning_rate import LearningRateRange, find_learning_rate
from kopt.train.memory.estimate import estimate_memory, explain_out_of_memory
from kopt.train.memory.remat_measurement import measure_rematerialization
from kopt.train.memory.rematerialization import Rematerialized, rematerialized
from kopt.train.numerics.mixed_precision import to_precision
from kopt.train.numerics.precision import choose_precision, needs_loss_scaling, precision, scaled_optimizer
from kopt.train.optimizers.gradient_variance import multipliers_from_gradient_variance
from kopt.train.optimizers.momentum import MomentumSchedule
from kopt.train.optimizers.multipliers import LearningRateMultipliers, layer_multipliers
from kopt.train.optimizers.warmup import GradientWarmup, ScaledLearningRate
from kopt.train.snapshot import Snapshot, preserved
from kopt.train.steps.input_checks import check_inputs
from kopt.train.steps.nonfinite import locate_nonfinite
from kopt.train.steps.step import TrainStep, make_train_step

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
