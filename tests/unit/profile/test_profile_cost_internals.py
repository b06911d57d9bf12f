import tensorflow as tf

from kopt.profile.cost.internals import function_graph


def test_the_function_of_a_call_is_found():
    inside = tf.function(lambda x: tf.tanh(x) @ x, autograph=False)
    outside = tf.function(lambda x: inside(x) + 1.0, autograph=False)
    graph = outside.get_concrete_function(tf.TensorSpec((3, 3))).graph
    [call] = [operation for operation in graph.get_operations() if "PartitionedCall" in operation.type]
    kinds = [operation.type for operation in function_graph(call).get_operations()]
    assert kinds[:3] == ["Placeholder", "Tanh", "MatMul"]
