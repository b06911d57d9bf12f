"""Targets against a loss and the outputs of a model: pure functions of arrays."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError
from kopt.core.records.training.input_checks import STRETCHED, UNFIT

_SPARSE, _CATEGORICAL, _BINARY, _OTHER = "sparse", "categorical", "binary", "other"
_KINDS = {
    "SparseCategoricalCrossentropy": _SPARSE,
    "CategoricalCrossentropy": _CATEGORICAL,
    "CategoricalFocalCrossentropy": _CATEGORICAL,
    "BinaryCrossentropy": _BINARY,
    "BinaryFocalCrossentropy": _BINARY,
}
_FUNCTIONS = {
    "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
    "categorical_crossentropy": "CategoricalCrossentropy",
    "categorical_focal_crossentropy": "CategoricalFocalCrossentropy",
    "binary_crossentropy": "BinaryCrossentropy",
    "binary_focal_crossentropy": "BinaryFocalCrossentropy",
    "mean_squared_error": "MeanSquaredError",
    "mean_absolute_error": "MeanAbsoluteError",
    "huber": "Huber",
    "log_cosh": "LogCosh",
    "mean_squared_logarithmic_error": "MeanSquaredLogarithmicError",
    "kl_divergence": "KLDivergence",
    "poisson": "Poisson",
    "hinge": "Hinge",
    "squared_hinge": "SquaredHinge",
}
_REGRESSION = ("MeanSquaredError", "MeanAbsoluteError", "Huber", "LogCosh")
# The least target that makes sense, and why.
_LEAST = {
    "Poisson": (0, "they are counts"),
    "KLDivergence": (0, "they are probabilities"),
    "MeanSquaredLogarithmicError": (0, "their logarithm is taken"),
}
_SCALE = 20.0
_BAD_LABEL = re.compile(r"label value of (-?\d+) which is outside the valid range of (\[0, \d+\))")
_TOLERANCE = 2e-2  # A softmax in bfloat16 adds up to 1 within this.


def only_loss(loss: Any) -> Any:
    """Return the loss in a dict or list that holds one, as `compile` takes it for one output; any other as it is."""
    if isinstance(loss, (Mapping, list, tuple)) and len(loss) == 1:
        [loss] = loss.values() if isinstance(loss, Mapping) else loss
    return loss


@dataclasses.dataclass(frozen=True)
class LossKind:
    """A loss of Keras, as far as it restricts targets.

    Attributes:
        name: class of `keras.losses`; empty for a loss that is not known.
        from_logits: whether it applies softmax or sigmoid itself.
        ignore_class: label that it leaves out.
    """

    name: str
    from_logits: bool = False
    ignore_class: int | None = None

    @classmethod
    def of(cls, loss: Any) -> "LossKind":
        """Return the kind of a loss as `compile` takes it: a name, a function or an object."""
        if isinstance(loss, str):
            try:
                loss = keras.losses.get(loss)
            except ValueError:  # "crossentropy", which Keras resolves later; or a mistake that it names itself.
                return cls("")
        for function, name in _FUNCTIONS.items():
            if loss is getattr(keras.losses, function):
                return cls(name)
            if isinstance(loss, getattr(keras.losses, name)):
                config = loss.get_config()
                if config.get("axis", -1) != -1:
                    return cls("")  # Classes along another axis: Keras itself looks at the shapes.
                return cls(name, bool(config.get("from_logits", False)), config.get("ignore_class"))
        return cls("")

    @property
    def family(self) -> str:
        """`"sparse"`, `"categorical"`, `"binary"` or `"other"`."""
        return _KINDS.get(self.name, _OTHER)


def check_targets(y: Any, outputs_shape: tuple[int | None, ...] | None, kind: LossKind, what: str) -> list[str]:
    """Return notes on finite targets; raise if the loss cannot use them.

    Args:
        y: array of targets, examples first.
        outputs_shape: of the model's output, with the batch axis; `None` if it is not known.
        kind: of the loss.
        what: how messages call the targets.

    Raises:
        DataError: labels out of range, class numbers where rows of probabilities are needed or the other way round.
    """
    require_numbers(y, what)
    if kind.family == _SPARSE:
        _check_class_numbers(y, outputs_shape, kind, what)
    elif kind.family == _CATEGORICAL:
        return _check_rows(y, outputs_shape, kind, what)
    elif kind.family == _BINARY:
        _check_zero_to_one(y, outputs_shape, kind, what)
    elif kind.name in ("Hinge", "SquaredHinge"):
        _require(np.isin(y, (-1, 0, 1)), y, what, f"be -1 or 1 for {kind.name}", "Map the classes, e.g. `2 * y - 1`.")
    elif kind.name in _LEAST:
        least, why = _LEAST[kind.name]
        _require(y >= least, y, what, f"be at least {least} for {kind.name}: {why}", "Use another loss otherwise.")
    elif kind.name in _REGRESSION:
        return _regression_notes(y, outputs_shape, kind, what)
    return []


def require_numbers(y: Any, what: str) -> None:
    """Make sure that an array of targets has numbers in it.

    Raises:
        DataError: text or objects.
    """
    if y.dtype.kind in "OSU":
        raise DataError(
            f"{what} are {y.dtype.name}; a loss needs numbers. Number the classes, e.g. "
            f"`names, y = np.unique(y, return_inverse=True)`."
        )


@contextlib.contextmanager
def named_labels() -> Iterator[None]:
    """Say what a label is that a step meets and its loss cannot use; the first batch alone is checked before.

    Raises:
        DataError: a class number out of range. Only plain steps on a CPU notice; on a GPU and in a compiled step the
            loss is NaN.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = _BAD_LABEL.search(error.message)
        if found is None:
            raise
        label, span = found.groups()
        raise DataError(
            f"A batch has the label {label}, but the labels must lie in {span}: the model has one output a class. "
            f"Correct the labels or leave those examples out; of arrays, `np.flatnonzero(y == {label})` finds them."
        ) from error


def check_outputs(outputs: Any, kind: LossKind, activation: str, what: str) -> None:
    """Raise if outputs are probabilities where the loss takes logits, or the other way round.

    Args:
        outputs: array of the model's output for some examples.
        kind: of the loss.
        activation: of the last layer, `"softmax"`, `"sigmoid"` or anything else; empty if it is not known.
        what: how messages call the output.

    Raises:
        ConfigError: as above.
    """
    if kind.family == _OTHER or outputs.size == 0 or not np.isfinite(outputs).all():
        return
    wide = outputs.shape[-1] > 1 and kind.family != _BINARY
    inside = bool((outputs >= -_TOLERANCE).all() and (outputs <= 1 + _TOLERANCE).all())
    sums = bool(np.allclose(outputs.sum(-1), 1, atol=_TOLERANCE)) if wide else False
    if kind.from_logits and (activation in ("softmax", "sigmoid") or (inside and sums)):
        last = activation or "softmax"
        raise ConfigError(
            f"{what} went through {last} already, and {kind.name}(from_logits=True) applies it again, which trains "
            f"badly. Use `from_logits=False`, or a last layer without activation."
        )
    if not kind.from_logits and not inside:
        last = "softmax" if wide else "sigmoid"
        raise ConfigError(
            f"{what} lies in [{outputs.min():.3g}, {outputs.max():.3g}], but {kind.name}(from_logits=False) takes "
            f"probabilities. Use `keras.losses.{kind.name}(from_logits=True)`, or give the last layer "
            f"`activation={last!r}`."
        )


def _check_class_numbers(y: Any, outputs: tuple[int | None, ...] | None, kind: LossKind, what: str) -> None:
    classes = outputs[-1] if outputs else None
    if outputs and classes and classes > 1 and y.ndim == len(outputs) and y.shape[-1] == classes:
        raise DataError(
            f"{what} of shape {y.shape} are rows of {classes}, but {kind.name} takes class numbers. Use "
            f"`CategoricalCrossentropy`, or pass `y.argmax(-1)`."
        )
    if classes == 1:
        raise DataError(
            f"{kind.name} needs one output a class; the model has a single one, for which every label but 0 is out of "
            f"range. Use `BinaryCrossentropy`, or two outputs."
        )
    whole = y if y.dtype.kind in "biu" else np.floor(y)
    _require(whole == y, y, what, "be whole numbers (class numbers)", "Use `y.astype('int64')`, or another loss.")
    ignored = np.zeros(y.shape, bool) if kind.ignore_class is None else y == kind.ignore_class
    upper = np.inf if classes is None else classes
    span = f"[0, {classes if classes is not None else '...'})"
    fix = "Number the classes from 0, or give the model one output a class."
    _require(ignored | ((y >= 0) & (y < upper)), y, what, f"lie in {span}", fix)


def _check_rows(y: Any, outputs: tuple[int | None, ...] | None, kind: LossKind, what: str) -> list[str]:
    classes = outputs[-1] if outputs else None
    if outputs and classes and classes > 1 and (y.ndim < len(outputs) or y.shape[-1] != classes):
        numbers = y.ndim < len(outputs) or y.shape[-1] == 1
        fix = (
            f"Use `SparseCategoricalCrossentropy`, or pass `keras.utils.to_categorical(y, {classes})`."
            if numbers
            else f"Give each example {classes} entries, or the model {y.shape[-1]} outputs."
        )
        raise DataError(f"{what} have shape {y.shape}, but {kind.name} takes rows of {classes}, one a class. {fix}")
    if classes == 1:
        raise DataError(
            f"{kind.name} over a single output is always 0: nothing would be learned. Use `BinaryCrossentropy`."
        )
    _require(y >= 0, y, what, f"be probabilities for {kind.name}", "They must not be negative.")
    sums = y.sum(-1, dtype=np.float64)
    bad = int((np.abs(sums - 1) > _TOLERANCE).sum())
    if bad:
        return [
            f"{what}: {bad} of {sums.size} rows do not add up to 1, as {kind.name} expects of probabilities. If an "
            f"example can have several classes, use `BinaryCrossentropy` and sigmoid."
        ]
    return []


def _check_zero_to_one(y: Any, outputs: tuple[int | None, ...] | None, kind: LossKind, what: str) -> None:
    width = outputs[-1] if outputs else None
    if outputs and width and width > 1 and (y.ndim < len(outputs) or y.shape[-1] != width):
        raise DataError(
            f"{what} have shape {y.shape}, but the model has {width} outputs and {kind.name} takes a 0 or 1 for each. "
            f"For class numbers use `SparseCategoricalCrossentropy` and softmax."
        )
    fix = "Map two classes to 0 and 1; for more use `SparseCategoricalCrossentropy` and one output a class."
    _require((y >= 0) & (y <= 1), y, what, f"lie in [0, 1] for {kind.name}", fix)


def _regression_notes(y: Any, outputs: tuple[int | None, ...] | None, kind: LossKind, what: str) -> list[str]:
    notes = []
    if outputs is not None:
        is_unfit = y.ndim == 1 and len(outputs) == 2 and outputs[-1] not in (1, None)
        one = y.shape[1:] if y.shape[-1:] != (1,) or y.ndim == 1 else y.shape[1:-1]
        other = outputs[1:-1] if outputs[-1] == 1 else outputs[1:]
        if len(one) != len(other) or any(b not in (None, a) for a, b in zip(one, other, strict=True)):
            notes.append(
                f"{what} have shape {y.shape}, the output {('batch', *outputs[1:])}: {kind.name} "
                f"{UNFIT if is_unfit else STRETCHED}. Give both the same shape."
            )
    values = y.astype(np.float64)
    if max(abs(values.mean()), values.std()) > _SCALE:
        notes.append(
            f"{what} have mean {values.mean():.3g} and standard deviation {values.std():.3g}, so {kind.name} starts "
            f"large and the weights with it. Train on `(y - mean) / std` and turn predictions back."
        )
    return notes


def _require(good: Any, y: Any, what: str, must: str, fix: str) -> None:
    bad = ~np.asarray(good)
    if bad.any():
        raise DataError(
            f"{what} must {must}. {int(bad.sum())} do not, the first at index {tuple(map(int, np.argwhere(bad)[0]))}; "
            f"all lie in [{y.min():g}, {y.max():g}]. {fix}"
        )
