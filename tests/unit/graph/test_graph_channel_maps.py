"""Where channels are after a reshape, a reduction, a permutation; and which ids are one."""

import numpy as np
import pytest

from kopt.graph.channels.maps import ChannelMap, UnfollowedError, permuted, reduced, reshaped
from kopt.graph.channels.space import ChannelSpace


def test_flattening_repeats_the_channels_for_every_position():
    found, ties = reshaped((None, 2, 2, 3), (None, 12), ChannelMap(3, np.arange(3)))
    assert found.axis == 1
    assert found.ids.tolist() == [0, 1, 2] * 4
    assert ties == ()


def test_flattening_channels_that_come_first_repeats_each_in_a_row():
    found, _ = reshaped((None, 3, 2, 2), (None, 12), ChannelMap(1, np.arange(3)))
    assert found.ids.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_a_vector_becomes_channels_of_one_position():
    found, ties = reshaped((None, 3), (None, 1, 1, 3), ChannelMap(1, np.arange(3)))
    assert (found.axis, found.ids.tolist(), ties) == (3, [0, 1, 2], ())


def test_positions_merge_also_where_their_number_is_open():
    found, _ = reshaped((None, None, None, 3), (None, None, 3), ChannelMap(3, np.arange(3)))
    assert (found.axis, found.ids.tolist()) == (2, [0, 1, 2])


def test_a_vector_that_becomes_a_map_ties_what_shares_a_channel():
    # (4) to (2, 2): entries 0 and 2 are channel 0, entries 1 and 3 are channel 1.
    found, ties = reshaped((None, 4), (None, 2, 2), ChannelMap(1, np.arange(4)))
    assert (found.axis, found.ids.tolist()) == (2, [0, 1])
    assert [(one.tolist(), other.tolist()) for one, other in ties] == [([0, 1], [2, 3])]


def test_a_flattened_map_finds_its_channels_again():
    flat, _ = reshaped((None, 2, 2, 3), (None, 12), ChannelMap(3, np.arange(3)))
    found, ties = reshaped((None, 12), (None, 4, 3), flat)
    assert (found.axis, found.ids.tolist(), ties) == (2, [0, 1, 2], ())


def test_folding_an_open_size_into_channels_is_not_followed():
    with pytest.raises(UnfollowedError, match="open sizes"):
        reshaped((None, None, 3), (None, None), ChannelMap(2, np.arange(3)))


def test_reductions_move_the_channels_to_the_front():
    assert reduced(ChannelMap(3, np.arange(3)), 4, (1, 2), False).axis == 1
    assert reduced(ChannelMap(1, np.arange(3)), 4, (-1, -2), False).axis == 1
    assert reduced(ChannelMap(3, np.arange(3)), 4, (1, 2), True).axis == 3
    with pytest.raises(UnfollowedError, match="all channels"):
        reduced(ChannelMap(3, np.arange(3)), 4, (-1,), True)


def test_permutation():
    assert permuted(ChannelMap(3, np.arange(3)), (0, 3, 1, 2)).axis == 1


def test_ties_make_units_numbered_by_their_first_id():
    space = ChannelSpace()
    a, b, c = space.new(2), space.new(2), space.new(2)
    space.tie(b, c[::-1])
    space.tie(a[:1], c[:1])
    space.freeze(c[1:], "stays")
    space.freeze(b, "later")
    # c is reversed: b0 = c1, b1 = c0; and a0 = c0. Units: {a0, b1, c0}, {a1}, {b0, c1}.
    units = space.resolve()
    assert units.of_id.tolist() == [0, 1, 2, 0, 0, 2]
    assert units.reasons == ("later", "", "stays")


def test_a_space_without_ids_has_no_units():
    assert ChannelSpace().resolve().reasons == ()
