"""What a model costs, what is in its weights, where its time goes and which of its layers matter."""

from kopt.profile.cost.profile import Profile, model
from kopt.profile.cost.roofline import Roofline, roofline
from kopt.profile.full import Full, full
from kopt.profile.gradient_flow.profile import Gradients, gradients
from kopt.profile.layer_sensitivity import Plan, Sensitivity, sensitivity
from kopt.profile.timing.counters import GpuReport, GpuWatch, gpu_counters
from kopt.profile.timing.layers import LayerProfile, layer_times
from kopt.profile.timing.ops import Ops, ops
from kopt.profile.timing.tflite import TFLiteOps, tflite_ops
from kopt.profile.training.callback import TrainingProfile, Trends
from kopt.profile.weights.check import check
from kopt.profile.weights.comparison import Changes, StatisticsChanges, compare
from kopt.profile.weights.profile import Parameters, parameters

__all__ = [
    "Changes",
    "Full",
    "GpuReport",
    "GpuWatch",
    "Gradients",
    "LayerProfile",
    "Ops",
    "Parameters",
    "Plan",
    "Profile",
    "Roofline",
    "Sensitivity",
    "StatisticsChanges",
    "TFLiteOps",
    "TrainingProfile",
    "Trends",
    "check",
    "compare",
    "full",
    "gpu_counters",
    "gradients",
    "layer_times",
    "model",
    "ops",
    "parameters",
    "roofline",
    "sensitivity",
    "tflite_ops",
]
