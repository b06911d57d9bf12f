"""A large model teaches a small one."""

from kopt.distill.cache import TeacherCache, cache_predictions, cache_teacher
from kopt.distill.chains import born_again, teach_in_turn
from kopt.distill.features import Feature
from kopt.distill.losses import FeatureLoss, FocalSmoothed, OutputLoss
from kopt.distill.matching import matched
from kopt.distill.model import DistillationModel
from kopt.distill.students import mobile_student, smaller_student
from kopt.distill.teaching import Teaching, teach

__all__ = [
    "DistillationModel",
    "Feature",
    "FeatureLoss",
    "FocalSmoothed",
    "OutputLoss",
    "TeacherCache",
    "Teaching",
    "born_again",
    "cache_predictions",
    "cache_teacher",
    "matched",
    "mobile_student",
    "smaller_student",
    "teach",
    "teach_in_turn",
]
