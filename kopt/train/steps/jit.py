"""Whether to compile training steps with XLA, decided by measuring both on the user's own steps."""

import statistics
from typing import Any

import keras
import tensorflow as tf

from kopt.core.records.training.steps import JitDecision
from kopt.graph.internals import flatten_layers

# With less training ahead, or behind where the end is unknown, a compilation that takes seconds does not pay.
WORTHWHILE_S = 10.0
_ROUNDS = 3
_HOPELESS = 1.5


class JitTrial:
    """Tells which form the next steps run in, until their times have decided; every measured step is a real one.

    The first timed run of a form traces, and compiles, and so counts for nothing but `compile_s`. After it the two
    take turns. XLA on a CPU makes small dense networks faster and most convolutions slower.

    Attributes:
        decision: `None` while the trial runs.
    """

    def __init__(self, setting: bool | str, refusal: str | None = None):
        """Begin.

        Args:
            setting: `True`, `False`, or `"auto"` to measure.
            refusal: why this model cannot be compiled, or `None`.
        """
        self.decision: JitDecision | None = None
        self._times: dict[bool, list[float]] = {False: [], True: []}
        self._compile_s: float | None = None
        self._plain_s = 0.0
        if setting == "auto" and refusal:
            self.decision = JitDecision(False, refusal)
        elif setting != "auto":
            self.decision = JitDecision(bool(setting), "as asked for")

    def next_form(self, steps_ahead: float | None) -> bool:
        """Return whether the next steps run compiled.

        Args:
            steps_ahead: steps that the training still has, at least; `None` if unknown.
        """
        if self.decision is not None:
            return self.decision.jit_compile
        plain, compiled = self._times[False], self._times[True]
        if len(plain) <= len(compiled):
            return False
        seconds = self._plain_s if steps_ahead is None else steps_ahead * statistics.median(plain)
        return bool(compiled) or seconds >= WORTHWHILE_S

    def decline(self, reason: str) -> None:
        """End the trial with plain steps."""
        self.decision = JitDecision(False, reason, self._median_ms(False), self._median_ms(True), self._compile_s)

    def compiled(self, seconds: float) -> None:
        """Note how long the first compiled step took."""
        self._compile_s = seconds

    def record(self, jit: bool, seconds: float, steps: int) -> None:
        """Note how long some steps of a form took, and decide when enough is known."""
        if self.decision is not None:
            return
        if not jit:
            self._plain_s += seconds
        if jit or len(self._times[False]) <= len(self._times[True]):
            self._times[jit].append(seconds / steps)
        plain, compiled = self._times[False], self._times[True]
        if not compiled or (len(compiled) < _ROUNDS and compiled[0] < _HOPELESS * plain[0]):
            return
        ratio = statistics.median(plain) / statistics.median(compiled)
        words = f"measured: compiled steps run at {ratio:.2f} times the speed of plain ones"
        self.decision = JitDecision(ratio > 1, words, self._median_ms(False), self._median_ms(True), self._compile_s)

    def undecided(self) -> JitDecision:
        """Return what is known while there is no decision: steps run plain."""
        reason = "not tried: too little training for a compilation to pay"
        return JitDecision(False, reason, self._median_ms(False), self._median_ms(True), self._compile_s)

    def _median_ms(self, jit: bool) -> float | None:
        return 1e3 * statistics.median(self._times[jit]) if self._times[jit] else None


def refusal(model: keras.Model, strategy: Any) -> str | None:
    """Return why XLA cannot compile the steps of `model`, or `None`."""
    if strategy.num_replicas_in_sync > 1 and not tf.config.list_physical_devices("GPU"):
        return "several replicas on CPUs: TensorFlow does not compile their steps"
    names = [layer.name for layer in flatten_layers(model) if not getattr(layer, "supports_jit", True)]
    if names:
        return f"layer(s) {', '.join(names[:3])} do not support XLA"
    return None
