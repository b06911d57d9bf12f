"""How far two runners are apart on the same inputs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kopt.core.errors import DataError
from kopt.core.records.artifacts import OutputParity, Parity, TensorInfo
from kopt.measure.feeding import Arrays, examples, match
from kopt.measure.loading import load
from kopt.measure.runner import Runner


def parity(a: Any, b: Any, data: Arrays, *, batch_size: int | None = None) -> Parity:
    """Compare what two models or files compute, e.g. an exported file against the model it came from.

    Inputs and outputs are paired by name, and those whose names differ by position.

    Args:
        a: runner, model or path.
        b: the reference: runner, model or path.
        data: inputs, as `Runner.predict` takes them; a dict may use the names of either.
        batch_size: examples a call; see `Runner.predict`.

    Raises:
        DataError: the inputs or outputs of the two do not correspond, or the data does not fit.

    Example:
        >>> found = kopt.measure.parity("model.tflite", model, x_val)
        >>> found.max_abs < 1e-5, found.argmax_agreement
        (True, 1.0)
    """
    a, b = load(a), load(b)
    first, second = (a, b) if _is_named_as(a, data) and not _is_named_as(b, data) else (b, a)
    named = match(first.inputs, data)
    partners = pair(first.inputs, second.inputs, "inputs")
    predicted = {
        first: _outputs(first, first.predict(named, batch_size=batch_size)),
        second: _outputs(second, second.predict({partners[k]: v for k, v in named.items()}, batch_size=batch_size)),
    }
    compared = tuple(
        compare_outputs(name_b, predicted[a][name_a], predicted[b][name_b])
        for name_b, name_a in pair(b.outputs, a.outputs, "outputs").items()
    )
    return Parity(a.name, b.name, examples(first.inputs, named), compared)


def compare_outputs(name: str, a: np.ndarray, b: np.ndarray) -> OutputParity:
    """Compare one output; see `OutputParity` for what the numbers mean.

    Distances are over the elements that are finite on both sides. A position with NaN on either side never counts as
    an agreement of the largest entry.

    Args:
        name: of the output.
        a: values of any shape, examples first; text differs by 1 where it is not the same.
        b: the reference, of the same shape.

    Raises:
        DataError: the shapes differ.

    Example:
        >>> found = kopt.measure.compare_outputs("classes", np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
        >>> found.max_abs, found.argmax_agreement
        (2.0, 1.0)
    """
    if a.shape != b.shape:
        raise DataError(f"Output {name!r} has shape {a.shape} on one side and {b.shape} on the other (the reference).")
    if b.dtype.kind in "OSU":  # text is equal or not
        a, b = a != b, np.zeros(b.shape)
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite_a, finite_b = np.isfinite(a), np.isfinite(b)
    both = finite_a & finite_b
    x, y = a[both], b[both]
    difference = np.abs(x - y)
    return OutputParity(
        name=name,
        max_abs=float(difference.max()) if x.size else math.nan,
        mean_abs=float(difference.mean()) if x.size else math.nan,
        rmse=_rms(difference),
        reference_rms=_rms(y),
        cosine=_cosine(x, y),
        argmax_agreement=_argmax_agreement(a, b),
        nonfinite_a=int(a.size - finite_a.sum()),
        nonfinite_b=int(b.size - finite_b.sum()),
    )


def pair(first: Sequence[TensorInfo], second: Sequence[TensorInfo], what: str) -> dict[str, str]:
    """Return the name in `second` that belongs to each name in `first`: the same one, or the one at its position.

    Raises:
        DataError: the counts differ.
    """
    if len(first) != len(second):
        raise DataError(
            f"The two do not have the same {what}: {', '.join(i.name for i in first)} and "
            f"{', '.join(i.name for i in second)}."
        )
    theirs = {_plain(info.name): info.name for info in second}
    ours = [_plain(info.name) for info in first]
    left = iter(name for plain, name in theirs.items() if plain not in ours)
    return {
        info.name: theirs[plain] if plain in theirs else next(left) for info, plain in zip(first, ours, strict=True)
    }


def _is_named_as(runner: Runner, data: Arrays) -> bool:
    return isinstance(data, Mapping) and set(data) == {info.name for info in runner.inputs}


def _plain(name: str) -> str:
    """Strip what converters add: `serving_default_image:0` is `image`."""
    return name.removeprefix("serving_default_").removesuffix(":0")


def _outputs(runner: Runner, predicted: np.ndarray | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return predicted if isinstance(predicted, dict) else {runner.outputs[0].name: predicted}


def _rms(values: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(values)))) if values.size else math.nan


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.dot(x, y)) / length if length > 0.0 else math.nan


def _argmax_agreement(a: np.ndarray, b: np.ndarray) -> float | None:
    if a.ndim < 2 or a.shape[-1] < 2:
        return None
    known = ~(np.isnan(a).any(axis=-1) | np.isnan(b).any(axis=-1))
    return float(np.mean(known & (a.argmax(axis=-1) == b.argmax(axis=-1))))
