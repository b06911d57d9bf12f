"""Fails when a release of TensorFlow or Keras changes what `kopt.profile.timing.internals` relies on."""

import keras
import pytest
import tensorflow as tf

from kopt.profile.timing.internals import all_graphs, inside_scopes, profiler_session


def is_running():
    """Whether a profiler runs, in Python's bookkeeping or out of it."""
    try:
        tf.profiler.experimental.start("")
    except tf.errors.AlreadyExistsError:
        return True
    tf.profiler.experimental.stop(save=False)
    return False


def test_the_session_records_and_ends(tmp_path):
    with profiler_session(tmp_path) as collect:
        with tf.profiler.experimental.Trace("mark"):
            tf.add(1, 2)
        space = collect()
    names = [meta.name for plane in space.planes for meta in plane.event_metadata.values()]
    assert "mark" in names
    assert not is_running()


def test_an_error_inside_ends_the_session(tmp_path):
    with pytest.raises(KeyError), profiler_session(tmp_path) as collect:
        raise KeyError
    assert callable(collect)  # Still there, and the session with it: dropping it would end it, too.
    assert not is_running()


def test_the_session_of_somebody_else_goes_on(tmp_path):
    tf.profiler.experimental.start(str(tmp_path / "theirs"))
    with pytest.raises(tf.errors.AlreadyExistsError), profiler_session(tmp_path):
        pytest.fail("a second session began")
    tf.profiler.experimental.stop()  # Raises if there is none.
    assert list((tmp_path / "theirs").rglob("*.xplane.pb"))


def test_a_scope_is_entered_within_that_of_the_layer():
    layer = keras.layers.Dense(2, name="dense")
    layer.build((None, 3))
    with inside_scopes(layer, lambda: tf.name_scope("marked/")):
        graph = tf.function(layer).get_concrete_function(tf.zeros((1, 3))).graph
    assert "marked/MatMul" in {operation.name for operation in graph.get_operations()}
    assert "_open_name_scope" not in vars(layer)


def test_the_bodies_of_loops_are_found():
    def count(x):
        return tf.while_loop(lambda i, _: i < 3, lambda i, a: (i + 1, tf.tanh(a)), (0, x))

    graph = tf.function(count).get_concrete_function(tf.zeros((2,))).graph
    types = {operation.type for part in all_graphs(graph) for operation in part.get_operations()}
    assert {"Tanh", "While"} <= types or {"Tanh", "StatelessWhile"} <= types
