import dataclasses

import pytest

from kopt.advice.ordering import ordered, worth
from kopt.core.errors import ConfigError
from kopt.core.records.search.advice import AdviceItem, ExpectedGain


def item(name, share, effort, target="training time"):
    gain = ExpectedGain(target, share, "unknown" if share is None else "estimated", "how")
    return AdviceItem(name, "slow training", "slow", "", "seen", "do", "code()", gain, effort)


def test_worth_is_the_share_over_the_hours():
    assert worth(item("a", 0.4, "basic")) == pytest.approx(0.4)
    assert worth(item("a", 0.4, "intermediate")) == pytest.approx(0.1)
    assert worth(item("a", 0.4, "advanced")) == pytest.approx(0.025)
    assert worth(item("a", 0.4, "basic", "size")) == pytest.approx(0.2)
    assert worth(item("a", 1.0, "basic", "correctness")) == pytest.approx(4.0)


def test_an_unknown_share_counts_as_assumed():
    assert worth(item("a", None, "basic")) == pytest.approx(0.1)
    assert worth(item("a", None, "basic", "quality")) == pytest.approx(0.5)


def test_more_worth_comes_first_and_equal_ones_stay_in_order():
    small, large, wrong = (
        item("small", 0.2, "basic"),
        item("large", 0.6, "intermediate"),
        item("w", None, "basic", "correctness"),
    )
    assert ordered([small, large, wrong]) == (wrong, small, large)
    first, second = item("first", 0.2, "basic"), item("second", 0.2, "basic")
    assert ordered([first, second]) == (first, second)


def test_items_refuse_unknown_words():
    with pytest.raises(ConfigError, match="effort"):
        dataclasses.replace(item("a", 0.1, "basic"), effort="easy")
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        ExpectedGain("size", 1.5, "estimated", "how")
