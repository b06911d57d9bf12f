"""A traced model after TensorFlow's graph optimizer: with weights as constants, and what follows from them worked out.

Source: "TensorFlow graph optimization with Grappler" of TensorFlow's guide.
"""

from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.training.saver import export_meta_graph

from kopt.core.errors import UnsupportedModelError
from kopt.core.records.artifacts import TensorInfo

# Those that leave operators which every TensorFlow runs; the rest (layout, fusing, memory) a server applies by itself.
_PASSES = ("pruning", "function", "constfold", "shape", "arithmetic", "constfold", "dependency")
_LARGEST_BYTES = 1 << 30  # of constants: protobuf writes no message of 2 GB, and the optimizer copies them


def optimized(name: str, concrete: Any, inputs: tuple[TensorInfo, ...]) -> Any:
    """Return a `tf.function` of keyword tensors that computes what `concrete` does, by its optimized graph.

    Args:
        name: of the model.
        concrete: a traced function of keyword tensors with outputs by name.
        inputs: its inputs.

    Raises:
        UnsupportedModelError: it has more than a gibibyte of weights.
    """
    size = sum(variable.shape.num_elements() * variable.dtype.size for variable in concrete.variables)
    if size > _LARGEST_BYTES:
        raise UnsupportedModelError(
            f"{name} has {size / 1e9:.1f} GB of weights, more than fit into a graph as constants. Use variant='plain'."
        )
    frozen = convert_variables_to_constants_v2(concrete)
    feeds = [tensor.name for tensor in frozen.inputs]
    fetches = [tensor.name for tensor in frozen.outputs]
    graph = _optimized_graph(frozen, feeds, fetches)
    pruned = tf.compat.v1.wrap_function(lambda: tf.compat.v1.import_graph_def(graph, name=""), []).prune(feeds, fetches)
    # Tensors of a frozen function stand in the order of the names: of its keywords, and of its outputs.
    keys = [tensor.op.name for tensor in frozen.inputs]
    names = sorted(concrete.structured_outputs)

    def serve(**tensors: Any) -> dict[str, Any]:
        results = pruned(*(tensors[key] for key in keys))
        return {name: tf.identity(tensor) for name, tensor in zip(names, results, strict=True)}

    if sorted(keys) != sorted(info.name for info in inputs):
        raise UnsupportedModelError(f"{name} has inputs that its graph calls {', '.join(keys)}. Use variant='plain'.")
    return tf.function(serve, autograph=False)


def _optimized_graph(frozen: Any, feeds: list[str], fetches: list[str]) -> Any:
    meta = export_meta_graph(graph_def=frozen.graph.as_graph_def(), graph=frozen.graph)
    collection = meta_graph_pb2.CollectionDef()
    collection.node_list.value.extend([*feeds, *fetches])
    meta.collection_def["train_op"].CopyFrom(collection)
    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.optimizers.extend(_PASSES)
    options.min_graph_nodes = -1  # small graphs as well
    return tf_optimizer.OptimizeGraph(config, meta)
