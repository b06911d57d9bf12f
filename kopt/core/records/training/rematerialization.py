"""Which activations are computed again, and what that costs."""

import dataclasses

from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class RematBlock(Record):
    """A part of a model that is computed again in the backward pass.

    Attributes:
        name: path of the layer, or `"first..last"`.
        calls: layers and operations in it.
        kept_bytes: of the tensors it takes, which stay in memory, for one example, by shape; `None` if no graph tells.
            A dimension that is not fixed counts as 1.
        recomputed_bytes: of what the calls inside give, which does not stay, for one example; `None` if no graph tells.
    """

    name: str
    calls: int
    kept_bytes: int | None
    recomputed_bytes: int | None


@dataclasses.dataclass(frozen=True)
class RematPlan(Record):
    """The parts of a model that are computed again; what is in none of them is trained plainly."""

    blocks: tuple[RematBlock, ...]

    def __str__(self) -> str:
        if not self.blocks:
            return "Nothing is rematerialized: the model is too small for parts to need less memory than the whole."
        lines = [f"{len(self.blocks)} block(s) are computed again in the backward pass:"]
        for block in self.blocks:
            known = block.kept_bytes is not None and block.recomputed_bytes is not None
            size = f"{block.kept_bytes:,} bytes an example kept, {block.recomputed_bytes:,} not" if known else ""
            lines.append(f"  {block.name} ({block.calls} calls{', ' + size if size else ''})")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class RematReport(Record):
    """Memory and time of training steps, plain and rematerialized.

    Attributes:
        batch_size: examples a step.
        device: `"CPU"` or the GPU's name.
        method: how the memory was measured, in a sentence.
        jit_compile: whether the steps were compiled with XLA.
        plain_peak_bytes, remat_peak_bytes: how far memory rose above what it was before the first step; `None` for the
            plain step if it does not fit into memory.
        plain_step_ms, remat_step_ms: medians of steps in turn, after one that is not counted.
        plan: the blocks.
    """

    batch_size: int
    device: str
    method: str
    jit_compile: bool
    plain_peak_bytes: int | None
    remat_peak_bytes: int
    plain_step_ms: float | None
    remat_step_ms: float
    plan: RematPlan

    @property
    def memory_ratio(self) -> float | None:
        """Rematerialized over plain peak; `None` if the plain step does not fit."""
        return self.remat_peak_bytes / self.plain_peak_bytes if self.plain_peak_bytes else None

    @property
    def time_ratio(self) -> float | None:
        """Rematerialized over plain step time; `None` if the plain step does not fit."""
        return self.remat_step_ms / self.plain_step_ms if self.plain_step_ms else None

    def __str__(self) -> str:
        ours = f"{self.remat_peak_bytes / 2**20:.0f} MiB and {self.remat_step_ms:.1f} ms a step rematerialized"
        start = f"Batch of {self.batch_size} on {self.device}: {ours}"
        if not self.plain_peak_bytes or not self.plain_step_ms:
            return f"{start}; the plain step does not fit into memory. {self.method}"
        return (
            f"{start}, {self.plain_peak_bytes / 2**20:.0f} MiB and {self.plain_step_ms:.1f} ms plain "
            f"({self.memory_ratio:.2f} and {self.time_ratio:.2f} times). {self.method}"
        )
