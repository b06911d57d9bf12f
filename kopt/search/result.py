"""What `kopt.optimize` returns: the record, with ways to show it."""

import dataclasses
import os
from pathlib import Path

from kopt.advice import Advice, from_run
from kopt.core.records.candidates import OptimizationResult
from kopt.report import candidates_table, headline, write_story
from kopt.report.parts.columns import as_text


@dataclasses.dataclass(frozen=True)
class SearchResult(OptimizationResult):
    """What `optimize` found, with the way to show it.

    Example:
        >>> result.best_name, [candidate.name for candidate in result.candidates]
        ('tflite-int8', ['tflite-float32', 'tflite-int8'])
        >>> result.best.artifact.size_bytes < result.candidates[0].artifact.size_bytes
        True
        >>> "> tflite-int8" in result.table(100)
        True
        >>> result.report("report.html").name
        'report.html'
    """

    @classmethod
    def schema(cls) -> str:
        """On disk it is the record it extends."""
        return OptimizationResult.schema()

    def __str__(self) -> str:
        return headline(self)

    def table(self, width: int = 80) -> str:
        """Return the baseline and the candidates, best first, as text of at most `width` columns."""
        return as_text(candidates_table(self), width)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write the report, replacing what is there: HTML, one file that needs no network, or Markdown.

        Args:
            path: that ends in `.html` or `.md`; the plot of a Markdown report lies beside it, as SVG.

        Raises:
            ConfigError: another ending.
        """
        return write_story(self, path)

    @property
    def advice(self) -> Advice:
        """What the run says about the model: what to change next, and why."""
        return from_run(self)
