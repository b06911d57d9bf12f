"""Checks of single settings, with one form of message."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from kopt.core.errors import ConfigError, nearest

REALS = (int, float, np.integer, np.floating)


def number(
    name: str, value: Any, *, least: float = -math.inf, most: float = math.inf, open_below: bool = False
) -> float:
    """Return `value` as a float if it is a finite number in `[least, most]`, or in `(least, most]` if `open_below`.

    Raises:
        ConfigError: it is not.
    """
    accepted = f"a finite number in {'(' if open_below else '['}{least:g}, {most:g}]"
    if isinstance(value, bool) or not isinstance(value, REALS) or not math.isfinite(value):
        raise ConfigError(f"`{name}` must be {accepted}. Received: {value!r} ({type(value).__name__}).")
    if not least <= value <= most or (open_below and value == least):
        raise ConfigError(f"`{name}` must be {accepted}. Received: {value!r}.")
    return float(value)


def whole(name: str, value: Any, *, least: int = 1) -> int:
    """Return `value` if it is an integer of at least `least`.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ConfigError(
            f"`{name}` must be a whole number of at least {least}. Received: {value!r} ({type(value).__name__})."
        )
    return int(value)


def names(name: str, value: Any) -> tuple[str, ...]:
    """Return names as a tuple: one, or any number of them.

    Raises:
        ConfigError: it is something else.
    """
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(one, str) for one in found):
        raise ConfigError(f"`{name}` must be a name, or a list of names. Received: {value!r} ({type(value).__name__}).")
    return found


def choice(name: str, value: Any, accepted: tuple[str, ...]) -> str:
    """Return `value` if it is one of `accepted`.

    Raises:
        ConfigError: it is not.
    """
    if value not in accepted:
        raise ConfigError(f"Unknown `{name}` {value!r}.{nearest(value, accepted)} Accepted: {', '.join(accepted)}.")
    return str(value)
