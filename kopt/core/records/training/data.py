"""What input pipelines hand to other stages: frozen, serialisable, with the unit in the name."""

import dataclasses

from kopt.core.errors import ConfigError
from kopt.core.serialization import Record

CACHE_PLACES = ("none", "memory", "disk")
VERDICTS = ("input-bound", "compute-bound", "balanced", "no model")


@dataclasses.dataclass(frozen=True)
class SkippedFiles(Record):
    """Files that an input pipeline left out because they could not be read.

    Attributes:
        reasons: what was wrong, by path, in the order in which they were met.
    """

    reasons: dict[str, str]

    @property
    def count(self) -> int:
        """Number of different files; one that is met again in a later epoch counts once."""
        return len(self.reasons)

    @property
    def names(self) -> tuple[str, ...]:
        """The paths."""
        return tuple(self.reasons)


@dataclasses.dataclass(frozen=True)
class CachePlan(Record):
    """Where the elements of a data set are kept, and why.

    Attributes:
        place: `"none"`, `"memory"` or `"disk"`.
        reason: the deciding numbers, or that it was asked for.
        size_bytes: all elements; `None` if it is unknown or was not needed.
        memory_bytes: memory that was available; `None` if the system does not say or it was not asked.
        disk_bytes: bytes that were free on the disk; `None` if it was not asked.
        directory: where the files are; `None` unless `place` is `"disk"`.
    """

    place: str
    reason: str
    size_bytes: int | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    directory: str | None = None

    def __post_init__(self) -> None:
        if self.place not in CACHE_PLACES:
            raise ConfigError(f"`place` must be one of {', '.join(CACHE_PLACES)}. Received: {self.place!r}.")
        if (self.place == "disk") != (self.directory is not None):
            raise ConfigError(f"`directory` belongs to `place='disk'`. Received: {self.place!r}, {self.directory!r}.")


@dataclasses.dataclass(frozen=True)
class StageTime(Record):
    """What one stage of an input pipeline costs.

    Attributes:
        stage: its kind in the words of `tf.data`, e.g. `"map"`, `"batch"`, `"source: TFRecord"`.
        detail: the function or the setting, e.g. `"decode, sequential"`; may be empty.
        up_to_ms: milliseconds to make one element of the finished data set (a batch) with the stages up to this one
            alone.
        added_ms: `up_to_ms` less that of the stage before, never negative.
        python: it runs Python code for every element.
    """

    stage: str
    detail: str
    up_to_ms: float
    added_ms: float
    python: bool = False


@dataclasses.dataclass(frozen=True)
class PipelineDiagnosis(Record):
    """Whether training waits for its input, which stage costs most and what to change.

    Attributes:
        verdict: `"input-bound"` (the model waits), `"compute-bound"` (the input waits), `"balanced"` (within 10 % of
            each other) or `"no model"`.
        batch_ms: milliseconds to make one batch with the whole pipeline, alone.
        step_ms: milliseconds of one training step on a batch that is at hand; `None` without a model.
        batch_examples: examples in the batches measured, on average; 1 if the elements are not batched.
        start_ms: milliseconds until the first batch was there, e.g. to fill a shuffle buffer.
        stages: from the source on.
        slowest: the stage with the largest `added_ms`, as `stages` calls it.
        advice: what to change, most useful first; empty if nothing would help.
        machine_cores: processor cores that input and model share.
    """

    verdict: str
    batch_ms: float
    step_ms: float | None
    batch_examples: float
    start_ms: float
    stages: tuple[StageTime, ...]
    slowest: str
    advice: tuple[str, ...]
    machine_cores: int

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ConfigError(f"`verdict` must be one of {', '.join(VERDICTS)}. Received: {self.verdict!r}.")
        if not self.stages:
            raise ConfigError("A diagnosis has at least one stage. Received none.")

    @property
    def ratio(self) -> float | None:
        """How many times longer a batch takes than a step; `None` without a model."""
        return None if self.step_ms is None else self.batch_ms / self.step_ms

    @property
    def waiting(self) -> float | None:
        """Fraction of the time for which the model waits when input and model overlap; `None` without a model."""
        return None if self.step_ms is None else max(0.0, 1.0 - self.step_ms / self.batch_ms)

    @property
    def examples_per_s(self) -> float:
        """Examples a second that the pipeline makes, alone."""
        return self.batch_examples * 1000.0 / self.batch_ms


@dataclasses.dataclass(frozen=True)
class FeatureSchema(Record):
    """How one array of an example is stored in a TFRecord file.

    Attributes:
        name: key of the feature in `tf.train.Example`.
        path: where the array stands in an element: keys of dicts and positions in tuples, outermost first.
        dtype: of the array, e.g. `"float32"`.
        shape: of the array in one example.
        encoding: `"int64"`, `"float"` or `"bytes"`: that list of `tf.train.Feature`; `"raw"`: its little-endian bytes.
    """

    name: str
    path: tuple[str | int, ...]
    dtype: str
    shape: tuple[int, ...]
    encoding: str


@dataclasses.dataclass(frozen=True)
class Shard(Record):
    """One TFRecord file.

    Attributes:
        file: its name, without the directory.
        records: examples in it.
        size_bytes: size on disk.
        sha256: of its content.
    """

    file: str
    records: int
    size_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class TFRecordManifest(Record):
    """What `write_tfrecords` wrote: `manifest.json` beside the shards.

    Attributes:
        shards: the files. Example i of the source is in shard `i // block` modulo their number.
        features: the arrays of an example.
        compression: `"GZIP"`, `"ZLIB"` or `""`.
        block: examples that follow each other in a shard before the next shard gets as many.
    """

    shards: tuple[Shard, ...]
    features: tuple[FeatureSchema, ...]
    compression: str
    block: int = 1

    @property
    def records(self) -> int:
        """Number of examples in all shards."""
        return sum(shard.records for shard in self.shards)

    @property
    def size_bytes(self) -> int:
        """Size of all shards on disk."""
        return sum(shard.size_bytes for shard in self.shards)
