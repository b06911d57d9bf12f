import numpy as np
import pytest

from kopt.core.errors import ConfigError, LoadError
from kopt.core.records.shipping.monitoring import Alert, AlertRule, AlertRules, Monitoring
from kopt.serve.monitoring.alerts import changed, evaluate, read_rules
from kopt.serve.monitoring.recent import Counts, request_value
from kopt.serve.monitoring.routing import is_chosen, request_id

SLOW = AlertRule("slow", "latency_p99_ms", "above", 50.0, window_s=60.0, for_s=20.0)


def states(rule, values):
    """Return the states of one rule as (second, value) come in."""
    alerts, found = (), []
    for now, value in values:
        alerts = evaluate((rule,), alerts, {rule.name: value}, now)
        found.append((alerts[0].state, alerts[0].since_s))
    return found


def test_a_rule_has_to_hold_for_its_time_before_it_fires():
    found = states(SLOW, [(0, 60.0), (10, 70.0), (19.9, 51.0), (20, 51.0), (30, 90.0), (31, 50.0)])
    assert found == [("pending", 0), ("pending", 0), ("pending", 0), ("firing", 20), ("firing", 20), ("quiet", 31)]


def test_a_pause_begins_the_waiting_anew_and_a_missing_value_says_nothing():
    found = states(SLOW, [(0, 60.0), (10, 40.0), (15, 60.0), (30, 60.0), (35, 60.0), (40, None), (41, 60.0)])
    assert [state for state, _ in found] == ["pending", "quiet", "pending", "pending", "firing", "unknown", "pending"]


def test_a_clock_that_goes_back_begins_the_waiting_anew():
    found = states(SLOW, [(1000, 60.0), (5, 60.0), (24, 60.0), (25, 60.0)])
    assert found == [("pending", 1000), ("pending", 5), ("pending", 5), ("firing", 25)]


def test_below_is_the_other_side_and_without_a_time_it_fires_at_once():
    rule = AlertRule("wrong", "score", "below", 0.9)
    assert states(rule, [(0, 0.9), (1, 0.89)]) == [("quiet", 0), ("firing", 1)]


def test_only_changes_are_told_and_quiet_is_nothing_new_at_first():
    before = (Alert("a", "quiet", 1.0, 0.0), Alert("b", "pending", 1.0, 0.0))
    after = (Alert("a", "quiet", 2.0, 0.0), Alert("b", "firing", 1.0, 5.0), Alert("c", "quiet", 0.0, 5.0))
    assert changed(before, after) == (after[1],)


def test_metrics_of_a_window():
    # Seconds, status, ms, NaN among the inputs: 4 requests in the last 10 seconds, one of them before.
    counts = Counts()
    for one in [(1.0, 500, 9.0, False), (91.0, 200, 1.0, True), (92.0, 200, 3.0, False), (99.0, 429, 1.0, False)]:
        counts.request(*one)
    counts.request(99.5, 400, 1.0, False)
    assert counts.value("requests_per_s", 100.0, 10.0) == 0.4
    assert counts.value("error_share", 100.0, 10.0) == 0.5
    assert counts.value("refused_share", 100.0, 10.0) == 0.25
    assert counts.value("nonfinite_share", 100.0, 10.0) == 0.5
    assert counts.value("latency_p50_ms", 100.0, 10.0) == 2.0
    assert counts.value("shadow_disagreement", 100.0, 10.0) is None
    counts.shadow(99.0, 8, 6)
    assert counts.value("shadow_disagreement", 100.0, 10.0) == 0.25
    assert request_value("latency_p99_ms", [(0.0, 429, 1.0, False)], 1.0, 10.0) is None


def test_what_does_not_fit_into_the_window_shortens_it():
    counts = Counts(length=10)
    for second in range(100):
        counts.request(float(second), 200, 1.0, False)
    # The 10 that are kept came in the last 10 seconds before second 100: one a second, not 10 in 50.
    assert counts.value("requests_per_s", 100.0, 50.0) == pytest.approx(1.0)


def test_rules_are_a_file(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text(AlertRules((SLOW,)).to_json())
    assert read_rules(path) == (SLOW,)
    path.write_text(AlertRules((SLOW,)).to_json().replace("latency_p99_ms", "latency_p9_ms"))
    with pytest.raises(ConfigError, match=r"rules\.json: Unknown `metric` 'latency_p9_ms'. Did you mean"):
        read_rules(path)
    path.write_bytes(b"\xff")
    with pytest.raises(LoadError, match="holds no alert rules"):
        read_rules(path)


def test_impossible_settings():
    with pytest.raises(ConfigError, match="Received twice: slow"):
        Monitoring(rules=(SLOW, SLOW))
    with pytest.raises(ConfigError, match="`sample` must be"):
        Monitoring(sample=1.5)
    with pytest.raises(ConfigError, match="`comparison`"):
        AlertRule("a", "score", "over", 1.0)


def test_a_share_is_kept_the_same_ids_go_the_same_way_and_purposes_are_independent():
    ids = [str(number) for number in range(4000)]
    canary = np.array([is_chosen(one, "canary", 0.1) for one in ids])
    shadow = np.array([is_chosen(one, "shadow", 0.5) for one in ids])
    # Standard deviations of the shares: sqrt(0.1 * 0.9 / 4000) = 0.0047 and 0.0079; bounds are 4 of them.
    assert abs(canary.mean() - 0.1) < 0.019
    assert abs(shadow.mean() - 0.5) < 0.032
    assert abs(shadow[canary].mean() - 0.5) < 0.1
    assert not any(is_chosen(one, "canary", 0.0) for one in ids)
    assert all(is_chosen(one, "canary", 1.0) for one in ids)
    assert canary.tolist() == [is_chosen(one, "canary", 0.1) for one in ids]


def test_an_id_that_is_none_is_replaced():
    assert request_id("a-b.c:1_2") == "a-b.c:1_2"
    for bad in ("", "a b", "a\n", "a" * 65, None, "é"):
        assert len(request_id(bad)) == 16
