"""Training with the rounding of integer files, and why such files lose accuracy."""

from kopt.quantize.aware import Aware, aware
from kopt.quantize.diagnosis.diagnose import Diagnosis, diagnose
from kopt.quantize.mixed.bits import Bits, bits
from kopt.quantize.mixed.fallback import Fallback, fallback

__all__ = ["Aware", "Bits", "Diagnosis", "Fallback", "aware", "bits", "diagnose", "fallback"]
