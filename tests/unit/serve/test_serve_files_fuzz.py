"""Files of a bundle with a few wrong bytes: each is read as it is, or refused with a typed error."""

import json
import random

import numpy as np
import pytest
from test_client_fuzz import mutated
from test_monitor_report import LogText, scores

import kopt
from kopt.core.errors import ConfigError, LoadError
from kopt.core.records.shipping.monitoring import AlertRule, AlertRules
from kopt.serve.monitoring.alerts import read_rules
from kopt.serve.monitoring.profiles import profile_path, read_profile
from kopt.serve.versions import STATE, read_state


def profile(directory):
    x = np.random.default_rng(0).normal(size=(50, 2))
    described = kopt.measure.drift_profile({"x": x}, bins=4)
    made = kopt.core.records.shipping.monitoring.MonitoringProfile("0" * 64, 50, described, described, 0.5)
    (directory / "1").mkdir()
    (directory / "1" / "saved_model.pb").write_bytes(b"")
    path = profile_path(directory / "1")
    path.write_text(made.to_json())
    return path, lambda: read_profile(directory / "1")


def state(directory):
    (directory / "1").mkdir()
    kopt.serve.set_labels(directory, stable=1)
    return directory / STATE, lambda: read_state(directory)


def rules(directory):
    path = directory / "rules.json"
    path.write_text(AlertRules((AlertRule("slow", "latency_p99_ms", "above", 50.0),)).to_json())
    return path, lambda: read_rules(path)


def log(directory):
    text = LogText()
    for number in range(4):
        text.request(str(number), [[0.5, 1.0]], [scores(1)])
        text("shadow", id=str(number), version=2, n=1, same=1, ms=1.0)
        text("label", id=str(number), labels=[1])
    text("alert", name="slow", state="firing", value=1.0)
    path = text.write(directory / "log")
    return path, lambda: kopt.serve.monitoring_report(path)


def check(make, directory, count):
    """Return how many mutations were read and refused."""
    generator = random.Random(make.__name__)
    path, read = make(directory)
    read()
    whole, found = path.read_bytes(), {"read": 0, "refused": 0}
    for _ in range(count):
        path.write_bytes(mutated(generator, whole))
        try:
            read()
            found["read"] += 1
        except (LoadError, ConfigError):
            found["refused"] += 1
    return found


@pytest.mark.parametrize("make", [profile, state, rules, log], ids=lambda one: one.__name__)
def test_a_damaged_file_is_read_or_refused(make, tmp_path):
    found = check(make, tmp_path, 60)
    assert found["read" if make is log else "refused"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("make", [profile, state, rules, log], ids=lambda one: one.__name__)
def test_many_damaged_files_are_read_or_refused(make, tmp_path):
    found = check(make, tmp_path, 750)
    print(make.__name__, json.dumps(found))
    assert sum(found.values()) == 750
