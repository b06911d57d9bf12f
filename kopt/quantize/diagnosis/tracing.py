"""A quantization-aware model traced once, with a switch at everything that rounds."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from kopt.graph import Call, GraphView
from kopt.graph.running import run
from kopt.profile.layer_sensitivity.cuts import Cuttable
from kopt.quantize.activations import Composite
from kopt.quantize.diagnosis.operators import Operator, OperatorFinder
from kopt.quantize.judged import before_choice
from kopt.quantize.ranges import FixedQuantizer, OutputRange, Quantizer
from kopt.quantize.weights import QuantizedWeights
from kopt.train.interception import replaced


@dataclasses.dataclass(frozen=True, eq=False)
class Switched:
    """An operator in the trace.

    Attributes:
        operator: what it computes.
        taken: its output before it is rounded.
        given: behind that.
        switches: booleans that round its output and what lies inside it; all are false unless they are fed.
        bits: of its weights, a scalar of type int32 that is 0 unless it is fed: they are not rounded; `None` without.
        input_step: of the grid of what its kernel takes; `None` if there is none.
    """

    operator: Operator
    taken: tf.Tensor
    given: tf.Tensor
    switches: tuple[tf.Tensor, ...]
    bits: tf.Tensor | None
    input_step: Any

    @property
    def leaves(self) -> tuple[tf.Tensor, ...]:
        """Everything that can be fed."""
        return self.switches if self.bits is None else (*self.switches, self.bits)

    def settings(self, *, rounds: bool = True, bits: int | None = None) -> list[Any]:
        """Return what is fed to `leaves`.

        Args:
            rounds: its output, and what lies inside it.
            bits: of its weights, 0 for none; `None` for those of the layer.
        """
        own = [] if self.operator.weights is None else [self.operator.weights.bits if bits is None else bits]
        return [rounds] * len(self.switches) + own


class RoundedTrace(Cuttable):
    """The forward pass of a quantization-aware model in inference, every rounding of it with a switch.

    Attributes:
        operators: in order.
        outputs: of the model, flat; of an argmax what it is taken of, if they are to be judged.
        behind: numbers of the operators that give the outputs.
        passed_on: numbers of those whose rounded outputs go through concatenation and the like to an output.
    """

    def __init__(self, model: keras.Model, *, judged: bool = True):
        """Trace `model`; it is not changed."""
        view = GraphView.of(model)
        self.operators: list[Switched] = []
        self._bits: dict[int, tf.Tensor] = {}
        self._steps: dict[int, Any] = {}
        self._pending: list[tf.Tensor] = []
        inside: dict[int, list[tf.Tensor]] = {}
        finder = OperatorFinder()
        wanted = {id(before_choice(view, tensor)) for tensor in view.outputs} if judged else set()
        seen: dict[int, tf.Tensor] = {}

        def look(path: str, call: Call, taken: Sequence[Any], given: Sequence[Any]) -> None:
            switches, self._pending = self._pending, []
            inside[id(call)] = switches
            seen.update({id(one): value for one, value in zip(call.outputs, given, strict=True) if id(one) in wanted})
            found = finder.follow(call)
            if found is not None:
                inner = [switch for part in found.calls for switch in inside[id(part)]]
                self.operators.append(self._switched(found, taken[0], given[0], [*inner, *switches]))

        def forward(*leaves: Any) -> None:
            self.inputs = list(leaves)
            with self._switching(view):
                outputs = run(view, leaves, look)
            places = [id(before_choice(view, tensor)) for tensor in view.outputs]
            self.outputs = [seen.get(place, output) for place, output in zip(places, outputs, strict=True)]

        specs = [tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype) for tensor in view.inputs]
        super().__init__(forward, specs)
        self.behind = finder.behind(view.outputs)
        self.passed_on = finder.passed_on(view.outputs)

    @property
    def leaves(self) -> list[tf.Tensor]:
        """All switches and bits, each once."""
        return list({leaf.ref(): leaf for one in self.operators for leaf in one.leaves}.values())

    def settings(self, chosen: Callable[[Switched], list[Any]]) -> list[Any]:
        """Return what is fed to `leaves`, from what is fed to those of each operator."""
        fed = {leaf.ref(): value for one in self.operators for leaf, value in zip(one.leaves, chosen(one), strict=True)}
        return list(fed.values())

    def _switched(self, operator: Operator, taken: Any, given: Any, switches: list[tf.Tensor]) -> Switched:
        weights = operator.weights
        bits = None if weights is None else self._bits[id(weights)]
        return Switched(operator, taken, given, tuple(switches), bits, self._steps.get(id(weights)))

    @contextlib.contextmanager
    def _switching(self, view: GraphView) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for layer in view.layers:
                if isinstance(layer, QuantizedWeights):
                    stack.enter_context(replaced(layer, "call", self._weights(layer)))
                elif isinstance(layer, Quantizer) and not isinstance(layer, OutputRange):
                    stack.enter_context(replaced(layer, "call", self._quantizer(layer)))
                elif isinstance(layer, FixedQuantizer):
                    stack.enter_context(replaced(layer, "call", self._optional(layer.call)))
                elif isinstance(layer, Composite):
                    stack.enter_context(replaced(layer, "_rounded", self._optional(layer._rounded)))
            yield

    def _optional(self, rounded: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that rounds if its switch is on."""

        def call(inputs: Any, *args: Any, **_: Any) -> Any:
            switch = tf.identity(tf.constant(False))
            self._pending.append(switch)
            # A condition, not a choice: what is switched off costs nothing.
            chosen = tf.cond(switch, lambda: rounded(inputs, *args), lambda: tf.identity(inputs))
            chosen.set_shape(inputs.shape)
            return chosen

        return call

    def _quantizer(self, layer: Quantizer) -> Callable[..., Any]:
        plain = layer.call

        def call(inputs: Any, site: int = -1, ties: str = "", positive: bool = False, **_: Any) -> Any:
            _, step = plain(inputs, site=-1, ties=ties)
            return self._optional(lambda x: plain(x, site=-1, ties=ties)[0])(inputs), step

        return call

    def _weights(self, layer: QuantizedWeights) -> Callable[..., Any]:
        def call(inputs: Any, step: Any = None, **_: Any) -> Any:
            if id(layer) not in self._bits:
                self._bits[id(layer)] = tf.identity(tf.constant(0))
            self._steps[id(layer)] = step
            bits = self._bits[id(layer)]
            exact, rounded = layer.exact_weights(), layer.rounded_weights(step, tf.maximum(bits, 2))
            kernel, bias = (tf.where(bits > 0, new, old) for new, old in zip(rounded, exact, strict=True))
            return layer.apply(inputs, kernel, bias)

        return call
