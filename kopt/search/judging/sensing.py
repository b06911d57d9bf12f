"""How sensitive the layers of the model as given are, where that is cheap."""

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from kopt import profile
from kopt.core.errors import KoptError, words_of
from kopt.core.records.profiles.cost import ModelProfile
from kopt.core.records.profiles.sensitivity import SensitivityProfile
from kopt.graph.checks import input_structure
from kopt.search.judging.examining import Examiner
from kopt.search.trials.records import Trials

_PERTURBATIONS = ("int8", "int4", "pruned_50", "pruned_70")
_EXAMPLES = 512
# Multiply-accumulates that take about ten seconds on two cores.
_MOST_MACS = 3e11


@dataclasses.dataclass(frozen=True)
class Sensed:
    """The sensitivity, or why there is none."""

    profile: SensitivityProfile | None = None
    reason: str = ""


def sensed(model: Any, examiner: Examiner, costs: ModelProfile | None, trials: Trials, loss: Any) -> Sensed:
    """Return what layers can take, measured on some of the examples that judge files; kept from an earlier run.

    Args:
        model: as given.
        examiner: the examples.
        costs: of the model; `None` if its layers are not known.
        trials: where it is kept.
        loss: of the labels, serialized; `None`: that which the model is compiled with.
    """
    if reason := _why_not(model, examiner, costs, loss):
        return Sensed(reason=reason)
    kept = trials.sensitivity()
    if kept is not None:
        return Sensed(kept)
    arrays = [array[:_EXAMPLES] for array in examiner.inputs.values()]
    inputs = keras.tree.pack_sequence_as(input_structure(model), arrays)
    known = keras.losses.deserialize(loss) if isinstance(loss, dict) else loss
    try:
        found = profile.sensitivity(
            model, (inputs, examiner.labels[:_EXAMPLES]), perturbations=_PERTURBATIONS, loss=known, estimate_examples=0
        )
    except (KoptError, ValueError, TypeError, AttributeError, tf.errors.OpError) as error:
        return Sensed(reason=f"The sensitivity of layers could not be measured: {words_of(error)}")
    record = SensitivityProfile.from_json(found.to_json())
    trials.finish_sensitivity(record)
    return Sensed(record)


def _why_not(model: Any, examiner: Examiner, costs: ModelProfile | None, loss: Any) -> str:
    if costs is None or not isinstance(model, keras.Model):
        return "The layers of a SavedModel are not known, so that their sensitivity was not measured."
    if examiner.known is None:
        return "There are no labels, so that the sensitivity of layers was not measured."
    if loss is None and not (model.compiled and model.loss is not None):
        return "The model is not compiled and names no loss, so that the sensitivity of layers was not measured."
    # A perturbed layer costs what comes after it: half of the model on average.
    work = costs.macs * min(_EXAMPLES, examiner.count) * len(costs.layers) * len(_PERTURBATIONS) / 2
    if work > _MOST_MACS:
        return (
            f"The sensitivity of layers was not measured: it would take about {work:.1g} multiply-accumulates. "
            f"`kopt.profile.sensitivity` measures it."
        )
    return ""
