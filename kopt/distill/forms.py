"""Whether a model gives logits or probabilities."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError
from kopt.core.records.artifacts import TensorInfo
from kopt.core.records.changes.distillation import OutputMatch
from kopt.core.settings import choice
from kopt.graph.internals import graph_of, node_of
from kopt.measure import random_inputs
from kopt.train.steps.label_checks import LossKind

FORMS = ("logits", "probabilities", "sigmoids", "values")
_ACTIVATIONS = {"softmax": "probabilities", "sigmoid": "sigmoids"}
_LAYERS = {"Softmax": "probabilities", "Sigmoid": "sigmoids"}
# What changes neither what the numbers mean nor, but for rounding, the numbers; the last two are those of
# `kopt.quantize`, a room beside this one, and so known by name alone.
_PASSING = ("Identity", "Reshape", "Flatten", "Dropout", "Cast", "Masking", "Quantizer", "FixedQuantizer")
# Of layers without a kernel those whose numbers have no bounds, whatever comes in.
_UNBOUNDED = ("BatchNormalization", "LayerNormalization", "Rescaling", "Affine", "Add", "Subtract", "Dot")
_PROBED = 8
# Soft losses of classes, and losses of labels that are numbers.
_OF_CLASSES = ("kl", "jensen_shannon", "decoupled", "dist")
_OF_NUMBERS = ("MeanSquaredError", "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredLogarithmicError",
               "Huber", "LogCosh", "CosineSimilarity", "Poisson")  # fmt: skip


def forms_of(
    model: keras.Model | None,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
    predict: Callable[[dict[str, np.ndarray]], list[Any]],
) -> list[tuple[str, str]]:
    """Return the form of every output and how it is known.

    The last layer says it where there is a graph of layers and it is known. Else the model is run on noise: rows of
    numbers in [0, 1] that add up to 1 are probabilities, other numbers in [0, 1] sigmoids.

    Args:
        model: `None` for a file, which has no layers.
        inputs: that it takes.
        outputs: that it gives.
        predict: gives the outputs of arrays by input name; called only where no layer tells.

    Raises:
        ConfigError: there is no layer that tells, and no noise of the inputs' types and shapes.
    """
    graph = None if model is None else graph_of(model)
    told = [None] * len(outputs) if graph is None else [_of_tensor(one) for one in keras.tree.flatten(graph.output)]
    known = [one for one in told if one is not None]
    if len(known) == len(told):
        return known
    try:
        values = predict(random_inputs(inputs, _PROBED, seed=0))
    except (DataError, tf.errors.InvalidArgumentError) as error:
        if graph is not None:
            unknown = ("logits", "nothing tells otherwise: its last layer does not, and noise it does not take")
            return [unknown if form is None else form for form in told]
        raise ConfigError(
            f"Whether {[info.name for info in outputs]} are logits or probabilities cannot be found out: {error} Say "
            f"it with `teacher_form` or `student_form`, one of {', '.join(FORMS)}."
        ) from error
    return [
        _of_values(info, one) if form is None else form for info, one, form in zip(outputs, values, told, strict=True)
    ]


def require_fitting(loss: Any, outputs: Sequence[OutputMatch]) -> None:
    """Refuse a loss on labels that takes an output for something else than what it is.

    Keras trains on with it, and badly.

    Raises:
        ConfigError: probabilities are wanted of logits, or logits of probabilities.
    """
    for one, kind in zip(outputs, _kinds(loss, outputs), strict=True):
        is_declared = one.found.startswith("student: as declared")
        if one.student_form == "logits" and not is_declared and kind.name in _OF_NUMBERS:
            if one.loss in _OF_CLASSES:
                raise ConfigError(
                    f"Output {one.name!r} is trained on numbers ({kind.name}), and would be held against the teacher "
                    f"as logits of classes by {one.loss!r}. Pass `losses='mse'`, or say that they are: "
                    f"`student_form='logits'`."
                )
            continue
        if kind.family not in ("sparse", "categorical", "binary"):
            continue
        if one.student_form == "logits" and kind.family == "binary" and one.loss in _OF_CLASSES and not is_declared:
            raise ConfigError(
                f"Output {one.name!r} is trained on labels that are independent of each other ({kind.name}), and would "
                f"be held against the teacher as logits of classes, of which there is one, by {one.loss!r}. Pass "
                f"`losses='binary_kl'`, or say that they are: `student_form='logits'`."
            )
        if one.student_form == "logits" and not kind.from_logits:
            raise ConfigError(
                f"Output {one.name!r} of the student gives logits ({one.found}), and {kind.name} takes probabilities. "
                f"Pass `loss=keras.losses.{kind.name}(from_logits=True)`, or say `student_form` if it is wrong."
            )
        if one.student_form in ("probabilities", "sigmoids") and kind.from_logits:
            raise ConfigError(
                f"Output {one.name!r} of the student gives {one.student_form} ({one.found}), and the loss takes "
                f"logits. Pass `loss=keras.losses.{kind.name}()`, or say `student_form` if it is wrong."
            )


def independent_labels(loss: Any, outputs: Sequence[OutputMatch]) -> list[str]:
    """Return the outputs whose logits are, as the loss says, of labels that are independent of each other."""
    kinds = zip(outputs, _kinds(loss, outputs), strict=True)
    return [one.name for one, kind in kinds if one.student_form == "logits" and kind.family == "binary"]


def _kinds(loss: Any, outputs: Sequence[OutputMatch]) -> list[LossKind]:
    """Return the kind of loss of each output, in the forms that `compile` takes."""
    if isinstance(loss, (list, tuple)) and len(loss) == len(outputs):
        return [LossKind.of(one) for one in loss]
    return [LossKind.of(loss.get(one.name) if isinstance(loss, dict) else loss) for one in outputs]


def declared(name: str, given: Any, count: int) -> list[str] | None:
    """Return the forms that the user gave, one an output; `None` if none.

    Raises:
        ConfigError: an unknown form, or another number of them.
    """
    if given is None:
        return None
    forms = [given] * count if isinstance(given, str) else list(given)
    if len(forms) != count:
        raise ConfigError(f"`{name}` has {len(forms)} entries for {count} output(s). Received: {given!r}.")
    return [choice(name, one, FORMS) for one in forms]


def _of_tensor(tensor: keras.KerasTensor) -> tuple[str, str] | None:
    """Return the form of an output and how it is known; `None` if the operation that gives it does not tell."""
    node = node_of(tensor)
    operation = node.operation
    inner = graph_of(operation)
    if inner is not None:
        return _of_tensor(inner.outputs[[one is tensor for one in node.outputs].index(True)])
    kind = type(operation).__name__
    activation = getattr(getattr(operation, "activation", None), "__name__", "")
    form = _ACTIVATIONS.get(activation) or _LAYERS.get(kind)
    if form:
        return form, f"its last layer {operation.name!r} has a {activation or kind.lower()}"
    transparent = kind in _PASSING or (kind == "Activation" and activation == "linear")
    if transparent and node.input_tensors:
        return _of_tensor(node.input_tensors[0])
    if not hasattr(operation, "kernel") and kind not in _UNBOUNDED:
        return None
    if tensor.shape[-1] == 1:
        return "values", f"its last layer {operation.name!r} gives one number without an activation"
    return "logits", f"its last layer {operation.name!r} has neither softmax nor sigmoid"


def _of_values(info: TensorInfo, values: np.ndarray) -> tuple[str, str]:
    values = np.asarray(values, np.float64)
    if (values < 0).any() or (values > 1).any():
        form = "values" if info.shape[-1] == 1 else "logits"
        return form, "on noise it gives numbers outside [0, 1]"
    if info.shape[-1] != 1 and np.allclose(values.sum(axis=-1), 1.0, atol=2e-2):
        return "probabilities", "on noise its outputs add up to 1"
    return "sigmoids", "on noise its outputs are in [0, 1] and do not add up to 1"
