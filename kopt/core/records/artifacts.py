"""An exported file: what it is, what it takes and gives, and how near it is to its model."""

import dataclasses
from pathlib import Path

from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class TensorInfo(Record):
    """An input or output of a model or file.

    Attributes:
        name: as the file knows it.
        shape: dimensions, `None` where any size is accepted.
        dtype: NumPy name, e.g. `"float32"`.
        scale: real value of one quantization step; `None` if not quantized.
        zero_point: the integer that stands for 0.0; `None` if not quantized.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclasses.dataclass(frozen=True)
class OperatorCount(Record):
    """How often an operator stands in a file, computing on which type."""

    name: str
    dtype: str
    count: int


@dataclasses.dataclass(frozen=True)
class OutputParity(Record):
    """Differences of one output between two runners, over all examples.

    NaN is counted, never averaged away: the distances are over the elements that are finite on both sides.

    Attributes:
        max_abs, mean_abs, rmse: of `a - b`; NaN if no element is finite on both sides.
        reference_rms: root mean square of `b`.
        cosine: cosine similarity of the flattened outputs.
        argmax_agreement: fraction of examples whose largest entry along the last axis is the same; `None` for
            outputs with a single entry.
        nonfinite_a, nonfinite_b: number of NaN or infinite elements.
    """

    name: str
    max_abs: float
    mean_abs: float
    rmse: float
    reference_rms: float
    cosine: float
    argmax_agreement: float | None
    nonfinite_a: int
    nonfinite_b: int


@dataclasses.dataclass(frozen=True)
class Parity(Record):
    """How far two runners are apart on the same inputs; `b` is the reference."""

    a: str
    b: str
    examples: int
    outputs: tuple[OutputParity, ...]

    @property
    def max_abs(self) -> float:
        """Largest absolute difference over all outputs."""
        return max(output.max_abs for output in self.outputs)

    @property
    def argmax_agreement(self) -> float | None:
        """Lowest argmax agreement over the outputs that have one."""
        known = [output.argmax_agreement for output in self.outputs if output.argmax_agreement is not None]
        return min(known) if known else None


@dataclasses.dataclass(frozen=True)
class TensorQuantization(Record):
    """The grid of a tensor inside a file.

    Attributes:
        name: as the file has it.
        dtype: NumPy name of its integers, or `"int4"`.
        grids: how many it has: one, or one for each channel.
        smallest_step, largest_step: real value of a step, over its grids.
        zero_point: the integer that stands for 0.0; that of the first grid.
    """

    name: str
    dtype: str
    grids: int
    smallest_step: float
    largest_step: float
    zero_point: int


@dataclasses.dataclass(frozen=True)
class FileHash(Record):
    """A file as it should be: its name relative to what it belongs to, its size in bytes and its SHA-256."""

    name: str
    size_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Artifact(Record):
    """An exported file or directory and what is known of it; also the manifest beside it.

    Attributes:
        path: where it lies; in the manifest only its name, so that the two can be moved together.
        format: `"tflite"`, `"onnx"`, `"tensorrt"`, `"saved_model"` or `"keras"`.
        scheme: numeric scheme, a name of `kopt.core.schemes`.
        size_bytes, gzip_bytes: on disk, and after gzip; weights beside it included.
        sha256: of the content.
        source_sha256: of the model it was made from (architecture and weights).
        inputs, outputs: signature.
        operators: operators with counts and compute types; empty where the format has no such list.
        options: settings of the export that differ from their defaults, as text.
        versions: packages that made it.
        parity: the file in its own runtime against the model it came from; `None` if there was nothing to compare.
        notes: what the reader of the file should know.
        quantization: grids of the tensors in it, in the order of the file.
        parameters_sha256: of the constants that its reader finds in it; empty in manifests of older versions.
        examples_sha256: of the inputs on which it was compared with the model; empty likewise.
        calibration_sha256: of the inputs whose ranges it has; empty if there were none.
        git_commit: of the working directory at the export, with `-dirty` where files differ from it; empty if none.
        reference: the file beside it with a few inputs and its own outputs; `None` where they would be too large.
        external: the file beside it with the weights that do not fit into an `.onnx` file; `None` where they do.
    """

    path: str
    format: str
    scheme: str
    size_bytes: int
    gzip_bytes: int
    sha256: str
    source_sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: tuple[OperatorCount, ...]
    options: dict[str, str]
    versions: dict[str, str]
    parity: Parity | None = None
    notes: tuple[str, ...] = ()
    quantization: tuple[TensorQuantization, ...] = ()
    parameters_sha256: str = ""
    examples_sha256: str = ""
    calibration_sha256: str = ""
    git_commit: str = ""
    reference: FileHash | None = None
    external: FileHash | None = None

    @property
    def manifest_path(self) -> Path:
        """Path of the manifest that belongs to the file."""
        return Path(f"{self.path}.json")

    @property
    def reference_path(self) -> Path:
        """Path of the reference inputs and outputs that belong to the file."""
        return Path(f"{self.path}.reference.npz")

    @property
    def external_path(self) -> Path:
        """Path of the weights beside the file; the file itself refers to this name."""
        return Path(f"{self.path}.data")
