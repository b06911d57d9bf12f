"""The report of a run on disk."""

import os
from pathlib import Path

from kopt.core.errors import ConfigError, LoadError
from kopt.core.files import atomic_write, check_output
from kopt.core.records import OptimizationResult
from kopt.report.page import html

_RECORD, _PAGE = "report.json", "report.html"


def write_report(result: OptimizationResult, directory: str | os.PathLike[str], *, overwrite: bool = True) -> Path:
    """Write `report.json` and `report.html` into a run directory, which is created if need be.

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
    for name in (_RECORD, _PAGE):
        check_output(directory / name, overwrite=overwrite)
    page = html(result)
    atomic_write(directory / _RECORD, result.to_json() + "\n", overwrite=overwrite)
    return atomic_write(directory / _PAGE, page, overwrite=overwrite)


def read_result(run_dir: str | os.PathLike[str]) -> OptimizationResult:
    """Load the result that `write_report` left in a run directory, e.g. to render it again.

    Raises:
        LoadError: there is no `report.json`, or it cannot be read as one.

    Example:
        >>> again = kopt.report.read_result("run")
        >>> again.best_name == result.best_name, [candidate.name for candidate in again.candidates]
        (True, ['tflite-float32', 'tflite-int8'])
    """
    path = Path(run_dir) / _RECORD
    if not path.is_file():
        raise LoadError(f"{path} does not exist. Pass the directory of a finished `kopt optimize` run.")
    try:
        return OptimizationResult.from_json(path.read_text(encoding="utf-8"))
    except (ConfigError, UnicodeDecodeError, OSError) as error:
        raise LoadError(f"{path} cannot be read as the report of a run: {error} Run `kopt optimize` again.") from error
