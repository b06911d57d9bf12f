"""Clustering by tensorflow-model-optimization itself, on the tf_keras twin of a Keras 3 model, and the way back."""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kopt.core.errors import ConfigError
from kopt.core.records.actions import LayerAction
from kopt.graph import OwnedVariable, TwinLayer
from kopt.graph.tfmot import load_tfmot
from kopt.graph.wrapped_twin import Origin, WrappedLayer, brought_back, origin_of, within, wrapped_twin

_INNER = "tensorflow_model_optimization.python.core.clustering.keras"
_INITIALIZATIONS = {
    "k-means++": "KMEANS_PLUS_PLUS",
    "linear": "LINEAR",
    "density": "DENSITY_BASED",
    "random": "RANDOM",
}
_UPDATES = {"mean": "AVG", "sum": "SUM"}


@dataclasses.dataclass(frozen=True)
class TwinClustering:
    """What a twin was wrapped for.

    Attributes:
        clusters: by path of the layer.
        before: the kernels as they were, by path of the variable.
    """

    clusters: dict[str, int]
    centroid_update: str
    before: dict[str, np.ndarray]


def clustered_twin(
    model: keras.Model,
    chosen: Sequence[tuple[OwnedVariable, int]],
    left: list[LayerAction],
    initialization: str,
    per_channel: bool,
    keep_zeros: bool,
    centroid_update: str,
) -> tuple[Any, Origin, list[LayerAction]]:
    """Return the tf_keras twin with tfmot's wrappers round the chosen layers, and what is left with the reason.

    Raises:
        ConfigError: tfmot can cluster none of the layers.
        UnsupportedModelError: a subclassed model.
    """
    tfmot = load_tfmot()
    cluster = importlib.import_module(f"{_INNER}.experimental.cluster").cluster_weights
    aggregation = importlib.import_module(f"{_INNER}.cluster_config").GradientAggregation[_UPDATES[centroid_update]]
    wanted = {one.layer_path: size for one, size in chosen}
    method = TwinClustering({}, centroid_update, {one.path: one.variable.numpy() for one, _ in chosen})

    def wrap(one: TwinLayer) -> Any:
        size = next((size for path, size in wanted.items() if within(path, one.path)), None)
        if size is None:
            return None
        zeros = any(np.any(weight.numpy() == 0) for weight in one.twin.weights if len(weight.shape) > 1)
        try:
            wrapper = cluster(
                one.twin,
                number_of_clusters=size,
                cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization[_INITIALIZATIONS[initialization]],
                preserve_sparsity=keep_zeros and zeros,
                cluster_per_channel=per_channel,
                cluster_gradient_aggregation=aggregation,
            )
        except ValueError:
            return "tfmot does not cluster this kind of layer"
        if wrapper is one.twin:
            return "tfmot finds too few weights in a channel for so many values"
        if not wrapper.layer.get_clusterable_weights():
            return "tfmot does not cluster this kind of layer"
        method.clusters[one.path] = size
        return wrapper

    clustered, origin, reasons = wrapped_twin(model, wrap, method)
    beyond = [one for one, _ in chosen if not any(within(one.layer_path, path) for path in method.clusters)]
    more = [
        LayerAction(
            one.layer_path,
            type(one.layer).__name__,
            next(reason for path, reason in reasons.items() if within(one.layer_path, path)),
        )
        for one in beyond
    ]
    if not method.clusters:
        listed = "; ".join(f"{one.layer} ({one.type}): {one.detail}" for one in (*more, *left)[:5])
        raise ConfigError(f"tfmot can cluster nothing in the model {model.name!r}: {listed}.")
    return clustered, origin, [*left, *more]


def stripped(origin: Origin) -> keras.Model:
    """Return the Keras 3 model with the weights that `strip_clustering` would leave in the twin."""
    return brought_back(origin, final_values)


def final_values(one: WrappedLayer) -> list[Any]:
    """Return the weights of a layer as tfmot leaves them, in the order of the layer."""
    if one.wrapper is None:
        return one.values()
    one.wrapper.update_clustered_weights_associations()
    shared = {
        id(weight): one.wrapper.get_weight_from_layer(name)
        for name, weight in one.wrapper.original_clusterable_weights.items()
    }
    return [np.asarray(shared.get(id(weight), weight)) for weight in one.weights]


def twin_clustering_of(model: Any) -> Origin | None:
    """Return where a model of `clustered_twin` comes from; `None` of any other.

    Raises:
        UnsupportedModelError: a tf_keras model that was not made by kopt.
    """
    origin = origin_of(model)
    return origin if origin is not None and isinstance(origin.method, TwinClustering) else None
