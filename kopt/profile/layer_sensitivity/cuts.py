"""A graph that was traced once, and functions cut out of it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf


class Cuttable:
    """A traced graph whose tensors can be fed and fetched.

    Attributes:
        inputs: tensors of the data, flat; `forward` sets them.
        graph: what was traced.
    """

    inputs: list[tf.Tensor]

    def __init__(self, forward: Callable[..., None], specs: Sequence[tf.TensorSpec]):
        """Trace `forward` with arguments of these specs; it may keep tensors of the graph."""
        # `tf.function` has no public way to cut functions out of one trace; this one is made for it.
        self._wrapped = tf.compat.v1.wrap_function(forward, list(specs))
        self.graph = self._wrapped.graph
        self._operations = self.graph.get_operations()
        self._of_data = self.reached(self.inputs)

    def function(self, feeds: Sequence[tf.Tensor], fetches: Sequence[tf.Tensor]) -> Callable[..., list[Any]]:
        """Return the part of the graph from `feeds` to `fetches` as a function of as many tensors."""
        pruned = self._wrapped.prune(list(feeds), list(fetches))
        signature = [tf.TensorSpec(feed.shape, feed.dtype) for feed in feeds]
        # A pruned function tries another way to be called first, and puts all numbers into the message of its failure.
        whole = tf.function(lambda *values: list(pruned(*values)), input_signature=signature, autograph=False)
        concrete = whole.get_concrete_function()
        return lambda *values: list(concrete(*map(tf.convert_to_tensor, values)))

    def reached(self, sources: Iterable[tf.Tensor]) -> set[Any]:
        """Return the references of all tensors that depend on `sources`, with these themselves."""
        found = {tensor.ref() for tensor in sources}
        for operation in self._operations:  # In the order in which they were made, so that inputs come first.
            if any(tensor.ref() in found for tensor in operation.inputs):
                found.update(tensor.ref() for tensor in operation.outputs)
        return found

    def frontier(self, reached: set[Any]) -> list[tf.Tensor]:
        """Return the tensors that depend on data, not on the sources of `reached`, and are all that it needs of data.

        Tensors that depend on weights alone are no part of it: they are small and computed again.
        """
        found: dict[Any, tf.Tensor] = {}
        pending = [
            tensor
            for operation in self._operations
            if any(output.ref() in reached for output in operation.outputs)
            for tensor in operation.inputs
        ]
        while pending:
            tensor = pending.pop()
            if tensor.ref() in reached or tensor.ref() not in self._of_data or tensor.ref() in found:
                continue
            if tensor.dtype in (tf.variant, tf.resource):  # Lists inside loops: made again from what they are made of.
                pending.extend(tensor.op.inputs)
            else:
                found[tensor.ref()] = tensor
        return list(found.values())

    def position(self, tensor: tf.Tensor) -> int:
        """Return where in the order of execution a tensor is first used."""
        return next(
            (place for place, one in enumerate(self._operations) if any(tensor is given for given in one.inputs)),
            len(self._operations),
        )

    def sizes(self, tensors: Sequence[tf.Tensor], feeds: Sequence[Any]) -> list[int]:
        """Return the bytes of tensors of the graph for inputs of the shapes of `feeds`."""
        if not tensors:
            return []
        with self.graph.as_default():
            counts = tf.stack([tf.size(tensor, tf.int64) for tensor in tensors])
        [values] = self.function(self.inputs, [counts])(*feeds)
        return [int(count) * tensor.dtype.size for count, tensor in zip(values.numpy(), tensors, strict=True)]
