"""What a model costs, layer by layer, before it is run."""

from kopt.profile.model_profile import model

__all__ = ["model"]
