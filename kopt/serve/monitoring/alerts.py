"""Alert rules held against values. Pure: rules, states and the clock come in, states go out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kopt.core.errors import ConfigError, LoadError
from kopt.core.records.shipping.monitoring import Alert, AlertRule, AlertRules

_NOTHING = {"quiet", "unknown"}


def evaluate(
    rules: Sequence[AlertRule], before: Sequence[Alert], values: Mapping[str, float | None], now_s: float
) -> tuple[Alert, ...]:
    """Return the state of every rule now.

    A rule that holds is `"pending"` until it has held for `for_s`, then `"firing"`; it is `"quiet"` at once when it
    does not hold. A value that is missing says nothing, so that the state is `"unknown"`, and the waiting begins anew.

    Args:
        rules: to hold the values against.
        before: what the last call returned; empty at first.
        values: by the name of the rule; `None` or absent where there is nothing to work it out from.
        now_s: seconds on any clock. If it is set back, the waiting begins anew.
    """
    known = {alert.name: alert for alert in before}
    return tuple(_evaluated(rule, known.get(rule.name), values.get(rule.name), now_s) for rule in rules)


def changed(before: Sequence[Alert], after: Sequence[Alert]) -> tuple[Alert, ...]:
    """Return the alerts of `after` with another state than in `before`; quiet and unknown are one here, as at first."""
    states = {alert.name: alert.state for alert in before}
    return tuple(
        alert
        for alert in after
        if alert.state != (was := states.get(alert.name, "quiet")) and not {alert.state, was} <= _NOTHING
    )


def read_rules(path: Path) -> tuple[AlertRule, ...]:
    """Return the rules in a JSON file, which `AlertRules(...).to_json()` writes.

    Raises:
        LoadError: it cannot be read.
        ConfigError: a rule is impossible, or a key unknown.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} holds no alert rules: {error}") from error
    try:
        return AlertRules.from_json(text).rules
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _evaluated(rule: AlertRule, before: Alert | None, value: float | None, now_s: float) -> Alert:
    if value is None:
        return _state(rule, before, "unknown", None, now_s)
    holds = value > rule.threshold if rule.comparison == "above" else value < rule.threshold
    if not holds:
        return _state(rule, before, "quiet", value, now_s)
    if before is not None and before.state == "firing":
        return _state(rule, before, "firing", value, now_s)
    waiting = before is not None and before.state == "pending" and before.since_s <= now_s
    since = before.since_s if waiting else now_s  # type: ignore[union-attr]
    if now_s - since >= rule.for_s:
        return Alert(rule.name, "firing", value, now_s)
    return Alert(rule.name, "pending", value, since)


def _state(rule: AlertRule, before: Alert | None, state: str, value: float | None, now_s: float) -> Alert:
    """Return a state that goes on since when it began, or begins now."""
    goes_on = before is not None and before.state == state and before.since_s <= now_s
    return Alert(rule.name, state, value, before.since_s if goes_on else now_s)  # type: ignore[union-attr]
