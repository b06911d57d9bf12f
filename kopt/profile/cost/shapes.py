"""Shapes, and what a formula works out from them."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

Shape: TypeAlias = tuple[int | None, ...]
Config: TypeAlias = Mapping[str, Any]


class OpenSizeError(Exception):
    """A formula needs a size that is not known; it never reaches the user."""


class Cost(NamedTuple):
    """Arithmetic of one call.

    Attributes:
        macs: multiply-accumulates: a multiplication with the addition that follows it.
        elementwise: operations on single entries besides.
    """

    macs: int = 0
    elementwise: int = 0

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return 2 * self.macs + self.elementwise

    def plus(self, other: "Cost") -> "Cost":
        """Return the cost of both."""
        return Cost(self.macs + other.macs, self.elementwise + other.elementwise)

    def times(self, count: int) -> "Cost":
        """Return the cost of so many."""
        return Cost(self.macs * count, self.elementwise * count)


# From a layer's config, the shapes of its inputs and of its first output, batch axis first, to its cost for the whole
# batch; `None` where the formula does not hold.
Formula: TypeAlias = Callable[[Config, tuple[Shape, ...], Shape], Cost | None]


def names(text: str) -> tuple[str, ...]:
    """Return the words of a table."""
    return tuple(text.split())


def known(size: int | None) -> int:
    """Return a size that must be known.

    Raises:
        OpenSizeError: it is not.
    """
    if size is None:
        raise OpenSizeError
    return int(size)


def product(sizes: Iterable[int | None]) -> int:
    """Return the product of sizes that must be known."""
    return math.prod(map(known, sizes))


def channels_of(shape: Shape, config: Config) -> int:
    """Return the number of channels."""
    return known(shape[1] if config["data_format"] == "channels_first" else shape[-1])


def activation(config: Config) -> int:
    """Return the operations of a layer's activation function on an entry; see `elementwise` for the softmax."""
    function = config.get("activation")
    if isinstance(function, Mapping):  # A function or layer of its own.
        return 1
    return 0 if function in (None, "linear") else 3 if function in ("softmax", "log_softmax") else 1
