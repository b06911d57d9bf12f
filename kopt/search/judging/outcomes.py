"""What a file scored on each example, small enough to be kept beside it, so that it need not answer again."""

import dataclasses
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kopt.core.files import atomic_path

GROUPS = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Outcomes:
    """The scores of one file on one set of examples.

    Attributes:
        value: the metric of all examples.
        examples: how many.
        scores: one number an example where the metric is their mean, 0 or 1 for a wrong or right answer; else `None`.
        left_out: the metric without each group of examples in turn, where it is no mean; `None` where there are
            `scores`, or too few examples.
    """

    value: float
    examples: int
    scores: np.ndarray | None = None
    left_out: np.ndarray | None = None

    @property
    def is_right_or_wrong(self) -> bool:
        """Whether every example is answered right or wrong, with nothing between."""
        return self.scores is not None and bool(np.isin(self.scores, (0.0, 1.0)).all())


def left_out_values(examples: int, value_of: Callable[[np.ndarray], float]) -> np.ndarray | None:
    """Return a metric without each of 20 random groups of examples; the groups are the same for every file.

    Args:
        examples: how many there are; fewer than two cannot be divided.
        value_of: from the numbers of the examples to their metric.
    """
    groups = min(GROUPS, examples)
    if groups < 2:
        return None
    order = np.random.default_rng(0).permutation(examples)
    return np.array([value_of(np.sort(order[np.arange(examples) % groups != group])) for group in range(groups)])


def save(path: Path, outcomes: Outcomes) -> None:
    """Write outcomes, right and wrong answers as bits: 10,000 examples take about two kilobytes."""
    arrays: dict[str, np.ndarray] = {"value": np.array(outcomes.value), "examples": np.array(outcomes.examples)}
    if outcomes.scores is not None and outcomes.is_right_or_wrong:
        arrays["bits"] = np.packbits(outcomes.scores.astype(bool))
    elif outcomes.scores is not None:
        arrays["scores"] = outcomes.scores
    if outcomes.left_out is not None:
        arrays["left_out"] = outcomes.left_out
    with atomic_path(path, overwrite=True) as staged, open(staged, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load(path: Path) -> Outcomes | None:
    """Return what `save` wrote; `None` if there is nothing whole."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        examples = int(arrays["examples"])
        scores = arrays.get("scores")
        if "bits" in arrays:
            scores = np.unpackbits(arrays["bits"], count=examples).astype(np.float64)
        return Outcomes(float(arrays["value"]), examples, scores, arrays.get("left_out"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None  # As of a killed or older run: the file answers again.
