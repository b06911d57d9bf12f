"""The report of a run on disk."""

import dataclasses
import itertools
import os
from pathlib import Path
from typing import TypeVar

from kopt.core.errors import ConfigError, InputError, LoadError, OutputError
from kopt.core.files import atomic_write, check_output
from kopt.core.records.candidates import OptimizationResult
from kopt.report.parts.svg import as_file
from kopt.report.run.markdown import markdown
from kopt.report.run.page import html
from kopt.report.run.plots import pareto_plot

Result = TypeVar("Result", bound=OptimizationResult)
_RECORD, _PAGE, _TEXT, _PLOT = "report.json", "report.html", "report.md", "report-pareto.svg"


def write_report(result: OptimizationResult, directory: str | os.PathLike[str], *, overwrite: bool = True) -> Path:
    """Write `report.json`, `report.html` and `report.md` with its plot into a run directory, created if need be.

    Args:
        result: what to write.
        directory: where.
        overwrite: whether an older report may be replaced.

    Returns:
        Path of `report.html`.

    Raises:
        OutputExistsError: there is a report and `overwrite` is false.
        OutputError: the directory cannot be written.

    Example:
        >>> kopt.report.write_report(result, "again").name, kopt.report.read_result("again").model
        ('report.html', 'digits')
    """
    directory = Path(directory)
    for name in (_RECORD, _PAGE, _TEXT):
        check_output(directory / name, overwrite=overwrite)
    page = html(result)
    write_story(result, directory / _TEXT, overwrite=overwrite)
    atomic_write(directory / _RECORD, result.to_json() + "\n", overwrite=overwrite)
    return atomic_write(directory / _PAGE, page, overwrite=overwrite)


def with_earlier_kept(result: Result, directory: str | os.PathLike[str]) -> Result:
    """Move the report of another model or other data out of a run directory, and return the result with a note of it.

    Raises:
        OutputError: it cannot be moved.
    """
    directory = Path(directory)
    try:
        before = read_result(directory)
    except LoadError:
        return result
    if before.identity == result.identity:
        return result
    folder = next(one for one in (directory / f"earlier-{n}" for n in itertools.count(1)) if not one.exists())
    try:
        folder.mkdir()
        for path in sorted(directory.glob("report*")):
            if path.name in (_RECORD, _PAGE, _TEXT, _PLOT):
                path.replace(folder / path.name)
    except OSError as error:
        raise OutputError(f"The report in {directory} is of another run and cannot be moved: {error}.") from error
    note = f"The report that was here, of model {before.model} and {before.data}, is in {folder}."
    return dataclasses.replace(result, notes=(*result.notes, note))


def write_story(result: OptimizationResult, path: str | os.PathLike[str], *, overwrite: bool = True) -> Path:
    """Write the report of a run as one file of HTML, or as Markdown with its plot beside it.

    Args:
        result: what to write.
        path: that ends in `.html` or `.md`; the plot of `report.md` is `report-pareto.svg`.
        overwrite: whether an older report may be replaced.

    Raises:
        ConfigError: another ending.
        OutputExistsError: there is one and `overwrite` is false.
        OutputError: the path cannot be written.

    Example:
        >>> path = kopt.report.write_story(result, "report.md")
        >>> path.name, (path.parent / "report-pareto.svg").exists()
        ('report.md', True)
    """
    path = Path(path)
    if path.suffix == ".html":
        return atomic_write(path, html(result), overwrite=overwrite)
    if path.suffix != ".md":
        raise ConfigError(f"A report ends in .html or .md. Received: {str(path)!r}.")
    plot = path.with_name(f"{path.stem}-pareto.svg")
    try:
        drawn = pareto_plot(result)
    except InputError:  # Nothing was measured, so that there is nothing to draw.
        return atomic_write(path, markdown(result), overwrite=overwrite)
    atomic_write(plot, as_file(drawn), overwrite=overwrite)
    return atomic_write(path, markdown(result, plot.name), overwrite=overwrite)


def read_result(run_dir: str | os.PathLike[str]) -> OptimizationResult:
    """Load the result that `write_report` left in a run directory, e.g. to render it again.

    Args:
        run_dir: the directory, or the path of its `report.json`.

    Raises:
        LoadError: there is no `report.json`, or it cannot be read as one.

    Example:
        >>> again = kopt.report.read_result("run")
        >>> again.best_name == result.best_name, [candidate.name for candidate in again.candidates]
        (True, ['tflite-float32', 'tflite-int8'])
    """
    path = Path(run_dir) if Path(run_dir).suffix == ".json" else Path(run_dir) / _RECORD
    if not path.is_file():
        raise LoadError(f"{path} does not exist. Pass the directory of a finished `kopt optimize` run.")
    try:
        return OptimizationResult.from_json(path.read_text(encoding="utf-8"))
    except (ConfigError, UnicodeDecodeError, OSError) as error:
        raise LoadError(f"{path} cannot be read as the report of a run: {error} Run `kopt optimize` again.") from error
