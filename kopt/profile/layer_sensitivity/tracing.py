"""A model with its loss traced once."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.profile.layer_sensitivity.cuts import Cuttable
from kopt.profile.layer_sensitivity.kernels import Target
from kopt.profile.layer_sensitivity.objective import Objective
from kopt.train.interception import replaced
from kopt.train.internals import copy_mask


class Trace(Cuttable):
    """The forward pass of a model in inference mode, as a graph whose kernels are tensors that can be fed.

    The variables of the model are read and never written: what the model assigns while it is traced is dropped.

    Attributes:
        kernels: a tensor for every kernel of every target, in order.
        judged: loss of every example and, if there is one, its metric; or the outputs for a metric of whole batches.
        mean_loss: weighted mean of the loss.
        inputs: placeholders of `x` and `y`, flat; `weight` that of the weights.
        switches: by the path of the layer, a boolean that is false and can be fed: true passes the layer over. Only
            layers that are called once, with one tensor, and give one of its shape and type have one.
    """

    def __init__(self, model: keras.Model, targets: Sequence[Target], objective: Objective, specs: tuple[Any, Any]):
        self._variables = [kernel.variable for target in targets for kernel in target.kernels]
        flat = keras.tree.flatten(specs)
        calls: dict[str, list[tf.Tensor | None]] = {}

        def forward(weight: Any, *leaves: Any) -> None:
            self.weight, self.inputs = weight, list(leaves)
            self.kernels = [tf.identity(tf.convert_to_tensor(variable.value)) for variable in self._variables]
            x, y = keras.tree.pack_sequence_as(specs, leaves)
            with (
                keras.StatelessScope(list(zip(self._variables, self.kernels, strict=True))),
                _watched(targets, calls),
            ):
                outputs = model(x, training=False)
                losses = objective.loss(y, outputs)
                self.judged = [losses]
                if objective.whole is not None:
                    self.judged += keras.tree.flatten(outputs)
                elif objective.metric is not None:
                    self.judged.append(objective.metric(y, outputs))
            self.mean_loss = tf.reduce_sum(weight * losses) / tf.reduce_sum(weight)

        super().__init__(forward, [tf.TensorSpec((None,), tf.float32), *flat])
        self.switches: dict[str, tf.Tensor] = {
            path: found[0]
            for path, found in calls.items()
            # A call in the body of a loop is in a graph of its own.
            if len(found) == 1 and found[0] is not None and found[0].graph is self.graph
        }

    def gradients(self, of: tf.Tensor) -> list[tf.Tensor]:
        """Return the gradient of a number by every kernel; zeros where it does not depend on one.

        Raises:
            LookupError: an operation has no gradient.
        """
        with self.graph.as_default():
            found = tf.gradients(of, self.kernels, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [_dense(gradient, kernel) for gradient, kernel in zip(found, self.kernels, strict=True)]

    def curvature(self, gradients: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Return placeholders `v` of the kernels' shapes, and `v * (H v)` summed by kernel; `H` is the Hessian.

        Raises:
            LookupError: an operation has no second derivative.
        """
        with self.graph.as_default():
            vectors = [tf.compat.v1.placeholder(kernel.dtype, kernel.shape) for kernel in self.kernels]
            dot = tf.add_n([tf.reduce_sum(one * other) for one, other in zip(gradients, vectors, strict=True)])
        products = self.gradients(dot)
        with self.graph.as_default():
            return vectors, [tf.reduce_sum(one * other) for one, other in zip(products, vectors, strict=True)]


@contextlib.contextmanager
def _watched(targets: Sequence[Target], calls: dict[str, list[tf.Tensor | None]]) -> Iterator[None]:
    """Give every call of a layer inside the block a switch; `None` stands for a call that cannot be passed over."""
    with contextlib.ExitStack() as stack:
        for target in targets:
            stack.enter_context(replaced(target.layer, "call", _switched(target, calls.setdefault(target.path, []))))
        yield


def _switched(target: Target, calls: list[tf.Tensor | None]) -> Callable[..., Any]:
    plain = target.layer.call

    def call(*args: Any, **kwargs: Any) -> Any:
        outputs = plain(*args, **kwargs)
        given = [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, tf.Tensor)]
        if len(given) != 1 or not isinstance(outputs, tf.Tensor) or not _alike(given[0], outputs):
            calls.append(None)
            return outputs
        calls.append(tf.identity(tf.constant(False)))
        chosen = tf.where(calls[-1], given[0], outputs)
        chosen.set_shape(outputs.shape)
        copy_mask(outputs, chosen)
        return chosen

    return call


def _alike(one: tf.Tensor, other: tf.Tensor) -> bool:
    shapes = one.shape[1:], other.shape[1:]
    return one.dtype == other.dtype and all(shape.is_fully_defined() for shape in shapes) and shapes[0] == shapes[1]


def _dense(gradient: Any, kernel: tf.Tensor) -> tf.Tensor:
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows = tf.reshape(gradient.values, (-1, int(np.prod(kernel.shape[1:]))))
    summed = tf.math.unsorted_segment_sum(rows, tf.reshape(gradient.indices, (-1,)), kernel.shape[0])
    return tf.reshape(summed, kernel.shape)
