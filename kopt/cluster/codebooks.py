"""Codebooks that belong to a model: they are saved with it, and weights stay in them however they are trained."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.cluster import assignment
from kopt.cluster.centroids import codebook
from kopt.graph.naming import channel_axes
from kopt.train.weight_constraints import WeightConstraint, value_of

CENTROID_UPDATES = ("mean", "sum")


@keras.saving.register_keras_serializable("kopt")
class Codebooks(WeightConstraint):
    """The codebooks of a model, and what each weight would be without.

    After an update of the optimizer a centroid moves by the change of its weights. Weights are then assigned anew: an
    unshared value is kept of each and takes all its changes, and the weight becomes the centroid next to that.
    """

    attribute = "clustering"

    def __init__(
        self,
        model: keras.Model,
        paths: Sequence[str],
        clusters: Sequence[int],
        keep_zeros: Sequence[bool],
        per_channel: bool = False,
        centroid_update: str = "mean",
    ):
        """Prepare codebooks for variables of `model`; `start` fills them.

        Args:
            model: to be clustered; its variables get constraints.
            paths: of the variables, as `kopt.graph.owned_variables` has them.
            clusters: values of a codebook, for each variable.
            keep_zeros: whether zeros stay zeros, for each variable; zero is then one of the values.
            per_channel: a codebook for every output channel instead of one for a variable.
            centroid_update: `"mean"` or `"sum"` of the changes of its weights.

        Raises:
            InputError: a path is not in the model.
        """
        super().__init__(model, paths)
        self.clusters, self.keep_zeros = tuple(clusters), tuple(keep_zeros)
        self.per_channel, self.centroid_update = per_channel, centroid_update
        self._layouts = [_Layout.of(one, per_channel) for one in self.owned]
        self.centroids, self.places, self.unshared, self.zeros = [], [], [], []
        for place, (layout, size) in enumerate(zip(self._layouts, self.clusters, strict=True)):
            shape, first = (layout.rows, layout.columns), "zeros"
            self.centroids.append(self.state(f"centroids_{place}", shape=(layout.rows, size), initializer=first))
            kind = "uint8" if size <= 256 else "int32"
            self.places.append(self.state(f"places_{place}", shape=shape, dtype=kind, initializer=first))
            self.unshared.append(self.state(f"unshared_{place}", shape=shape, initializer=first))
            kept = shape if self.keep_zeros[place] else (0, 0)
            self.zeros.append(self.state(f"zeros_{place}", shape=kept, dtype="bool", initializer=first))

    def settings(self) -> dict[str, Any]:
        """See `WeightConstraint.settings`."""
        return {
            "paths": list(self.paths),
            "clusters": list(self.clusters),
            "keep_zeros": list(self.keep_zeros),
            "per_channel": self.per_channel,
            "centroid_update": self.centroid_update,
        }

    def start(self, initialization: str, iterations: int, seed: int) -> None:
        """Compute the codebooks of the weights as they are, and apply them."""
        rng = np.random.default_rng(seed)
        self.fix(
            [
                codebook(
                    layout.to_rows(one.variable.numpy().astype("float32")), size, zeros, initialization, rng, iterations
                )
                for layout, one, size, zeros in zip(
                    self._layouts, self.owned, self.clusters, self.keep_zeros, strict=True
                )
            ]
        )

    def fix(self, centroids: Sequence[np.ndarray]) -> None:
        """Take these centroids, `(codebooks, clusters)` for each variable, and apply them.

        The first one of a variable whose zeros stay must be zero.
        """
        for place, (layout, one) in enumerate(zip(self._layouts, self.owned, strict=True)):
            rows = layout.to_rows(one.variable.numpy().astype("float32"))
            self.centroids[place].assign(centroids[place])
            places = assignment.nearest(tf.constant(rows), tf.constant(centroids[place]))
            if self.keep_zeros[place]:  # As tfmot has it: what is next to zero now is zero from now on.
                self.zeros[place].assign(places == 0)
                rows = np.where(places == 0, np.float32(0), rows)
            self.unshared[place].assign(rows)
            self.places[place].assign(tf.cast(places, self.places[place].dtype))
        self.apply()

    def constrained(self, place: int, values: np.ndarray) -> np.ndarray:
        """Return values of the variable at `place`, each replaced by the centroid next to it."""
        layout, centroids = self._layouts[place], tf.convert_to_tensor(value_of(self.centroids[place]))
        places = self._assigned(place, tf.constant(layout.to_rows(values)), centroids)
        return layout.from_rows(assignment.shared(centroids, places)).numpy().astype(values.dtype)

    def constrain(self, place: int, variable: Any) -> tf.Tensor:
        """Return the updated `variable`, the one at `place`, in its codebook, which follows it."""
        layout, centroids = self._layouts[place], value_of(self.centroids[place])
        places = tf.cast(value_of(self.places[place]), tf.int32)
        given = self.constrained_before(place, variable)
        updated = layout.to_rows(tf.cast(given, tf.float32))
        changes = updated - assignment.shared(centroids, places)
        unshared = value_of(self.unshared[place]) + changes
        counted = tf.ones_like(updated)
        if self.keep_zeros[place]:
            # What a mask has made zero since the last update counts as zero from now on.
            zeros = tf.logical_or(value_of(self.zeros[place]), updated == 0)
            self.zeros[place].assign(zeros)
            counted = tf.where(zeros | (places == 0), 0.0, counted)
            unshared = tf.where(zeros, 0.0, unshared)
        centroids = assignment.moved(centroids, changes, places, counted, self.centroid_update)
        places = assignment.nearest(unshared, centroids)
        self.centroids[place].assign(centroids)
        self.unshared[place].assign(unshared)
        self.places[place].assign(tf.cast(places, self.places[place].dtype))
        return tf.cast(layout.from_rows(assignment.shared(centroids, places)), given.dtype)

    def _assigned(self, place: int, rows: tf.Tensor, centroids: tf.Tensor) -> tf.Tensor:
        places = assignment.nearest(tf.cast(rows, tf.float32), centroids)
        if self.keep_zeros[place]:
            places = tf.where(value_of(self.zeros[place]), 0, places)
        return places


class _Layout:
    """How the weights of a variable are put into rows, one row a codebook."""

    def __init__(self, shape: tuple[int, ...], channels: tuple[int, ...]):
        """Take the axes of which every index has a codebook."""
        inner = tuple(axis for axis in range(len(shape)) if axis not in channels)
        self._order = (*channels, *inner)
        self._moved = tuple(shape[axis] for axis in self._order)
        self._back = tuple(int(axis) for axis in np.argsort(self._order))
        self.rows = int(np.prod([shape[axis] for axis in channels], dtype=int))
        self.columns = int(np.prod([shape[axis] for axis in inner], dtype=int))

    @classmethod
    def of(cls, one: Any, per_channel: bool) -> "_Layout":
        shape = tuple(one.variable.shape)
        return cls(shape, channel_axes(one.layer, one.variable.name, len(shape)) if per_channel else ())

    def to_rows(self, values: Any) -> Any:
        """Return weights as rows; of NumPy arrays an array, of tensors a tensor."""
        library = np if isinstance(values, np.ndarray) else tf
        return library.reshape(library.transpose(values, self._order), (self.rows, self.columns))

    def from_rows(self, rows: tf.Tensor) -> tf.Tensor:
        """Return weights in the shape of the variable."""
        return tf.transpose(tf.reshape(rows, self._moved), self._back)
