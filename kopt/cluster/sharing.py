"""Weight sharing on Keras 3: every kernel keeps a few values, and its weights are among them."""

import dataclasses
import gzip
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kopt.cluster.by_tfmot import clustered_twin, stripped, twin_clustering_of
from kopt.cluster.centroids import INITIALIZATIONS
from kopt.cluster.codebooks import CENTROID_UPDATES, Codebooks
from kopt.cluster.selection import Clusters, choose
from kopt.core.errors import ConfigError, InputError
from kopt.core.records.actions import LayerAction
from kopt.core.records.changes.clustering import ClusteredVariable, WeightClustering
from kopt.core.settings import choice, whole
from kopt.graph import OwnedVariable, from_tf_keras, owned_variables, require_built, require_finite
from kopt.graph.additions import require_unrounded
from kopt.graph.checks import require_unquantized
from kopt.graph.naming import is_kernel
from kopt.graph.wrapped_twin import is_wrapped, within
from kopt.report.changes.clustering import CLUSTERING
from kopt.report.look import Shown
from kopt.train.weight_constraints import constrainable, constraints_of, plain_copy

_SIZE = (
    "A `.tflite` file stores a clustered kernel as it stores any other: it becomes smaller when it is compressed, "
    "e.g. in an app package. No runtime here computes faster with it."
)


@dataclasses.dataclass(frozen=True)
class Clustering(Shown, WeightClustering):
    """What `weights` or `finalize` did, with ways to show it.

    Example:
        >>> report = kopt.cluster.weights(model, clusters=16)[1]
        >>> [(variable.path, variable.distinct, variable.bits) for variable in report.variables]
        [('conv1/kernel', 16, 4), ('conv2/kernel', 16, 4), ('classes/kernel', 16, 4)]
    """

    look = CLUSTERING


def weights(
    model: keras.Model,
    *,
    clusters: Clusters,
    initialization: str = "k-means++",
    iterations: int | None = None,
    per_channel: bool = False,
    keep_zeros: bool = True,
    centroid_update: str = "mean",
    layers: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    seed: int = 0,
    backend: str = "keras",
) -> tuple[keras.Model, Clustering]:
    """Return a copy of a model whose kernels have a few different weights each, and a report.

    Use it before a file is compressed: a weight takes `log2(clusters)` bits then. The copy trains like any model, in
    `fit` or a loop of your own, compiled or not; the optimizer moves the values and assigns weights to them anew. It
    saves to `.keras` and loads with its codebooks. Compile it anew; `finalize` makes a plain model of it.

    A model under the masks of `kopt.prune.magnitude` keeps them, and follows their schedule.

    Args:
        model: built, or called once; not changed. A subclassed one must rebuild from its config. A model of tf_keras
            becomes one of Keras 3 first.
        clusters: different values of a kernel, at least 2; or a mapping of names of layers to it (`*` is a wildcard),
            which leaves the others alone.
        initialization: of the values: `"k-means++"`, `"linear"`, `"density"` (quantiles) or `"random"`.
        iterations: of k-means that follow, at most; 0 keeps the first values, 100 by default.
        per_channel: every output channel has `clusters` values of its own.
        keep_zeros: in kernels with zeros, one of the values is zero; weights next to it now stay zero.
        centroid_update: a value moves by the `"mean"` of what the optimizer does to its weights, or by the `"sum"`,
            which is the gradient of the loss but larger by the number of the weights.
        layers: names of the only layers to cluster.
        skip: names of layers to leave as they are.
        seed: of `"k-means++"` and `"random"`.
        backend: `"keras"`: as described; `"tfmot"`: the model is a tf_keras twin under tfmot's own wrappers, to be
            compiled and trained with tf_keras; `finalize` makes a Keras 3 model of it, weights bit for bit. It has no
            `iterations` and no `seed`, and `per_channel` is for `Conv2D` only. Layers that it does not know are listed.

    Returns:
        The model, and the record of its kernels and of the layers left as they are, with `.table()`.

    Raises:
        ConfigError: a setting out of range, an unknown name, or nothing to cluster.
        UnsupportedModelError: a layer or a subclassed model that does not rebuild from its config, a subclassed model
            with the backend `"tfmot"`, or a tf_keras model that Keras 3 does not have.
        InputError: the model is not built, or clustered already.
        NonFiniteError: a weight is NaN or infinite.

    Example:
        >>> clustered, before = kopt.cluster.weights(model, clusters=16, skip=["conv1"])
        >>> clustered.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> history = clustered.fit(x_train, y_train, verbose=0)
        >>> plain, report = kopt.cluster.finalize(clustered)
        >>> [(variable.path, variable.distinct) for variable in report.variables]
        [('conv2/kernel', 16), ('classes/kernel', 16)]
        >>> report.gzip_after < before.gzip_before / 2
        True

    Source: Han et al., "Deep compression", 2016, https://arxiv.org/abs/1510.00149; tfmot's `cluster_weights`.
    """
    if is_wrapped(model):
        raise InputError(f"The model {model.name!r} is wrapped by tfmot already: `finalize` it first.")
    model = from_tf_keras(model)
    require_built(model)
    require_unquantized(model)
    require_unrounded(model)
    require_finite(model)
    choice("initialization", initialization, tuple(INITIALIZATIONS))
    choice("centroid_update", centroid_update, CENTROID_UPDATES)
    whole("seed", seed, least=0)
    most = 100 if iterations is None else whole("iterations", iterations, least=0)
    if codebooks_of(model) is not None:
        raise InputError(f"The model {model.name!r} is clustered already: `kopt.cluster.finalize` it first.")
    chosen, left = choose(model, clusters, layers, skip, per_channel)
    if choice("backend", backend, ("keras", "tfmot")) == "tfmot":
        if iterations is not None:
            raise ConfigError("tfmot has no `iterations` of k-means: leave them out.")
        twin, origin, left = clustered_twin(
            model, chosen, left, initialization, per_channel, keep_zeros, centroid_update
        )
        return twin, _twin_report(origin, stripped(origin), left)
    copy = constrainable(model)
    masked = {path for one in constraints_of(model) for path in one.paths}
    keeping = [one.path in masked or (keep_zeros and _has_zeros(one.variable)) for one, _ in chosen]
    before = {one.path: one.variable.numpy() for one, _ in chosen}
    books = Codebooks(copy, list(before), [size for _, size in chosen], keeping, per_channel, centroid_update)
    copy.constrain_by(books)
    books.start(initialization, most, seed)
    return copy, _report(copy.name, books, left, before)


def finalize(model: keras.Model) -> tuple[keras.Model, Clustering]:
    """Return a plain model with the weights of a clustered one, and how few they are.

    Args:
        model: of `weights`, or loaded from its `.keras` file; not changed but for weights that are not in their
            codebook, such as those that an average of weights has made.

    Raises:
        InputError: the model has no codebooks.

    Example:
        >>> clustered, _ = kopt.cluster.weights(model, clusters=8)
        >>> plain, report = kopt.cluster.finalize(clustered)
        >>> len(np.unique(plain.get_layer("classes").kernel))
        8
    """
    origin = twin_clustering_of(model)
    if origin is not None:
        plain = stripped(origin)
        return plain, _twin_report(origin, plain, _unclustered(plain, _paths_of(origin)))
    books = codebooks_of(model)
    if books is None:
        raise InputError(
            f"The model {model.name!r} has no codebooks. Received a {type(model).__name__}; see `weights`."
        )
    return plain_copy(model), _report(model.name, books, _unclustered(model, books.paths), {})


def codebooks_of(model: keras.Model) -> Codebooks | None:
    """Return the codebooks of a model; `None` without."""
    return next((one for one in constraints_of(model) if isinstance(one, Codebooks)), None)


def _has_zeros(variable: keras.Variable) -> bool:
    return bool(np.any(variable.numpy() == 0))


def _unclustered(model: keras.Model, clustered: Collection[str]) -> list[LayerAction]:
    return [
        LayerAction(one.layer_path, type(one.layer).__name__, "it had no codebook")
        for one in owned_variables(model)
        if one.path not in clustered and is_kernel(one.variable)
    ]


def _report(name: str, books: Codebooks, left: Sequence[LayerAction], before: Mapping[str, np.ndarray]) -> Clustering:
    rows = [
        _row(one, books.clusters[place], books.centroids[place].shape[0], before.get(one.path))
        for place, one in enumerate(books.owned)
    ]
    return _record(
        name, "each output channel" if books.per_channel else "each kernel", books.centroid_update, rows, left
    )


def _twin_report(origin: Any, plain: keras.Model, left: Sequence[LayerAction]) -> Clustering:
    method, paths = origin.method, _paths_of(origin)
    rows = [
        _row(one, paths[one.path], 1, method.before.get(one.path))
        for one in owned_variables(plain)
        if one.path in paths
    ]
    return _record(plain.name, "each kernel, by tfmot", method.centroid_update, rows, left)


def _paths_of(origin: Any) -> dict[str, int]:
    """Return the paths of the kernels that tfmot has clustered, with their clusters."""
    return {
        path: size
        for path in origin.method.before
        for layer, size in origin.method.clusters.items()
        if within(path, layer)
    }


def _record(
    name: str, where: str, update: str, rows: Sequence[ClusteredVariable], left: Sequence[LayerAction]
) -> Clustering:
    return Clustering(
        model=name,
        method=f"Values of {where}, moved by the {update} of the changes of their weights.",
        variables=tuple(rows),
        skipped=tuple(left),
        notes=(_SIZE,),
    )


def _row(one: OwnedVariable, clusters: int, codebooks: int, old: np.ndarray | None) -> ClusteredVariable:
    now = one.variable.numpy()
    return ClusteredVariable(
        path=one.path,
        layer=one.layer_path,
        layer_type=type(one.layer).__name__,
        shape=tuple(now.shape),
        codebooks=codebooks,
        clusters=clusters,
        distinct=int(np.unique(now).size),
        sparsity=float(np.mean(now == 0)),
        error=None if old is None else _relative_error(old, now),
        gzip_before=None if old is None else _compressed(old),
        gzip_after=_compressed(now),
    )


def _relative_error(old: np.ndarray, new: np.ndarray) -> float:
    return float(np.linalg.norm(new - old) / max(float(np.linalg.norm(old)), 1e-30))


def _compressed(values: np.ndarray) -> int:
    return len(gzip.compress(values.astype(np.float32, copy=False).tobytes(), mtime=0))
