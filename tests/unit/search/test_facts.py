"""Shares of a model that techniques reach, and what is proposed from them."""

from pathlib import Path

import pytest
import zoo

from kopt.search.proposing.facts import Facts, Share, facts_of
from kopt.search.proposing.proposals import exact, ladders

EVERYTHING = ("channels", "heads", "low_rank", "depthwise_separable")


def test_shares_of_a_small_network():
    """Products: conv0 12 * 12 * 27 * 8 = 31,104; conv1 6 * 6 * 72 * 16 = 41,472; classes 16 * 5 = 80.

    The outputs of the dense layer stay; those of the convolutions may go. Parameters: 216, 1,152 and 85; two
    normalizations of 8 and 16 channels have 32 and 64.
    """
    facts = facts_of(zoo.build("cnn"))
    assert facts.removable.macs == pytest.approx(72576 / 72656)
    assert facts.removable.parameters == pytest.approx(1368 / 1549)
    assert facts.wide_kernels == facts.removable
    assert facts.dense.macs == pytest.approx(80 / 72656)
    assert facts.dense.parameters == pytest.approx(85 / 1549)
    assert (facts.attention, facts.normalizations, facts.unreadable) == (Share(), 2, "")


def test_attention_has_a_share_of_its_own():
    """Query, key, value and output of 16 to 16: 8 * 4 * 256 = 8,192; scores and sums 2 * 2 * 8 * 8 * 8 = 2,048."""
    facts = facts_of(zoo.build("transformer"))
    others = 8 * 16 * 32 * 2 + 16 * 3
    assert facts.attention.macs == pytest.approx(10240 / (10240 + others))


def test_what_has_no_layers_to_change_says_so():
    assert "whose layers cannot be changed" in facts_of(Path("model")).unreadable
    assert facts_of(zoo.build("subclassed")).unreadable


def test_the_largest_share_comes_first_and_the_objective_decides_of_what():
    facts = Facts(removable=Share(0.9, 0.3), dense=Share(0.05, 0.6), attention=Share(0.1, 0.1))
    found, left = ladders(facts, "latency", EVERYTHING)
    assert [one.technique for one in found] == ["channels"]
    assert found[0].why == "90% of the multiply-accumulates are in layers whose channels can go"
    assert found[0].levels == (0.75, 0.5, 0.35, 0.25)
    assert any(text.startswith("low_rank: 5% of the multiply-accumulates") for text in left)
    found, _ = ladders(facts, "size", EVERYTHING)
    assert [one.technique for one in found] == ["low_rank", "channels"]
    assert ladders(facts, "latency", ())[0] == ()


def test_exact_changes_are_proposed_where_they_show():
    facts = Facts(normalizations=2)
    allowed = ("constant_channels", "fold_batch_norm")
    names = [one.recipe.name for one in exact(facts, allowed, ("tflite-int8", "saved_model"))]
    assert names == [
        "constant_channels+tflite-int8",
        "constant_channels+saved_model",
        "fold_batch_norm+saved_model",
    ]
    assert not list(exact(Facts(), ("fold_batch_norm",), ("saved_model",)))
