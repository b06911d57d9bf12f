"""Weights that become zero."""

from kopt.prune import schedules
from kopt.prune.by_gradient import gradient
from kopt.prune.by_magnitude import Magnitude, finalize, magnitude

__all__ = ["Magnitude", "finalize", "gradient", "magnitude", "schedules"]
