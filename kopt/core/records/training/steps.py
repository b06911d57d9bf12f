"""Training steps and accelerated training: what is asked for and what was chosen."""

import dataclasses

from kopt.core.errors import ConfigError
from kopt.core.records.training.rematerialization import RematPlan
from kopt.core.serialization import Record
from kopt.core.settings import number, whole

CLIPPINGS = ("clip_norm", "clip_value", "global_clip_norm", "adaptive_clip")


@dataclasses.dataclass(frozen=True)
class StepConfig(Record):
    """How a training step treats gradients; the request of `make_train_step` and `accelerate`.

    Attributes:
        accumulate_steps: batches whose gradients are averaged before one update of the weights, at least 1.
        clip_norm: largest L2 norm of each gradient; `None` does not clip. At most one of the four clippings is set.
        clip_value: largest absolute value of an entry.
        global_clip_norm: largest L2 norm of all gradients together.
        adaptive_clip: largest ratio of the norm of a unit's gradient to that of its weights, e.g. 0.01.
        skip_nonfinite: leave out an update whose loss or gradient is NaN or infinite, and count it.
        max_nonfinite_steps: so many such steps in a row end the training with an error, at least 1.
        log_gradient_norm: add the mean L2 norm of the gradients, before clipping, to the logs as `gradient_norm`.
        jit_compile: compile the step with XLA; `"auto"` measures both on the first steps.
    """

    accumulate_steps: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    global_clip_norm: float | None = None
    adaptive_clip: float | None = None
    skip_nonfinite: bool = True
    max_nonfinite_steps: int = 20
    log_gradient_norm: bool = False
    jit_compile: bool | str = "auto"

    def __post_init__(self) -> None:
        for name in ("accumulate_steps", "max_nonfinite_steps"):
            whole(name, getattr(self, name))
        given = [name for name in CLIPPINGS if getattr(self, name) is not None]
        for name in given:
            number(name, getattr(self, name), least=0.0, open_below=True)
        if len(given) > 1:
            raise ConfigError(f"Gradients are clipped in one way. Received: {', '.join(given)}. Set one of them.")
        if self.jit_compile not in (True, False, "auto"):
            raise ConfigError(f"`jit_compile` must be True, False or 'auto'. Received: {self.jit_compile!r}.")


@dataclasses.dataclass(frozen=True)
class JitDecision(Record):
    """Whether training steps are compiled with XLA, and the measurement behind it.

    Attributes:
        jit_compile: what was chosen.
        reason: why, in words.
        plain_step_ms, jit_step_ms: median milliseconds of a step; `None` if not measured.
        compile_s: seconds that tracing and compiling took; `None` if not compiled.
    """

    jit_compile: bool
    reason: str
    plain_step_ms: float | None = None
    jit_step_ms: float | None = None
    compile_s: float | None = None


@dataclasses.dataclass(frozen=True)
class AccelerationReport(Record):
    """What an accelerated `fit` chose and found.

    Attributes:
        jit: whether steps are compiled, and why.
        steps_per_call: steps in one call of the graph, as measured.
        loss_scaling: whether the loss is scaled, because float16 gradients would vanish otherwise.
        remat: what is computed again in the backward pass, with the bytes that this saves; `None` if nothing is.
        notes: what the reader should know of data and model.
    """

    jit: JitDecision
    steps_per_call: int
    loss_scaling: bool
    remat: RematPlan | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        form = "compiled" if self.jit.jit_compile else "plain"
        lines = [f"Steps run {form} ({self.jit.reason}), {self.steps_per_call} in a call of the graph."]
        if self.loss_scaling:
            lines.append("The loss is scaled for float16 gradients.")
        return "\n".join(
            [*lines, *([str(self.remat)] if self.remat else []), *(f"Note: {note}" for note in self.notes)]
        )
