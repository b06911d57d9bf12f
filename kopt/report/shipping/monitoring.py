"""What a server's log says as tables, a plot and a page."""

import dataclasses

from markupsafe import Markup
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.shipping.drift import FeatureDrift
from kopt.core.records.shipping.monitoring import Advice, Alert, Comparison, MonitoringReport, VersionUse
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import draw_bars
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.html_tables import html_of
from kopt.report.parts.templating import environment
from kopt.report.shipping.ab import conclusion

_MOST_FEATURES = 15
# Okabe and Ito: told apart by people with the common color-vision deficiencies, visible on white and on black.
_COLORS = {"drifted": "#d55e00", "watch": "#e69f00", "same": "#0072b2"}
_STYLES = {"drifted": "red", "watch": "yellow", "same": "", "firing": "red", "pending": "yellow"}


@dataclasses.dataclass(frozen=True)
class _Feature:
    version: int
    side: str
    drift: FeatureDrift

    @property
    def name(self) -> str:
        return f"{self.drift.name} ({self.side})"


def _table(report: MonitoringReport, rows: int | None = _MOST_FEATURES) -> RenderableType:
    """Return versions, features that moved most, comparisons, alerts and advice.

    Args:
        report: what to show.
        rows: at most so many features; `None` for all.
    """
    parts: list[RenderableType] = [_versions(report), Text()]
    moved = _moved(report)
    if moved:
        parts += [_features(moved[:rows]), Text()]
    if report.comparisons:
        parts += [_comparisons(report), Text()]
    if report.alerts:
        parts += [_alerts(report), Text()]
    return Group(*parts, *(Text(line) for line in _lines(report)))


def _versions(report: MonitoringReport) -> FittedTable[VersionUse]:
    columns = (
        Column[VersionUse]("Version", lambda one: str(one.version)),
        Column[VersionUse]("Requests", lambda one: f"{one.requests:,}"),
        Column[VersionUse]("Examples", lambda one: f"{one.examples:,}", 4),
        Column[VersionUse]("p50 ms", lambda one: formats.number(one.p50_ms), 3),
        Column[VersionUse]("p99 ms", lambda one: formats.number(one.p99_ms), 2),
        Column[VersionUse]("Labelled", lambda one: f"{one.labelled:,}", 5),
        Column[VersionUse]("Score", lambda one: formats.number(one.score)),
        Column[VersionUse]("Inputs\ndrifted", lambda one: _drifted(one.inputs)),
        Column[VersionUse]("Predictions\ndrifted", lambda one: _drifted(one.outputs)),
    )
    return FittedTable(
        f"{report.model} in {report.log}",
        report.versions,
        columns,
        remark=lambda one: one.note,
        remark_header="Note",
        caption=[_words(report)],
    )


def _features(moved: list[_Feature]) -> FittedTable[_Feature]:
    columns = (
        Column[_Feature]("Feature", lambda one: one.name, is_number=False),
        Column[_Feature]("Version", lambda one: str(one.version), 2),
        Column[_Feature]("PSI", lambda one: formats.number(one.drift.psi)),
        Column[_Feature]("Noise", lambda one: formats.number(one.drift.psi_noise), 3),
        Column[_Feature]("KS", lambda one: formats.number(one.drift.ks)),
        Column[_Feature]("p", lambda one: f"{one.drift.p_value:.2g}", 1),
        Column[_Feature]("NaN", lambda one: formats.share(one.drift.nonfinite_share), 4),
        Column[_Feature]("Status", lambda one: one.drift.status, is_number=False),
    )
    return FittedTable("Features that moved most", moved, columns, lambda one: _STYLES[one.drift.status])


def _comparisons(report: MonitoringReport) -> FittedTable[Comparison]:
    columns = (
        Column[Comparison]("How", lambda one: one.how, is_number=False),
        Column[Comparison]("In use", lambda one: str(one.a)),
        Column[Comparison]("Compared", lambda one: str(one.b)),
        Column[Comparison]("Examples", lambda one: f"{one.examples:,}"),
        Column[Comparison]("Agree", lambda one: formats.agreement(one.agreement)),
    )
    return FittedTable("Versions side by side", report.comparisons, columns, remark=_said, remark_header="Found")


def _alerts(report: MonitoringReport) -> FittedTable[Alert]:
    columns = (
        Column[Alert]("Alert", lambda one: one.name, is_number=False),
        Column[Alert]("State", lambda one: one.state, is_number=False),
        Column[Alert]("Value", lambda one: formats.number(one.value)),
        Column[Alert]("Fired", lambda one: str(report.fired.get(one.name, 0))),
    )
    return FittedTable("Alerts", report.alerts, columns, lambda one: _STYLES.get(one.state, ""))


def _lines(report: MonitoringReport) -> list[str]:
    return [f"{_title(one)}: {one.reason}" for one in report.advice] or ["Nothing is to be done."]


def _title(advice: Advice) -> str:
    about = f" version {advice.version}" if advice.kind not in ("look at alerts",) else ""
    with_ = f" ({len(advice.examples)} examples in the record)" if advice.examples else ""
    return f"{advice.kind.capitalize()}{about}{with_}"


def _said(comparison: Comparison) -> str:
    if comparison.test is not None:
        return conclusion(comparison.test)
    if comparison.low is None or comparison.high is None:
        return "No labels yet."
    if comparison.how == "shadow":
        return f"Agreement between {comparison.low:.1%} and {comparison.high:.1%}; too few labels for a test."
    return f"Accuracy differs by {comparison.low * 100:+.1f} to {comparison.high * 100:+.1f} points, unpaired."


def _drifted(drift: object) -> str:
    if drift is None:
        return formats.NOTHING
    return f"{len(drift.drifted)} of {len(drift.features)}"  # type: ignore[attr-defined]


def _moved(report: MonitoringReport) -> list[_Feature]:
    found = [
        _Feature(use.version, side, one)
        for use in report.versions
        for side, drift in (("input", use.inputs), ("prediction", use.outputs))
        if drift is not None
        for one in drift.features
    ]
    ranks = {"drifted": 0, "watch": 1, "same": 2}
    return sorted(found, key=lambda one: (ranks[one.drift.status], -one.drift.psi))


def _words(report: MonitoringReport) -> str:
    answered = sum(report.statuses.values())
    good = report.statuses.get("200", 0)
    damaged = f" {report.damaged} damaged line(s) passed over." if report.damaged else ""
    stepped = f" The clock was set back {report.clock_steps} time(s)." if report.clock_steps else ""
    return (
        f"{answered:,} requests in {formats.duration(report.seconds)} over {report.runs} run(s), {good:,} answered "
        f"with 200; {report.nonfinite} with NaN or infinity.{damaged}{stepped}"
    )


def _figure(report: MonitoringReport) -> Figure:
    moved = _moved(report)[:_MOST_FEATURES]
    figure = Figure(figsize=(8.6, 1.2 + 0.3 * max(len(moved), 1)), layout="constrained")
    axes = figure.add_subplot()
    if moved:
        names = [f"{one.version}: {one.name}" for one in moved]
        values = [max(one.drift.psi, 0.0) for one in moved]
        colors = [_COLORS[one.drift.status] for one in moved]
        draw_bars(axes, names, values, [f"{one.drift.psi:.2f} {one.drift.status}" for one in moved], colors)
    else:
        axes.set_axis_off()
        axes.text(0, 0.5, "No drift is known: there is no profile, or too few examples were kept.")
    figure.suptitle(
        "Stability index of the features that moved most", x=0.01, ha="left", fontsize=10, fontweight="bold"
    )
    return figure


MONITORING = Look("monitoring", _table, _figure, _words)


def monitoring_html(report: MonitoringReport) -> str:
    """Return a report as one self-contained HTML page."""
    moved = _moved(report)
    return (
        environment()
        .get_template("monitoring.html")
        .render(
            report=report,
            headline=_words(report),
            advice=[(_title(one), one.reason) for one in report.advice],
            versions=html_of(_versions(report)),
            plot=Markup(MONITORING.svg(report)),
            features=html_of(_features(moved)),
            comparisons=html_of(_comparisons(report)),
            alerts=html_of(_alerts(report)),
        )
    )
