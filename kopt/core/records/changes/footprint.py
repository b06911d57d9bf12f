"""What a transform saved, measured on the exported files: frozen, serialisable."""

import dataclasses

from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class Footprint(Record):
    """What a model costs as the file that ships.

    Attributes:
        parameters: of the model.
        nonzero_parameters: of them, all but the zeros in kernels and embeddings.
        macs: multiply-accumulates for one example, of the layers whose count is known; zeros are multiplied, too.
        size_bytes, gzip_bytes: of the exported file, raw and after gzip.
        latency_ms: median milliseconds of a call with one example.
        least_ms: of the quickest call: far below the median where something else was running.
    """

    parameters: int
    nonzero_parameters: int
    macs: int
    size_bytes: int
    gzip_bytes: int
    latency_ms: float
    least_ms: float


@dataclasses.dataclass(frozen=True)
class Footprints(Record):
    """A model before and after, in the same runtime on the same machine, timed in turns.

    Attributes:
        before, after: the two models.
        format: of the files, `"tflite"` or `"onnx"`, float32.
        runtime: name and version.
        threads: of the runtime.
        processor: of the machine.
    """

    before: Footprint
    after: Footprint
    format: str
    runtime: str
    threads: int
    processor: str

    @property
    def speedup(self) -> float:
        """How many times as fast the model is after."""
        return self.before.latency_ms / self.after.latency_ms
