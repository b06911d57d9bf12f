"""What is said of an error of Keras or TensorFlow is the line that says what was wrong."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, words_of


def raised(function):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which kind is not the question here
        function()
    return caught.value


def test_the_headline_of_keras_is_left_out():
    error = raised(lambda: keras.layers.Reshape((3,))(np.ones((2, 4), "float32")))
    assert str(error).startswith("Exception encountered when calling Reshape.call()")
    assert "\x1b" in str(error)
    assert words_of(error).startswith("The total size of the tensor must be unchanged")
    assert "\x1b" not in words_of(error)


def test_the_trace_of_a_graph_is_left_out():
    @tf.function
    def looked_up(places):
        return tf.gather(tf.range(3), places) + 0

    model = keras.Sequential([keras.Input((), dtype="int32"), keras.layers.Embedding(3, 2)])
    error = raised(lambda: model.predict(np.array([7]), verbose=0))
    assert str(error).startswith("Graph execution error")
    assert words_of(error) == "indices[0] = 7 is not in [0, 3)"
    assert words_of(raised(lambda: looked_up(tf.constant([5])))) == "indices[0] = 5 is not in [0, 3)"


def test_others_are_said_by_their_first_line_and_an_empty_one_by_its_class():
    assert words_of(ConfigError("One thing.\nAnother.")) == "One thing."
    assert words_of(KeyError()) == "KeyError"
    assert words_of(ValueError("\n  \n")) == "ValueError"
    only_a_headline = ValueError("Exception encountered when calling Layer.call().")
    assert words_of(only_a_headline) == "ValueError"
