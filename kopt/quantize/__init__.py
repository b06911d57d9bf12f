"""Integer files that keep their accuracy: training with their rounding, or better ranges and weights after training."""

from kopt.quantize.after_training import PostTraining, post_training
from kopt.quantize.aware import Aware, aware

__all__ = ["Aware", "PostTraining", "aware", "post_training"]
