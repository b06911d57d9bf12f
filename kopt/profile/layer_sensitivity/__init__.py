"""Which layers matter: measured and estimated effects of perturbing them, a ranking, and a plan."""

from kopt.profile.layer_sensitivity.profile import sensitivity
from kopt.profile.layer_sensitivity.result import Plan, Sensitivity

__all__ = ["Plan", "Sensitivity", "sensitivity"]
