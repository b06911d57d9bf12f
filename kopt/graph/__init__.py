"""A Keras 3 model as a graph: checking, loading, viewing, rewriting it, and its tf_keras twin."""

from kopt.graph.channels import ChannelGraph, ChannelGroup, channel_graph
from kopt.graph.checks import fingerprint, require_built, require_finite, signature
from kopt.graph.legacy import from_tf_keras
from kopt.graph.loading import load_model
from kopt.graph.naming import FreshNames, OwnedVariable, layer_paths, owned_variables
from kopt.graph.rewrite import as_functional, clone_layer, copy_model, copy_subclassed, copy_weights, rewrite
from kopt.graph.twin import Adapter, Twin, TwinLayer, adapted_twin, to_tf_keras
from kopt.graph.view import Call, GraphView

__all__ = [
    "Adapter",
    "Call",
    "ChannelGraph",
    "ChannelGroup",
    "FreshNames",
    "GraphView",
    "OwnedVariable",
    "Twin",
    "TwinLayer",
    "adapted_twin",
    "as_functional",
    "channel_graph",
    "clone_layer",
    "copy_model",
    "copy_subclassed",
    "copy_weights",
    "fingerprint",
    "from_tf_keras",
    "layer_paths",
    "load_model",
    "owned_variables",
    "require_built",
    "require_finite",
    "rewrite",
    "signature",
    "to_tf_keras",
]
