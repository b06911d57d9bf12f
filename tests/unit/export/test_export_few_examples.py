"""What exports say of ranges that few examples have shown."""

import warnings

import numpy as np
import pytest

from kopt.export.integers import beyond, warn_of_few, warned_already


def examples(count):
    return {"x": np.zeros((count, 2), np.float32)}


def test_few_examples_are_warned_of_with_what_they_do():
    with pytest.warns(UserWarning, match=r"with 5 example\(s\): from 20 on.* up to 33%, and they are clipped"):
        [note] = warn_of_few(examples(5))
    assert note.startswith("Calibrated with 5 example(s)")


def test_enough_examples_and_none_are_not_warned_of():
    assert warn_of_few(examples(20)) == warn_of_few(None) == ()


def test_a_caller_who_says_it_himself_has_the_note_alone():
    with warnings.catch_warnings(), warned_already():
        assert warn_of_few(examples(1))


def test_so_many_examples_are_beyond_the_others_as_is_said():
    drawn = np.random.default_rng(0).normal(size=(20_000, 8))
    others, one = drawn[:, :7], drawn[:, 7]
    found = np.mean((one > others.max(1)) | (one < others.min(1)))
    assert beyond(7) == 0.25
    assert found == pytest.approx(0.25, abs=0.01)
