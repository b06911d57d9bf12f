"""Training with the rounding of integer files, and why such files lose accuracy."""

from kopt.quantize.aware import Aware, aware
from kopt.quantize.diagnosis.diagnose import Diagnosis, diagnose

__all__ = ["Aware", "Diagnosis", "aware", "diagnose"]
