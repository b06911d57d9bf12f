"""Training in less memory: blocks of a model whose inside is computed again in the backward pass."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from kopt.core.errors import ConfigError, UnsupportedModelError, nearest
from kopt.core.records.training.rematerialization import RematBlock, RematPlan
from kopt.graph.checks import require_built
from kopt.graph.internals import call_arguments, flatten_layers, graph_of
from kopt.train.interception import replaced
from kopt.train.internals import RUN_GRAPH
from kopt.train.memory.recomputation import recomputed
from kopt.train.memory.remat_plan import CallGraph, bytes_of, segments

Blocks = str | int | Sequence[str | keras.layers.Layer]


def rematerialized(model: keras.Model, blocks: Blocks = "auto") -> "Rematerialized":
    """Return `model` in a form whose training keeps the inputs of blocks only, and computes their inside twice.

    For a network whose activations do not fit beside its weights. Gradients, batch statistics and dropout masks are
    those of plain training; a step takes up to one forward pass, about a third, longer. The model is not changed.

    With "auto" a Functional or Sequential model is cut where the bytes between the parts plus the bytes inside the
    largest part are fewest: about sqrt(n) parts for n equal layers. The last part is not computed again, because its
    backward pass begins when its forward pass ends. If one nested model holds most activations, that one is cut.

    Args:
        model: built; Functional, Sequential or subclassed.
        blocks: `"auto"`, the number of parts, or a list. An entry of the list is a layer, its name or its path
            (`"backbone/stage2"`), best a nested model or a layer made of layers; or, for models with a graph,
            `"first..last"`: everything from the first to the last of these layers in the order in which Keras calls
            them. A block may take and give several tensors. What is in no block is trained plainly.

    Returns:
        `Rematerialized`; its `plan` says what the blocks are.

    Raises:
        ConfigError: unknown or overlapping blocks, or fewer than two parts.
        UnsupportedModelError: "auto" or a number for a subclassed model.

    Example:
        >>> lean = kopt.train.rematerialized(model, blocks=2)
        >>> with tf.GradientTape() as tape:
        ...     loss = keras.losses.SparseCategoricalCrossentropy()(y_train, lean.forward(x_train))
        >>> gradients = tape.gradient(loss, model.trainable_variables)  # those of plain training
        >>> [block.name for block in lean.plan.blocks]
        ['conv1..norm1']

    References:
        Chen, Xu, Zhang, Guestrin: Training deep nets with sublinear memory cost (arXiv:1604.06174).
    """
    check_blocks(blocks)
    require_built(model)
    if isinstance(blocks, (str, int)):
        graph, ranges = _cut(model, blocks)
        return Rematerialized(model, [(graph, ranges)], [])
    return _named(model, blocks)


def check_blocks(blocks: Any, name: str = "blocks") -> None:
    """Make sure that this is a way to name blocks, before there is a model to look for them in.

    Args:
        blocks: see `rematerialized`.
        name: of the setting, for the message.

    Raises:
        ConfigError: it is not.
    """
    named = isinstance(blocks, (list, tuple)) and bool(blocks)
    parts = isinstance(blocks, int) and not isinstance(blocks, bool) and blocks >= 2
    if not (blocks == "auto" or parts or named):
        raise ConfigError(
            f'`{name}` must be "auto", a number of parts of at least 2, or a list of layers, names or "first..last" '
            f"ranges. Received: {blocks!r}."
        )


class Rematerialized:
    """A model whose blocks are computed again in the backward pass; made by `rematerialized`.

    Attributes:
        model: the user's model itself.
        plan: the blocks, with bytes by count.

    Example:
        >>> lean = kopt.train.rematerialized(model, blocks=["conv1..relu1"])
        >>> lean.plan.blocks[0].name, lean.plan.blocks[0].recomputed_bytes  # for one example
        ('conv1..relu1', 6144)
    """

    def __init__(
        self,
        model: keras.Model,
        ranges: list[tuple[CallGraph, list[tuple[int, int]]]],
        layers: list[tuple[str, keras.layers.Layer]],
    ):
        self.model = model
        self.plan = _plan(_graphs(model), ranges, layers)
        self._ranges, self._layers = ranges, layers
        self._entered, self._lock, self._thread = 0, threading.Lock(), threading.local()
        self._replaced = contextlib.ExitStack()

    def forward(self, x: Any, *, training: bool = True, **kwargs: Any) -> Any:
        """Return `model(x, training=training)`; call it inside a `GradientTape`, in a `tf.function`."""
        if not training:
            return self.model(x, training=False, **kwargs)
        with self.active():
            return self.model(x, training=True, **kwargs)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Rematerialize every call of the model in this thread inside the block, e.g. that of a `train_step`.

        Raises:
            UnsupportedModelError: at the end, if a block was never called.
        """
        with self._lock:
            if self._entered == 0:
                self._install()
            self._entered += 1
        outer = getattr(self._thread, "reached", None)
        self._thread.reached = set()
        try:
            yield
            self._require_reached()
        finally:
            self._thread.reached = outer
            with self._lock:
                self._entered -= 1
                if self._entered == 0:
                    self._replaced.close()

    @property
    def _here(self) -> bool:
        # Not in the threads of other replicas, which enter by themselves, and not inside another block.
        return getattr(self._thread, "reached", None) is not None and not getattr(self._thread, "inside", False)

    def _install(self) -> None:
        for graph, ranges in self._ranges:
            self._replaced.enter_context(replaced(graph.graph, RUN_GRAPH, self._runner(graph, ranges)))
        for path, layer in self._layers:
            self._replaced.enter_context(replaced(layer, "call", self._caller(path, layer)))

    def _caller(self, path: str, layer: keras.layers.Layer) -> Callable[..., Any]:
        plain, layers = layer.call, flatten_layers(layer)

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._here:
                return plain(*args, **kwargs)
            self._thread.reached.add(path)
            inside = self._alone(lambda args, kwargs: plain(*args, **kwargs))
            return recomputed(inside, (args, kwargs), layers=layers, name=path)

        return call

    def _runner(self, graph: CallGraph, ranges: list[tuple[int, int]]) -> Callable[..., Any]:
        plain = getattr(graph.graph, RUN_GRAPH)
        layers = flatten_layers(graph.graph)
        parts = _parts(ranges, len(graph.nodes))

        def run(inputs: Any, operation_fn: Callable[..., Any] = _same, call_fn: Any = None) -> Any:
            values = keras.tree.flatten(inputs)
            if not self._here or call_fn is not None or any(isinstance(v, keras.KerasTensor) for v in values):
                return plain(inputs, operation_fn, call_fn)
            known = {id(tensor): value for tensor, value in zip(graph.graph.inputs, values, strict=True)}
            for start, stop, again in parts:
                if not again:
                    _call(graph.nodes[start:stop], known, operation_fn)
                    continue
                name = _range_name(graph, start, stop)
                self._thread.reached.add(name)
                taken, given = graph.inputs(start, stop), graph.outputs(start, stop)
                inside = self._alone(_segment(graph.nodes[start:stop], taken, given, operation_fn))
                results = recomputed(inside, tuple(known[id(t)] for t in taken), layers=layers, name=name)
                known.update({id(tensor): result for tensor, result in zip(given, results, strict=True)})
            return keras.tree.pack_sequence_as(graph.graph.output, [known[id(t)] for t in graph.graph.outputs])

        return run

    def _alone(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` for use as a block: what is a block itself is plain inside it."""

        def inside(*args: Any) -> Any:
            before = getattr(self._thread, "inside", False)
            self._thread.inside = True
            try:
                return function(*args)
            finally:
                self._thread.inside = before

        return inside

    def _require_reached(self) -> None:
        missing = [block.name for block in self.plan.blocks if block.name not in self._thread.reached]
        if missing:
            raise UnsupportedModelError(
                f"The block(s) {', '.join(missing)} of model {self.model.name!r} were not called in training, so "
                f"nothing of them is rematerialized. Leave them out of `blocks`; a quantized layer, or one whose "
                f"owner calls a method other than `__call__`, cannot be a block."
            )


def _same(operation: Any) -> Any:
    return operation


def _cut(model: keras.Model, blocks: str | int) -> tuple[CallGraph, list[tuple[int, int]]]:
    graph = graph_of(model)
    if graph is None:
        names = [layer.name for layer in model.layers if len(flatten_layers(layer)) > 1]
        raise UnsupportedModelError(
            f"Model {model.name!r} is of the class {type(model).__module__}.{type(model).__qualname__}, whose `call` "
            f"is Python code: it cannot be cut into parts. Pass `blocks` as a list of its layers"
            f"{', e.g. ' + repr(names) if names else ''}."
        )
    calls = CallGraph.of(graph).largest
    if isinstance(blocks, int) and blocks > len(calls.nodes):
        raise ConfigError(
            f"Model {model.name!r} makes {len(calls.nodes)} calls, so it can be cut into 2 to {len(calls.nodes)} "
            f"parts. Received: blocks={blocks}."
        )
    found = segments(calls.call_bytes, calls.tensors, None if blocks == "auto" else int(blocks))
    return calls, found[:-1]


def _named(model: keras.Model, blocks: Sequence[str | keras.layers.Layer]) -> Rematerialized:
    graphs = _graphs(model)
    ranges: dict[int, tuple[CallGraph, list[tuple[int, int]]]] = {}
    layers: list[tuple[str, keras.layers.Layer]] = []
    for block in blocks:
        if isinstance(block, str) and ".." in block:
            graph, span = _range(block, graphs, model)
            ranges.setdefault(id(graph), (graph, []))[1].append(span)
        else:
            layers.append(_layer(block, model))
    for _, spans in ranges.values():
        spans.sort()
    _refuse_overlap(list(ranges.values()), layers)
    return Rematerialized(model, list(ranges.values()), layers)


def _graphs(model: keras.Model) -> list[CallGraph]:
    """Return the graph of `model` and those of the nested models in it; none for a subclassed model."""
    graph = graph_of(model)
    found = [] if graph is None else [CallGraph.of(graph)]
    for outer in found:
        inner = {id(node.operation): node.operation for node in outer.nodes if graph_of(node.operation) is not None}
        found.extend(CallGraph.of(graph_of(one), f"{outer.prefix}{one.name}/") for one in inner.values())
    return found


def _range(block: str, graphs: list[CallGraph], model: keras.Model) -> tuple[CallGraph, tuple[int, int]]:
    first, last = block.split("..", 1)
    for graph in graphs:
        paths = [graph.path(index) for index in range(len(graph.nodes))]
        if first in paths and last in paths:
            start, stop = paths.index(first), len(paths) - paths[::-1].index(last)
            if start >= stop:
                raise ConfigError(f"{last!r} is called before {first!r}, so {block!r} holds nothing. Exchange them.")
            return graph, (start, stop)
    known = [graph.path(index) for graph in graphs for index in range(len(graph.nodes))]
    unknown = [name for name in (first, last) if name not in known]
    why = f"{unknown[0]!r} is no layer of it.{nearest(unknown[0], known)}" if unknown else "They lie in two graphs."
    raise ConfigError(f"{block!r} is no range of layers in the graph of model {model.name!r}: {why}")


def _layer(block: str | keras.layers.Layer, model: keras.Model) -> tuple[str, keras.layers.Layer]:
    inside = flatten_layers(model)[1:]
    paths = {id(layer): layer.path or layer.name for layer in inside}
    if isinstance(block, keras.layers.Layer):
        found = [layer for layer in inside if layer is block]
    else:
        ends = f"/{block}"
        found = [one for one in inside if one.name == block or f"/{paths[id(one)]}".endswith(ends)]
    if len(found) == 1:
        return paths[id(found[0])], found[0]
    names = [layer.name for layer in inside]
    shown = block if isinstance(block, str) else getattr(block, "name", block)
    if not found:
        raise ConfigError(f"{shown!r} is no layer of model {model.name!r}.{nearest(str(shown), names)}")
    where = ", ".join(paths[id(layer)] for layer in found)
    raise ConfigError(
        f"Model {model.name!r} has {len(found)} layers called {shown!r}: {where}. Give the path or layer."
    )


def _refuse_overlap(
    ranges: list[tuple[CallGraph, list[tuple[int, int]]]], layers: list[tuple[str, keras.layers.Layer]]
) -> None:
    taken: dict[int, str] = {}
    groups = [(path, flatten_layers(layer)) for path, layer in layers]
    for graph, spans in ranges:
        for (_, stop), (start, _) in itertools.pairwise(spans):
            if start < stop:
                raise ConfigError(f"Two ranges of `blocks` overlap at {graph.path(start)!r}. Leave one out.")
        for start, stop in spans:
            called = [node.operation for node in graph.nodes[start:stop]]
            inside = [one for layer in called if isinstance(layer, keras.layers.Layer) for one in flatten_layers(layer)]
            groups.append((_range_name(graph, start, stop), list({id(one): one for one in inside}.values())))
    for name, inside in groups:
        for layer in inside:
            if id(layer) in taken:
                raise ConfigError(f"Layer {layer.name!r} is in two blocks: {taken[id(layer)]!r} and {name!r}.")
            taken[id(layer)] = name


def _range_name(graph: CallGraph, start: int, stop: int) -> str:
    return f"{graph.path(start)}..{graph.path(stop - 1)}"


def _plan(
    graphs: list[CallGraph],
    ranges: list[tuple[CallGraph, list[tuple[int, int]]]],
    layers: list[tuple[str, keras.layers.Layer]],
) -> RematPlan:
    blocks = []
    for graph, spans in ranges:
        for start, stop in spans:
            kept = sum(bytes_of(tensor) for tensor in graph.inputs(start, stop))
            inside = sum(graph.call_bytes[start:stop])
            blocks.append(RematBlock(_range_name(graph, start, stop), stop - start, kept, inside))
    for path, layer in layers:
        blocks.append(RematBlock(path, max(1, len(flatten_layers(layer)) - 1), *_bytes_of_layer(layer, graphs)))
    return RematPlan(tuple(blocks))


def _bytes_of_layer(layer: keras.layers.Layer, graphs: list[CallGraph]) -> tuple[int | None, int | None]:
    """Return the bytes that one call of a layer takes and makes, where a graph holds the call."""
    for graph in graphs:
        for index, node in enumerate(graph.nodes):
            if node.operation is layer:
                return sum(bytes_of(tensor) for tensor in node.input_tensors), graph.call_bytes[index]
    return None, None


def _parts(ranges: list[tuple[int, int]], size: int) -> list[tuple[int, int, bool]]:
    """Return the whole sequence of calls as `(start, stop, computed again)`."""
    parts, done = [], 0
    for start, stop in ranges:
        parts += [(done, start, False), (start, stop, True)]
        done = stop
    return [part for part in [*parts, (done, size, False)] if part[0] < part[1]]


def _call(nodes: Sequence[Any], known: dict[int, Any], operation_fn: Callable[..., Any]) -> None:
    """Make the calls, taking tensors from `known` and adding those they give."""
    for node in nodes:
        args, kwargs = keras.tree.map_structure(
            lambda value: known[id(value)] if isinstance(value, keras.KerasTensor) else value, call_arguments(node)
        )
        results = keras.tree.flatten(operation_fn(node.operation)(*args, **kwargs))
        known.update({id(tensor): result for tensor, result in zip(node.outputs, results, strict=True)})


def _segment(
    nodes: Sequence[Any], taken: list[Any], given: list[Any], operation_fn: Callable[..., Any]
) -> Callable[..., list[Any]]:
    def inside(*values: Any) -> list[Any]:
        known = {id(tensor): value for tensor, value in zip(taken, values, strict=True)}
        _call(nodes, known, operation_fn)
        return [known[id(tensor)] for tensor in given]

    return inside
