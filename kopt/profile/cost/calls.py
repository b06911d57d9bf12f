"""What one call costs: by a formula of the user's, by one of kopt's, or by the operations it is traced to."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import keras

from kopt.core.errors import ConfigError
from kopt.core.records.profiles.cost import LayerCost
from kopt.graph import layer_paths
from kopt.graph.configs import config_of
from kopt.graph.internals import inner_layers
from kopt.profile.cost.flat import FlatCall
from kopt.profile.cost.formulas import layer_cost, operation_cost
from kopt.profile.cost.memory import bytes_of, item_bytes, weight_bytes
from kopt.profile.cost.operands import operand_shapes
from kopt.profile.cost.shapes import Cost, OpenSizeError, Shape
from kopt.profile.cost.traced import Arithmetic
from kopt.profile.cost.watching import WatchedCall, opens, watch

UserFormula: TypeAlias = Callable[[Any, tuple[Shape, ...], Shape], int | None]
# A cost for all examples of the shapes, or none and the reason for it.
_Counted: TypeAlias = tuple[Cost | None, str]
_OPEN = "A size is open: pass `data`."
_REPEATED = "It runs in a loop or branch of TensorFlow, nobody knows how often."


class Accounts:
    """Makes the records of calls; parameters count at the first call that has them.

    Args:
        formulas: of the user, by class name.
        batch: examples in the shapes that the calls come with.
    """

    def __init__(self, formulas: Mapping[str, UserFormula], batch: int = 1):
        self._formulas, self._batch = formulas, batch
        self._counted: set[int] = set()

    def of_call(self, call: FlatCall, shown: Shape) -> Iterable[LayerCost]:
        """Yield the record of a call in a graph; of a layer of the user with layers inside, theirs.

        Args:
            call: with sizes that are known.
            shown: shape of its first output as the record has it.
        """
        operation, output = call.operation, call.output_shapes[0]
        args, kwargs = call.with_shapes(call.call.arguments)
        is_open = any(None in shape for shape in call.input_shapes)
        if isinstance(operation, keras.layers.Layer) and opens(operation, self._formulas) and not is_open:
            paths = {key: f"{call.path}/{path}" for key, path in layer_paths(operation).items()}
            paths[id(operation)] = call.path
            yield from self.of_watched(watch(operation, args, kwargs, self._formulas), paths)
            return
        counted = self._counted_by_formula(operation, operand_shapes(operation, operation.call, args, kwargs), output)
        counted = counted or _traced(operation, watch(operation, args, kwargs)[0].own)
        read, made = bytes_of(call.input_shapes, call.call.inputs), bytes_of(call.output_shapes, call.call.outputs)
        yield self._whole(call.path, operation, shown, counted, read, made)

    def of_watched(self, calls: Iterable[WatchedCall], paths: Mapping[int, str]) -> Iterable[LayerCost]:
        """Yield the records of calls that were watched.

        Args:
            calls: in the order in which they begin.
            paths: of their layers, by the layer's id.
        """
        numbers: dict[int, int] = {}
        for call in calls:
            number = numbers[id(call.layer)] = numbers.get(id(call.layer), 0) + 1
            path = paths[id(call.layer)] + (f" (call {number})" if number > 1 else "")
            output = call.outputs[0] if call.outputs else ()
            shown = (None, *output[1:]) if output else ()
            if call.opened:
                yield from self._opened(call, path, shown)
                continue
            counted = self._counted_by_formula(call.layer, call.operands, output) or _traced(call.layer, call.own)
            counted = (None, _REPEATED) if call.repeated else counted
            yield self._whole(path, call.layer, shown, counted, call.input_bytes, call.output_bytes)

    def _opened(self, call: WatchedCall, path: str, shown: Shape) -> Iterable[LayerCost]:
        """Yield what a layer computes besides the layers inside it, if it is anything."""
        inner = {id(variable) for layer in inner_layers(call.layer) for variable in layer.variables}
        own = _unique(variable for variable in call.layer.weights if id(variable) not in inner)
        cost, reason = (None, _REPEATED) if call.repeated else _traced(call.layer, call.own)
        if own or cost is None or cost.flops:
            moved = (None, None) if cost is None else (call.own.read_bytes, call.own.made_bytes)
            # The operations read the variables.
            yield self._record(path, call.layer, shown, (cost, reason), moved, self._new(own), [])

    def unseen(self, layer: keras.layers.Layer, path: str, reason: str) -> Iterable[LayerCost]:
        """Yield the parameters of a layer that were not counted yet, if there are any."""
        own = self._new(layer.weights)
        if own:
            yield self._record(path, layer, (), (None, reason), (None, None), own, own)

    def _counted_by_formula(self, operation: Any, operands: tuple[Shape, ...], output: Shape) -> _Counted | None:
        """Return the cost for all examples of the shapes, or why it is not known; `None` if there is no formula."""
        user = self._formulas.get(type(operation).__name__)
        if user is not None:
            return _by_user(user, operation, operands, output, self._batch)
        try:
            cost = _by_formula(operation, operands, output)
        except OpenSizeError:
            return None, _OPEN
        if cost is None:
            return (None, _OPEN) if any(None in shape for shape in (*operands, output)) else None
        return cost, ""

    def _whole(
        self, path: str, operation: Any, shown: Shape, counted: _Counted, read: int | None, made: int | None
    ) -> LayerCost:
        """Return the record of a layer or operation with everything inside it."""
        reads = _unique(getattr(operation, "weights", ()))
        new = self._new(reads)
        if isinstance(operation, keras.layers.Embedding) and made is not None and read is not None:
            # The rows that are looked up, in the place of the whole table.
            read += made // item_bytes(operation.compute_dtype) * item_bytes(operation.variable_dtype)
            reads = []
        return self._record(path, operation, shown, counted, (read, made), new, reads)

    def _record(
        self,
        path: str,
        operation: Any,
        shown: Shape,
        counted: _Counted,
        moved: tuple[int | None, int | None],
        new: list[Any],
        reads: list[Any],
    ) -> LayerCost:
        cost, reason = counted
        read, made = moved
        return LayerCost(
            name=path,
            type=type(operation).__name__,
            output_shape=shown,
            parameters=sum(math.prod(variable.shape) for variable in new),
            macs=self._of_one(None if cost is None else cost.macs),
            flops=self._of_one(None if cost is None else cost.flops),
            weight_bytes=sum(map(weight_bytes, new)),
            input_bytes=self._of_one(read),
            activation_bytes=self._of_one(made),
            reason=reason,
            read_weight_bytes=sum(map(weight_bytes, reads)),
            groups=operation.groups if isinstance(operation, keras.layers.Conv2D) else 1,
        )

    def _of_one(self, total: int | None) -> int | None:
        """Return the share of one example, rounded up."""
        return None if total is None else -(-total // self._batch)

    def _new(self, variables: Iterable[Any]) -> list[Any]:
        """Return the variables that no call has counted yet, and count them."""
        new = [variable for variable in _unique(variables) if id(variable) not in self._counted]
        self._counted.update(map(id, new))
        return new


def _unique(variables: Iterable[Any]) -> list[Any]:
    return list({id(variable): variable for variable in variables}.values())


def _by_user(formula: UserFormula, operation: Any, operands: tuple[Shape, ...], output: Shape, batch: int) -> _Counted:
    macs = formula(operation, operands, output)
    if macs is None:
        return None, "Your formula gives None."
    if isinstance(macs, bool) or int(macs) != macs or macs < 0:
        raise ConfigError(
            f"The formula of {type(operation).__name__} must return a whole number of multiply-accumulates or None. "
            f"Received: {macs!r}."
        )
    return Cost(int(macs) * batch), ""


def _by_formula(operation: Any, operands: tuple[Shape, ...], output: Shape) -> Cost | None:
    kind = type(operation)
    if not kind.__module__.startswith("keras."):
        return None  # A user's class may bear the name of a Keras layer and do something else.
    if isinstance(operation, keras.layers.Layer):
        return layer_cost(kind.__name__, config_of(operation), operands, output)
    settings = {name: value for name, value in vars(operation).items() if not name.startswith("_")}
    return operation_cost(kind.__name__, settings, operands, output)


def _traced(operation: Any, own: Arithmetic) -> _Counted:
    if not own.unknown:
        return Cost(own.macs, own.elementwise), ""
    kinds = ", ".join(own.unknown[:3])
    advice = ": give its multiply-accumulates with `formulas`" if isinstance(operation, keras.layers.Layer) else ""
    return None, f"There is no formula for {type(operation).__name__}, which computes with {kinds}{advice}."
