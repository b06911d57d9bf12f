"""What to do about what a log says. Pure: records in, records out."""

from collections.abc import Sequence

from kopt.core.records.shipping.drift import DriftReport
from kopt.core.records.shipping.monitoring import (
    Advice,
    Alert,
    Comparison,
    ExampleReference,
    MonitoringProfile,
    VersionUse,
)

_LEAST_NONFINITE = 0.001
_LEAST_LABELLED = 30


def advice_for(
    use: VersionUse,
    profile: MonitoringProfile | None,
    nonfinite: int,
    latest: Sequence[ExampleReference],
    unsure: Sequence[ExampleReference],
) -> tuple[Advice, ...]:
    """Return what to do about one version, the most urgent first.

    * `"retrain"`: the score is worse than when it was judged, by more than chance; with the labelled examples.
    * `"recalibrate"`: inputs have drifted and the score has not fallen, or there is none: ranges of integers may no
      longer fit. With the latest examples.
    * `"label"`: something has drifted and too few labels say whether it hurts; with the examples of the least sure
      answers.
    * `"check inputs"`: NaN or infinity comes in.

    Args:
        use: of the version.
        profile: that it is held against, if there is one.
        nonfinite: its requests with NaN or infinity.
        latest: examples whose inputs are in the log, the latest first.
        unsure: those without a label, the least sure answer first.
    """
    found = []
    fallen = _fallen(use, profile)
    drifted = _names(use.inputs)
    moved = _names(use.outputs)
    if fallen:
        labelled = tuple(one for one in latest if one.label is not None)
        found.append(Advice("retrain", fallen, use.version, drifted, labelled))
    elif drifted:
        reason = f"{len(drifted)} feature(s) of the inputs have drifted from the profile: {_listed(drifted)}."
        found.append(Advice("recalibrate", reason, use.version, drifted, tuple(latest)))
    if (drifted or moved) and use.labelled < _LEAST_LABELLED:
        what = "inputs" if drifted else "predictions"
        reason = (
            f"The {what} have drifted, and {use.labelled} labelled example(s) do not say whether answers are worse."
        )
        found.append(Advice("label", reason, use.version, drifted or moved, tuple(unsure)))
    if use.requests and nonfinite > _LEAST_NONFINITE * use.requests:
        reason = f"{nonfinite} of {use.requests} requests have NaN or infinity among their inputs."
        found.append(Advice("check inputs", reason, use.version))
    return tuple(found)


def advice_on(comparison: Comparison) -> tuple[Advice, ...]:
    """Return whether to put version `b` in the place of `a`, where that is decided."""
    test = comparison.test
    if test is not None and test.verdict in ("better", "worse"):
        kind = "promote" if test.verdict == "better" else "keep"
        winner = comparison.b if kind == "promote" else comparison.a
        reason = f"Version {comparison.b} is {test.verdict} than {comparison.a} on {test.pairs} labelled examples."
        return (Advice(kind, reason, winner),)
    if comparison.how == "canary" and comparison.low is not None and comparison.high is not None:
        low, high = comparison.low * 100, comparison.high * 100
        between = f"Its accuracy less that of {comparison.a} is between {low:+.1f} and {high:+.1f} points."
        if comparison.low > 0:
            return (Advice("promote", f"The canary {comparison.b} is better. {between}", comparison.b),)
        if comparison.high < 0:
            return (Advice("keep", f"The canary {comparison.b} is worse. {between}", comparison.a),)
    return ()


def advice_about(alerts: Sequence[Alert]) -> tuple[Advice, ...]:
    """Return the advice to look at alerts that fire."""
    firing = [alert.name for alert in alerts if alert.state == "firing"]
    return (Advice("look at alerts", f"Firing: {', '.join(firing)}.", 0),) if firing else ()


def _fallen(use: VersionUse, profile: MonitoringProfile | None) -> str:
    """Return in words that the score is worse than it was, or nothing."""
    if profile is None or profile.score is None or use.score is None or use.labelled < _LEAST_LABELLED:
        return ""
    if profile.score_name == "accuracy" and use.score_high is not None and use.score_high < profile.score:
        return (
            f"Accuracy is {use.score:.1%} on {use.labelled} labelled examples, at most {use.score_high:.1%}; it was "
            f"{profile.score:.1%}."
        )
    if profile.score_name != "accuracy" and use.score_low is not None and use.score_low > profile.score:
        return (
            f"The absolute error is {use.score:.4g} on {use.labelled} labelled examples, at least {use.score_low:.4g}; "
            f"it was {profile.score:.4g}."
        )
    return ""


def _names(report: DriftReport | None) -> tuple[str, ...]:
    if report is None:
        return ()
    return tuple(one.name for one in sorted(report.drifted, key=lambda one: -one.psi))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
