"""What serving is asked for and what is known of what is served: frozen, serialisable."""

import dataclasses

from kopt.core.errors import ConfigError
from kopt.core.records.artifacts import Artifact
from kopt.core.records.measurements import Latency
from kopt.core.serialization import Record
from kopt.core.settings import choice, number, whole

FITS = ("stretch", "window")
VARIANTS = ("plain", "optimized", "xla")


@dataclasses.dataclass(frozen=True)
class RawImage(Record):
    """How the bytes of an image file become the input of a model, inside the graph.

    The numbers are those of `kopt.data.from_images`: bilinear, in [0, 1], then `value * scale + offset`.

    Attributes:
        fit: `"stretch"` to the model's size, or `"window"`: the largest centered window of its proportions.
        scale: pixels in [0, 1] are multiplied by it; 255 for a model that rescales itself.
        offset: added to them then.

    Example:
        >>> window = kopt.serve.RawImage(fit="window")
        >>> made = kopt.serve.bundle(model, "models/digits", image=window, warmup=False, batching=False)
        >>> [signature.name for signature in made.signatures]
        ['serving_default', 'serving_images']
    """

    fit: str = "stretch"
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        choice("fit", self.fit, FITS)
        number("scale", self.scale)
        number("offset", self.offset)


@dataclasses.dataclass(frozen=True)
class BatchingPlan(Record):
    """TF Serving's batching parameters, and the measurements that they come from.

    Attributes:
        max_batch_size: examples in a batch at most.
        batch_timeout_micros: microseconds that a batch waits to become full.
        max_enqueued_batches: batches that wait; a request beyond them is refused.
        num_batch_threads: batches that run at once.
        allowed_batch_sizes: sizes that batches are filled up to, ascending, the last one `max_batch_size`.
        latencies: measured, one a batch size; empty where the parameters were written down by hand.

    Example:
        >>> plan = kopt.serve.BatchingPlan(
        ...     max_batch_size=8,
        ...     batch_timeout_micros=500,
        ...     max_enqueued_batches=100,
        ...     num_batch_threads=1,
        ...     allowed_batch_sizes=(1, 4, 8),
        ... )
        >>> made = kopt.serve.bundle(model, "models/digits", batching=plan, warmup=False)
        >>> made.batching.allowed_batch_sizes
        (1, 4, 8)
    """

    max_batch_size: int
    batch_timeout_micros: int
    max_enqueued_batches: int
    num_batch_threads: int
    allowed_batch_sizes: tuple[int, ...]
    latencies: tuple[Latency, ...] = ()

    def __post_init__(self) -> None:
        whole("max_batch_size", self.max_batch_size)
        whole("batch_timeout_micros", self.batch_timeout_micros, least=0)
        whole("max_enqueued_batches", self.max_enqueued_batches)
        whole("num_batch_threads", self.num_batch_threads)
        sizes = self.allowed_batch_sizes
        if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != self.max_batch_size:
            raise ConfigError(
                f"`allowed_batch_sizes` must ascend and end in `max_batch_size`, {self.max_batch_size}. Received: "
                f"{sizes!r}."
            )


@dataclasses.dataclass(frozen=True)
class ServingState(Record):
    """Which versions of a model are to be served; the rest follows from what is on the disk.

    Attributes:
        withdrawn: versions that a rollback took out of service.
        labels: version by label.
    """

    withdrawn: tuple[int, ...] = ()
    labels: dict[str, int] = dataclasses.field(default_factory=dict)

    def wanted(self, present: tuple[int, ...]) -> tuple[int, ...]:
        """Return the versions to serve among those `present`: the newest that is not withdrawn, and labelled ones."""
        standing = [version for version in present if version not in self.withdrawn]
        labelled = [version for version in self.labels.values() if version in present]
        return tuple(sorted({*standing[-1:], *labelled}))


@dataclasses.dataclass(frozen=True)
class SignatureInfo(Record):
    """A signature of a bundle: `method` is `"predict"` or `"classify"`."""

    name: str
    method: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ServingBundle(Record):
    """A version of a model that was put where servers look for it.

    Attributes:
        name: of the model.
        version: that was written.
        directory: that holds the versions.
        artifact: the version itself, its parity with the model and its hash.
        signatures: that it has.
        warmup_records: requests that a server replays before it takes traffic.
        batching: parameters in `batching_parameters.txt`; `None` if none were asked for.
        served: versions that `models.config` asks for.
        labels: version by label.
    """

    name: str
    version: int
    directory: str
    artifact: Artifact
    signatures: tuple[SignatureInfo, ...]
    warmup_records: int
    batching: BatchingPlan | None
    served: tuple[int, ...]
    labels: dict[str, int]


@dataclasses.dataclass(frozen=True)
class ServerSettings(Record):
    """Limits of a local server; see `kopt.serve.Server`.

    Attributes:
        max_batch_size: examples that go into one call of the runtime.
        batch_wait_ms: milliseconds that a request waits for others to share its call.
        max_queue: examples that wait; a request beyond them is refused with 429.
        timeout_s: seconds after which a request that was not answered gets 504.
        max_request_bytes: of a request's body; more is refused with 413.
        max_examples: in a request.
        poll_s: seconds between looks for a new version.
        drain_s: seconds that a stopping server gives to requests under way.
        threads: of LiteRT and ONNX Runtime; the runtime's own choice if `None`.
        workers: calls of the runtime that run at once, each with its own interpreter of LiteRT or session of ONNX
            Runtime. TensorFlow's calls share one set of weights; where there are several GPUs, a SavedModel has one on
            each, as many as there are workers, which take them in turn.

    Example:
        >>> settings = kopt.serve.ServerSettings(max_batch_size=64, batch_wait_ms=2.0, timeout_s=5.0)
        >>> with kopt.serve.Server("model.tflite", port=0, settings=settings, log=str) as server:
        ...     server.name
        'model'
    """

    max_batch_size: int = 32
    batch_wait_ms: float = 1.0
    max_queue: int = 256
    timeout_s: float = 30.0
    max_request_bytes: int = 32 << 20
    max_examples: int = 1024
    poll_s: float = 1.0
    drain_s: float = 30.0
    threads: int | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_queue", "max_request_bytes", "max_examples", "workers"):
            whole(name, getattr(self, name))
        for name in ("timeout_s", "poll_s", "drain_s"):
            number(name, getattr(self, name), least=0.0, open_below=True)
        number("batch_wait_ms", self.batch_wait_ms, least=0.0)
        if self.threads is not None:
            whole("threads", self.threads)


@dataclasses.dataclass(frozen=True)
class VersionStatus(Record):
    """State of a version on a server, in TF Serving's words.

    Attributes:
        state: `"START"`, `"LOADING"`, `"AVAILABLE"`, `"UNLOADING"` or `"END"`.
        error_code: `"OK"`, or why the version is not served.
        error_message: the same in words.
    """

    version: int
    state: str
    error_code: str = "OK"
    error_message: str = ""
