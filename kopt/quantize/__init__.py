"""Training with the rounding of integer files."""

from kopt.quantize.aware import Aware, aware

__all__ = ["Aware", "aware"]
