"""Integer files: training with their rounding, better ranges and weights after it, and why they lose accuracy."""

from kopt.quantize.after_training import PostTraining, post_training
from kopt.quantize.aware import Aware, aware
from kopt.quantize.diagnosis.diagnose import Diagnosis, diagnose
from kopt.quantize.mixed.bits import Bits, bits
from kopt.quantize.mixed.fallback import Fallback, fallback

__all__ = [
    "Aware",
    "Bits",
    "Diagnosis",
    "Fallback",
    "PostTraining",
    "aware",
    "bits",
    "diagnose",
    "fallback",
    "post_training",
]
