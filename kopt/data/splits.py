"""Train, validation and test arrays, and the arithmetic of splitting and labels."""

import dataclasses
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Inputs and targets of equal length; row `i` of `y` belongs to row `i` of `x`.

    Attributes:
        x: one array, or a dict by name or a sequence by position of one array an input.
        y: one array, or such a dict or sequence.

    Example:
        >>> train = kopt.data.Split(x_train, y_train)
        >>> kopt.data.calibration(train, samples=20).shape
        (20, 8, 8, 1)
    """

    x: Any
    y: Any

    def __len__(self) -> int:
        x = self.x
        while isinstance(x, (dict, list, tuple)):
            x = next(iter(x.values() if isinstance(x, dict) else x))
        return len(x)


@dataclasses.dataclass(frozen=True, eq=False)
class DataSplits:
    """A data set, divided.

    Attributes:
        name: packaged name or path.
        test: `None` where the source has no test part.
        class_names: one name a class, in label order; empty when the targets are not class labels.

    Example:
        >>> digits = kopt.data.load("digits")
        >>> len(digits.train.y), len(digits.validation.y), len(digits.test.y), digits.num_classes
        (1259, 269, 269, 10)
        >>> digits
        DataSplits('digits', train: 1,259, validation: 269, test: 269, 10 classes)
    """

    name: str
    train: Split
    validation: Split
    test: Split | None
    class_names: tuple[str, ...]

    def __repr__(self) -> str:
        """Return name and sizes: the arrays themselves say nothing on a terminal."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        sizes = ", ".join(f"{name}: {len(split):,}" for name, split in parts.items() if split is not None)
        return f"DataSplits({self.name!r}, {sizes}, {self.num_classes or 'no'} classes)"

    @property
    def num_classes(self) -> int | None:
        """Number of classes; `None` when the targets are not class labels."""
        return len(self.class_names) or None


def class_ids(y: Array) -> Array | None:
    """Return one class number an example, or `None` when `y` holds something else than one class each.

    Args:
        y: whole numbers of shape `(n,)` or `(n, 1)` in any real type, or one-hot rows of shape `(n, classes)`.

    Returns:
        int64 array of shape `(n,)`, or `None` for regression targets, multi-label rows, masks and text.
    """
    if y.dtype.kind not in "biuf" or y.ndim not in (1, 2):
        return None
    if y.ndim == 2 and y.shape[1] > 1:
        one_hot = bool(np.all((y == 0) | (y == 1)) and np.all(y.sum(axis=1) == 1))
        return np.argmax(y, axis=1) if one_hot else None
    flat = y.reshape(-1)
    if y.dtype.kind == "f" and not np.all(np.isfinite(flat) & (flat == np.floor(flat))):
        return None
    return flat.astype(np.int64, copy=False)


def stratified_split(labels: Array, fraction: float, seed: int) -> tuple[Array, Array]:
    """Divide `range(len(labels))` so that every class gives the same fraction to the second part.

    Args:
        labels: class numbers, shape `(n,)`.
        fraction: share of each class that goes to the second part, in (0, 1); rounded per class, and a class of two
            or more examples is present in both parts.
        seed: of a generator of its own, whose stream NumPy keeps the same between releases.

    Returns:
        Two ascending index arrays.
    """
    generator = np.random.RandomState(seed)
    second = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        wanted = round(len(members) * fraction)
        second.append(members[: min(max(wanted, 1), len(members) - 1)])
    taken = np.sort(np.concatenate(second))
    return np.setdiff1d(np.arange(len(labels)), taken), taken
