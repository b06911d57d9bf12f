"""What a model costs, what is in its weights, where its time goes and which of its layers matter."""

from kopt.profile.model_profile import model
from kopt.profile.timing.counters import GpuReport, GpuWatch, gpu_counters
from kopt.profile.timing.layers import LayerProfile, layer_times
from kopt.profile.timing.ops import Ops, ops
from kopt.profile.timing.tflite import TFLiteOps, tflite_ops

__all__ = [
    "GpuReport",
    "GpuWatch",
    "LayerProfile",
    "Ops",
    "TFLiteOps",
    "gpu_counters",
    "layer_times",
    "model",
    "ops",
    "tflite_ops",
]
