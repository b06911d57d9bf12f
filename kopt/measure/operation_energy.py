"""Energy from what is computed and moved: an estimate for machines without a meter, the same on every one of them."""

import dataclasses

from kopt.core.settings import choice, whole

# Picojoules of a multiplication and an addition at 45 nm and 0.9 V: M. Horowitz, "Computing's energy problem (and what
# we can do about it)", ISSCC 2014, figure 1.1.9. Integers are added up in 32 bits. The figure has no 16-bit integers;
# multipliers grow with the square of the width, hence four times the 0.2 of 8 bits.
MAC_PICOJOULES = {"float32": 3.7 + 0.9, "float16": 1.1 + 0.4, "int16": 4 * 0.2 + 0.1, "int8": 0.2 + 0.1}
# The same figure: 1.3 nJ for 64 bits from DRAM, its lower end.
BYTE_PICOJOULES = 1300.0 / 8


@dataclasses.dataclass(frozen=True)
class Work:
    """What one example takes.

    Attributes:
        macs: multiply-accumulates.
        moved_bytes: weights, inputs and outputs of all layers, each once.
        dtype: that is computed in: `"float32"`, `"float16"`, `"int16"` or `"int8"`.

    Example:
        >>> work = kopt.measure.Work(macs=16_416, moved_bytes=90_000, dtype="int8")
        >>> used = kopt.measure.energy("model.tflite", work=work, meter="operations")
        >>> used.method
        'estimate: 16,416 int8 multiply-accumulates at ... pJ and 90,000 bytes moved at ... pJ (Horowitz ...'
    """

    macs: int
    moved_bytes: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        whole("macs", self.macs, least=0)
        whole("moved_bytes", self.moved_bytes, least=0)
        choice("dtype", self.dtype, tuple(MAC_PICOJOULES))

    @property
    def millijoules(self) -> float:
        """`macs` and `moved_bytes`, each at its price."""
        picojoules = self.macs * MAC_PICOJOULES[self.dtype] + self.moved_bytes * BYTE_PICOJOULES
        return picojoules * 1e-9

    @property
    def method(self) -> str:
        """The model, in words."""
        return (
            f"estimate: {self.macs:,} {self.dtype} multiply-accumulates at {MAC_PICOJOULES[self.dtype]:g} pJ and "
            f"{self.moved_bytes:,} bytes moved at {BYTE_PICOJOULES:g} pJ (Horowitz 2014, 45 nm); not measured"
        )
