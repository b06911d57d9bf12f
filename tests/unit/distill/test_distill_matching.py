"""Layers that are paired without being named."""

import keras
import pytest
from distillation_cases import L, network, teacher

from kopt.core.errors import ConfigError
from kopt.distill import matched


def names(student, large):
    return [(pair.student, pair.teacher) for pair in matched(student, large)]


def images(sizes, prefix):
    """Return convolutions, two at each size of the map, the second padded for the next."""
    inputs = x = keras.Input((16, 16, 1))
    size = 16
    for number, wanted in enumerate(sizes):
        x = L.Conv2D(2, 3, size // wanted, padding="same", name=f"{prefix}{number}a")(x)
        x = L.Conv2D(2, 3, padding="same", name=f"{prefix}{number}b")(x)
        size = wanted
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(L.ZeroPadding2D()(x))))


def encoder(blocks, prefix):
    inputs = x = keras.Input((5, 4))
    for number in range(blocks):
        inner = L.Dense(4, name=f"{prefix}dense{number}")(x)
        x = L.Add(name=f"{prefix}add{number}")([x, inner])
    return keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(x)))


def layers(count, prefix):
    dense = [L.Dense(4, activation="relu", name=f"{prefix}{number}") for number in range(count)]
    return keras.Sequential([keras.Input((3,)), *dense, L.Dense(2)])


def test_maps_by_resolution_with_the_last_layer_of_each():
    assert names(images([16, 8, 2], "s"), images([16, 4, 2], "t")) == [("s0b", "t0b"), ("s2b", "t2b")]
    assert names(network(), teacher()) == [("relu", "relu"), ("two", "two")]


def test_maps_without_a_common_resolution_by_order():
    assert names(images([8, 2], "s"), images([16, 4], "t")) == [("s0b", "t0b"), ("s1b", "t1b")]


def test_blocks_of_one_resolution_by_depth():
    # Of six blocks, those at a half and at the end.
    assert names(encoder(2, "s"), encoder(6, "t")) == [("sadd0", "tadd2"), ("sadd1", "tadd5")]
    assert names(layers(2, "s"), layers(5, "t")) == [("s0", "t2"), ("s1", "t4")]


def test_nothing_in_common_is_said():
    alone = keras.Sequential([keras.Input((3,)), L.Dense(2)])
    with pytest.raises(ConfigError, match="belong together by resolution or depth"):
        matched(alone, alone)
