"""What predictions and inputs say at a glance: classes, scores, NaN. Pure functions of arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kopt.core.errors import DataError
from kopt.measure.accuracy import correct_share
from kopt.measure.drifting import drift_features

Arrays = Mapping[str, np.ndarray]
MOST_FEATURES = 1000
_MOST_CLASSES = 10_000


def numeric(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return the arrays that hold numbers, examples first."""
    return {name: array for name, array in arrays.items() if array.dtype.kind in "biuf" and array.ndim and array.size}


def kept(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return the arrays that hold numbers or texts, examples first; texts as `str`."""
    texts = {name: array for name, array in arrays.items() if array.dtype.kind in "OSU" and array.ndim and array.size}
    return numeric(arrays) | {name: np.vectorize(_text, otypes=[str])(array) for name, array in texts.items()}


def measurable(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return what drift is told by: numbers, and of texts how many characters they have."""
    lengths = {f"{name} length": np.char.str_len(one) for name, one in kept(arrays).items() if one.dtype.kind == "U"}
    return numeric(arrays) | lengths


def features(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return the features of all arrays of numbers or texts, one number an example; see `kopt.measure.drift_profile`.

    None of arrays with more than `MOST_FEATURES` columns, which take too long to be watched one by one.
    """
    found = measurable(arrays)
    columns = sum(array.shape[-1] if array.ndim > 1 else 1 for array in found.values())
    return drift_features(found) if found and columns <= MOST_FEATURES else {}


def nonfinite(arrays: Arrays) -> int:
    """Return how many numbers are NaN or infinite."""
    return sum(int(array.size - np.isfinite(array).sum()) for array in arrays.values() if array.dtype.kind == "f")


def judged_output(outputs: Arrays) -> np.ndarray | None:
    """Return the output that labels are for: the first numeric one, by name."""
    return next((outputs[name] for name in sorted(numeric(outputs))), None)


def classes(outputs: Arrays) -> list[int] | None:
    """Return the class of each example, the largest of several scores or one score cut at 0.5; `None` if no class fits.

    One score is a class only if all of them are in [0, 1].
    """
    scores = judged_output(outputs)
    if scores is None or scores.dtype.kind != "f" or np.isnan(scores).any():
        return None
    if scores.ndim == 2 and 1 < scores.shape[1] <= _MOST_CLASSES:
        return [int(one) for one in scores.argmax(axis=1)]
    flat = scores.reshape(-1) if scores.ndim == 1 or scores.shape[1:] == (1,) else None
    if flat is None or flat.min() < 0.0 or flat.max() > 1.0:
        return None
    return [int(one) for one in flat > 0.5]


def confidence(outputs: Arrays) -> list[float] | None:
    """Return how sure each answer is, in [0, 1]: the largest of several probabilities, or of one and its complement.

    `None` where outputs are no probabilities.
    """
    scores = judged_output(outputs)
    if scores is None or scores.dtype.kind != "f" or scores.ndim > 2 or not np.isfinite(scores).all():
        return None
    if scores.min() < 0.0 or scores.max() > 1.0:
        return None
    columns = scores.reshape(len(scores), -1).astype(np.float64)
    best = columns.max(axis=1) if columns.shape[1] > 1 else np.maximum(columns[:, 0], 1 - columns[:, 0])
    return [float(one) for one in best]


def label_array(labels: Any) -> np.ndarray:
    """Return labels as they come in a request as an array: booleans as 0 and 1, and a single column as no axis.

    Raises:
        DataError: they are not of one length, or not finite.
    """
    try:
        wanted = np.asarray(labels)
    except ValueError as error:
        raise DataError(f"Labels are a list of numbers, or of lists of one length. Received: {error}") from error
    if wanted.dtype.kind == "f" and not np.isfinite(wanted).all():
        raise DataError("Labels are finite. Received NaN or infinity.")
    wanted = wanted.astype(np.int64) if wanted.dtype.kind == "b" else wanted
    return wanted[:, 0] if wanted.ndim == 2 and wanted.shape[1] == 1 else wanted


def class_numbers(outputs: Arrays, wanted: np.ndarray) -> np.ndarray:
    """Return one-hot labels as class numbers, other labels as they are."""
    predicted = judged_output(outputs)
    is_one_hot = predicted is not None and wanted.shape == predicted.shape and wanted.ndim == 2 and wanted.shape[1] > 1
    return wanted.argmax(axis=1) if is_one_hot else wanted


def label_scores(outputs: Arrays, labels: Any, score: str) -> list[float]:
    """Return the score of each example: whether it is right, or how far it is off.

    Args:
        outputs: what was answered.
        labels: one an example: class numbers, 0/1 or, for `"absolute error"`, what the output should have been.
        score: `"accuracy"` or `"absolute error"`.

    Raises:
        DataError: as many labels as examples are needed, and such that fit; or a single number that accuracy would cut
            at 0.5 is no probability.
    """
    predicted, wanted = judged_output(outputs), np.asarray(labels)
    if predicted is None:
        raise DataError("The model has no output of numbers that a label could be held against.")
    if wanted.dtype.kind not in "biuf" or wanted.ndim == 0 or len(wanted) != len(predicted):
        raise DataError(
            f"The request has {len(predicted)} example(s), and takes as many labels, which are numbers. Received: "
            f"{wanted.dtype} of shape {wanted.shape}."
        )
    if np.isnan(predicted).any():
        raise DataError("The answer was NaN, which has no score.")
    if score == "accuracy":
        _require_probabilities(predicted)
        return [float(one) for one in correct_share(wanted, predicted)]
    if wanted.size != predicted.size:
        raise DataError(f"Labels of shape {wanted.shape} do not fit the output of shape {predicted.shape}.")
    return [float(one) for one in np.abs(wanted.reshape(predicted.shape) - predicted).reshape(len(wanted), -1).mean(1)]


def _require_probabilities(predicted: np.ndarray) -> None:
    single = predicted.ndim == 1 or predicted.shape[-1] == 1
    least, most = predicted.min(), predicted.max()
    if single and not 0 <= least <= most <= 1:
        raise DataError(
            f"Accuracy cuts a single number at 0.5, and the answers go from {least:.3g} to {most:.3g}, as logits do. "
            'End the model with a sigmoid, other scores with a clip to [0, 1], or score by "absolute error".'
        )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
