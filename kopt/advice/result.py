"""Advice with ways to show it."""

import dataclasses
import os
from pathlib import Path

from kopt.core.files import atomic_write
from kopt.core.records.search.advice import ModelAdvice
from kopt.report.advice import ADVICE, advice_html
from kopt.report.look import Shown


@dataclasses.dataclass(frozen=True)
class Advice(Shown, ModelAdvice):
    """What `advise` found: `.items` in order, `.table()`, `.plot(path)`, `.html(path)`, `.to_json()`.

    Example:
        >>> found = kopt.advise(model, (x_train, y_train), (x_val, y_val))
        >>> found.model, found.depth, len(found.checked) + len(found.unchecked) == len(kopt.advice.RULES)
        ('digits', 'quick', True)
        >>> path = found.html("advice.html")
    """

    look = ADVICE

    def html(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the advice to one HTML file that needs no network, and return its path.

        Raises:
            OutputExistsError: the file exists and `overwrite` is false.
            OutputError: the path cannot be written.
        """
        return atomic_write(path, advice_html(self), overwrite=overwrite)
