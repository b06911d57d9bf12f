"""What the devices are good at, and the precision that follows."""

import dataclasses

from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class GpuInfo(Record):
    """A GPU as TensorFlow describes it.

    Attributes:
        compute_capability: of an NVIDIA GPU, e.g. `(8, 0)`; `None` where there is none.
    """

    name: str
    compute_capability: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Hardware(Record):
    """What a training runs on, as far as the choice of a precision depends on it.

    Attributes:
        cpu: name of the processor.
        cpu_flags: instruction sets as Linux spells them, e.g. `"avx512_bf16"`; empty where they are not known.
        gpus: that TensorFlow may use.
        tpus: number of TPU cores.
    """

    cpu: str
    cpu_flags: tuple[str, ...] = ()
    gpus: tuple[GpuInfo, ...] = ()
    tpus: int = 0


@dataclasses.dataclass(frozen=True)
class PrecisionChoice(Record):
    """A dtype policy and why it was chosen.

    Attributes:
        policy: `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.
        reason: in words.
        device: the device that decided.
    """

    policy: str
    reason: str
    device: str

    def __str__(self) -> str:
        return f"{self.policy} on {self.device}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class DeviceChange(Record):
    """A setting of TensorFlow's devices that was changed for this process.

    Attributes:
        setting: what was set.
        devices: that it holds for; empty if there is none, so that nothing was changed.
        effect: what it does and costs, in words.
    """

    setting: str
    devices: tuple[str, ...]
    effect: str

    def __str__(self) -> str:
        return f"{self.setting} ({', '.join(self.devices) or 'no such device'}): {self.effect}"
