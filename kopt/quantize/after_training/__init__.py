"""Quantization after training: better ranges and better weights before the rounding, each chosen by its error."""

from kopt.quantize.after_training.quantization import PostTraining, post_training

__all__ = ["PostTraining", "post_training"]
