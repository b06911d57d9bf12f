"""What the tensors of a traced training step take, moment by moment: arithmetic on a list of operations."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

# Give their input under another shape or name: no memory of their own.
_SAME_MEMORY = frozenset(
    ("ExpandDims", "Identity", "IdentityN", "PreventGradient", "Reshape", "Squeeze", "StopGradient")
)
_WITHOUT_MEMORY = (tf.resource, tf.variant, tf.string)


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        name: with its path.
        reads: tensors it takes, by number.
        makes: tensors it gives, by number.
    """

    name: str
    reads: tuple[int, ...]
    makes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class StepGraph:
    """The operations of a training step in the order they were traced.

    Attributes:
        steps: operations; those from index `backward` on belong to the backward pass.
        sizes: bytes of every tensor by its number; tensors that share memory share a number.
        given: tensors that are there all the time: the batch.
        results: tensors that stay to the end: the gradients.
        unknown: operations with an output whose size is not known before it runs; it counts as 0.
    """

    steps: tuple[Step, ...]
    backward: int
    sizes: dict[int, int]
    given: frozenset[int]
    results: frozenset[int]
    unknown: tuple[str, ...] = ()

    @property
    def given_bytes(self) -> int:
        """Bytes of the batch."""
        return sum(self.sizes[tensor] for tensor in self.given)

    def kept(self) -> dict[str, int]:
        """Return the bytes that each forward operation makes and the backward pass reads, by the operation's name."""
        read = {tensor for step in self.steps[self.backward :] for tensor in step.reads}
        return {
            step.name: size
            for step in self.steps[: self.backward]
            if (size := sum(self.sizes[tensor] for tensor in set(step.makes) & read - self.given))
        }

    def peak_bytes(self) -> int:
        """Return the most that lives at one moment, if operations run as traced and free what is done with.

        An operation needs its outputs beside its inputs. TensorFlow may write the one over the other, and runs what is
        ready first; to leave both out came closer to what it allocates.
        """
        last = {tensor: i for i, step in enumerate(self.steps) for tensor in (*step.makes, *step.reads)}
        forever = self.given | self.results
        live = peak = self.given_bytes
        for i, step in enumerate(self.steps):
            made = self._size(set(step.makes) - self.given)
            peak = max(peak, live + made)
            done = {tensor for tensor in {*step.makes, *step.reads} - forever if last[tensor] == i}
            live += made - self._size(done)
        return peak

    def _size(self, tensors: Iterable[int]) -> int:
        return sum(self.sizes[tensor] for tensor in tensors)


def step_graph(graph: Any, backward: int, results: Iterable[Any] = ()) -> StepGraph:
    """Return the memory side of a traced step.

    Args:
        graph: of the `tf.function`, with static shapes.
        backward: how many operations had been traced when the forward pass was done.
        results: its tensors that stay to the end.
    """
    numbers: dict[str, int] = {}
    sizes: dict[int, int] = {}
    given: set[int] = set()
    unknown, steps = [], []
    for operation in graph.get_operations():
        # The loop of a recurrent layer reads what the backward pass adds to the graph later, to keep its steps in.
        reads = tuple(numbers[tensor.name] for tensor in operation.inputs if tensor.name in numbers)
        if operation.type in _SAME_MEMORY and reads:
            numbers.update(zip((tensor.name for tensor in operation.outputs), reads, strict=False))
            steps.append(Step(operation.name, reads[: len(operation.outputs)], ()))
            continue
        makes = []
        for tensor in operation.outputs:
            number = numbers[tensor.name] = len(sizes)
            size = _bytes_of(tensor)
            sizes[number] = 0 if size is None or operation.type == "ReadVariableOp" else size
            makes.append(number)
            if size is None:
                unknown.append(operation.name)
        if operation.type == "Placeholder":
            given.update(makes)
        steps.append(Step(operation.name, reads, tuple(makes)))
    kept = frozenset(numbers[tensor.name] for tensor in results if tensor.name in numbers)
    return StepGraph(tuple(steps), backward, sizes, frozenset(given), kept, tuple(dict.fromkeys(unknown)))


def by_layer(kept: dict[str, int], names: Sequence[str]) -> dict[str, int]:
    """Return bytes by layer, largest first, from bytes by operation.

    The path of an operation holds the names of the layers round it, with a number behind each (`dense_1` is a call of
    the layer `dense`): Keras opens the scope of a layer a first time when it looks whether the layer is built.

    Args:
        kept: bytes by the name of an operation.
        names: of all layers.
    """
    known, sums = set(names), dict[str, int]()
    for operation, size in kept.items():
        layer = (
            "/".join(filter(None, (_known(part, known) for part in operation.split("/")[:-1]))) or "(loss and others)"
        )
        sums[layer] = sums.get(layer, 0) + size
    return dict(sorted(sums.items(), key=lambda pair: -pair[1]))


def _known(part: str, names: set[str]) -> str:
    stem, _, number = part.rpartition("_")
    return stem if number.isdecimal() and stem in names else (part if part in names else "")


def _bytes_of(tensor: Any) -> int | None:
    if tensor.dtype in _WITHOUT_MEMORY:
        return 0
    count = tensor.shape.num_elements()
    return None if count is None else int(count) * tensor.dtype.size
