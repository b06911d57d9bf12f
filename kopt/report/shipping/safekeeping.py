"""What was found of an exported file and of its copies, as tables."""

from rich.console import RenderableType

from kopt.core.records.shipping.safekeeping import BackupCopy, BackupReport, Verdict, Verification
from kopt.report.parts.columns import Column, FittedTable

_MARKS = {"ok": "ok", "failed": "FAILED", "absent": "-", "good": "good", "damaged": "DAMAGED", "none": "NONE"}
_STYLES = {"ok": "green", "failed": "red", "absent": "dim", "good": "green", "damaged": "red", "none": "red"}


def verification_table(verification: Verification) -> RenderableType:
    """Return what was checked, held against what, with which result.

    Example:
        >>> from rich.console import Console
        >>> Console(width=80).print(kopt.report.verification_table(kopt.export.verify("model.tflite")))
        model.tflite
        Checked     Held against             Result  Found
        ────────────────────────────────────────────────────────────────────────────────
        manifest    its seal                 ok      it fits
        ...
    """
    columns = (
        Column[Verdict]("Checked", lambda one: one.checked, is_number=False),
        Column[Verdict]("Held against", lambda one: one.against, 1, is_number=False),
        Column[Verdict]("Result", lambda one: _MARKS[one.status], is_number=False),
    )
    return FittedTable(
        verification.path,
        verification.verdicts,
        columns,
        lambda one: _STYLES[one.status],
        lambda one: one.found,
        "Found",
    )


def backup_table(report: BackupReport) -> RenderableType:
    """Return the copies in all places.

    Example:
        >>> from rich.console import Console
        >>> found = kopt.export.backup("model.tflite", ["disk-1", "disk-2"])
        >>> Console(width=80).print(kopt.report.backup_table(found))
        2 written, 0 removed
        Copy ...
        1...-... good   disk-1
        1...-... good   disk-2
        ...
    """
    columns = (
        Column[BackupCopy]("Copy", lambda one: one.copy, is_number=False),
        Column[BackupCopy]("State", lambda one: _MARKS[one.status], is_number=False),
        Column[BackupCopy]("Place", lambda one: one.place, is_number=False),
    )
    return FittedTable(
        f"{report.written} written, {report.removed} removed",
        report.copies,
        columns,
        lambda one: _STYLES[one.status],
        lambda one: one.found or f"SHA-256 {one.sha256[:12]}",
        "Found",
    )
