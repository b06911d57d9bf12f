"""How many bits the weights of each layer get: frozen, serialisable, to be applied again."""

import dataclasses

from kopt.core.serialization import Record

# Bits that the weights of an integer operator can have in a file.
WEIGHT_BITS = (4, 8)


@dataclasses.dataclass(frozen=True)
class LayerBits(Record):
    """The bits of one layer.

    Attributes:
        layer: path.
        type: its class.
        weights: in its kernels.
        bits: of a weight.
        noise: with 4 and with 8 bits, this layer alone: power of the error of the outputs over that of the outputs.
    """

    layer: str
    type: str
    weights: int
    bits: int
    noise: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class BitsPlan(Record):
    """The bits of all layers that fit a budget with the least error, as measured layer by layer.

    Attributes:
        model: name.
        budget_bytes: of all kernels together.
        size_bytes: that they take.
        layers: in order of the model.
        output_db: signal-to-quantization-noise ratio of the outputs, everything rounded with these bits.
        widest_db: likewise with 8 bits everywhere.
        narrowest_db: likewise with 4 bits everywhere.
        examples: that it was measured on.
    """

    model: str
    budget_bytes: int
    size_bytes: int
    layers: tuple[LayerBits, ...]
    output_db: float
    widest_db: float
    narrowest_db: float
    examples: int

    @property
    def bits(self) -> dict[str, int]:
        """Bits by the path of the layer."""
        return {one.layer: one.bits for one in self.layers}
