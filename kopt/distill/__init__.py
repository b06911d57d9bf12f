"""A large model teaches a small one."""

from kopt.distill.cache import TeacherCache, cache_teacher
from kopt.distill.features import Feature
from kopt.distill.losses import FeatureLoss, FocalSmoothed, OutputLoss
from kopt.distill.matching import matched
from kopt.distill.model import DistillationModel

__all__ = [
    "DistillationModel",
    "Feature",
    "FeatureLoss",
    "FocalSmoothed",
    "OutputLoss",
    "TeacherCache",
    "cache_teacher",
    "matched",
]
