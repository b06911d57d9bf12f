"""What building and running TensorRT engines takes, held against what a machine has, and the plan of a build."""

import dataclasses
import math
import shlex
from collections.abc import Sequence

from kopt.core.errors import ConfigError, MissingDependencyError, nearest
from kopt.core.records.artifacts import TensorInfo
from kopt.core.records.checks import Check
from kopt.core.serialization import Record

ENGINES = ("auto", "tf-trt", "onnx")
SCHEME_OF = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
SUFFIXES = (".engine", ".plan")
LEAST_TENSORRT = 10  # the first whose networks can be strongly typed in every precision that kopt writes


@dataclasses.dataclass(frozen=True)
class TensorRTFacts(Record):
    """What a machine has of the parts that TensorRT needs.

    Attributes:
        tensorflow: version.
        built_with_tensorrt: of TensorFlow, what `tf.sysconfig.get_build_info()` says of `is_tensorrt_build`.
        converter: whether `tensorflow.python.compiler.tensorrt` can be imported.
        package: version of the Python package `tensorrt`; empty if it is not installed.
        package_error: why the installed package cannot be imported; empty if it can.
        libnvinfer: file name of TensorRT's library; empty if the loader finds none.
        driver: newest CUDA version that the driver runs, e.g. `"12.4"`; empty if there is no driver.
        gpu: name of the first GPU; empty if there is none.
    """

    tensorflow: str
    built_with_tensorrt: bool
    converter: bool
    package: str = ""
    package_error: str = ""
    libnvinfer: str = ""
    driver: str = ""
    gpu: str = ""


@dataclasses.dataclass(frozen=True)
class Missing(Record):
    """A part that is not there.

    Attributes:
        part: what is missing.
        found: what is there instead, in words.
        remedy: what adds it.
    """

    part: str
    found: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class TensorRTSupport(Record):
    """What stands in the way of each way to TensorRT; nothing if it can be gone.

    Attributes:
        tf_trt: of engines inside a SavedModel, which TensorFlow runs.
        onnx: of engine files, which the package `tensorrt` builds of an ONNX file and runs.
    """

    tf_trt: tuple[Missing, ...]
    onnx: tuple[Missing, ...]

    @classmethod
    def of(cls, facts: TensorRTFacts) -> "TensorRTSupport":
        """Judge what a machine has."""
        device = _missing_device(facts)
        return cls((*_missing_in_tensorflow(facts), *device), (*_missing_package(facts), *device))

    def choose(self, engine: str, instead: str) -> str:
        """Return `"tf-trt"` or `"onnx"`.

        Args:
            engine: one of these, or `"auto"`: TF-TRT where TensorFlow has it, else ONNX.
            instead: the nearest thing that works, a sentence for the error.

        Raises:
            ConfigError: no such engine.
            MissingDependencyError: something is missing for it; names all of it.
        """
        if engine not in ENGINES:
            raise ConfigError(f"Unknown engine {engine!r}.{nearest(engine, ENGINES)} Accepted: {', '.join(ENGINES)}.")
        ways = {"tf-trt": self.tf_trt, "onnx": self.onnx}
        possible = [way for way, missing in ways.items() if not missing and engine in ("auto", way)]
        if possible:
            return possible[0]
        asked = [way for way in ways if engine in ("auto", way)]
        raise MissingDependencyError(
            " ".join(["TensorRT engines cannot be made here.", *(_sentence(way, ways[way]) for way in asked), instead])
        )

    def checks(self) -> list[Check]:
        """Return a row for each way, as `kopt doctor` shows it."""
        return [
            Check(name, "missing", "; ".join(one.found for one in missing), "; ".join(one.remedy for one in missing))
            if missing
            else Check(name, "ok", "all that it needs is there")
            for name, missing in (("TensorRT (ONNX)", self.onnx), ("TensorRT (TF-TRT)", self.tf_trt))
        ]


@dataclasses.dataclass(frozen=True)
class ShapeRange(Record):
    """The shapes of one input that an engine takes.

    Attributes:
        name: of the input.
        least, usual, most: shapes; the engine is fastest at the usual one.
    """

    name: str
    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class EnginePlan(Record):
    """What is asked of TensorRT's builder. The precision is not in it: the types in the ONNX file say it.

    Attributes:
        shapes: of inputs with an open dimension, in one optimization profile; empty if no input has one.
        workspace_bytes: most scratch memory of a layer; 0 leaves the choice to TensorRT.
        optimization_level: 0 (builds fastest) to 5 (runs fastest).
        timing_cache: path of a file that remembers which kernels were fastest; empty for none.
    """

    shapes: tuple[ShapeRange, ...]
    workspace_bytes: int = 0
    optimization_level: int = 3
    timing_cache: str = ""

    def __post_init__(self) -> None:
        if self.optimization_level not in range(6):
            raise ConfigError(f"`optimization_level` must be in [0, 5]. Received: {self.optimization_level!r}.")
        if self.workspace_bytes < 0:
            raise ConfigError(
                f"`workspace_bytes` must be positive, or 0 for TensorRT's choice. Received: {self.workspace_bytes!r}."
            )

    def command(self, onnx: str, engine: str) -> str:
        """Return the command that builds the same engine where TensorRT is.

        Precision comes from the file; `--stronglyTyped` makes TensorRT 10 take it from there, as 11 does anyway.

        Args:
            onnx: path of the ONNX file.
            engine: path of the engine.
        """
        words = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}", "--stronglyTyped"]
        for option, part in (("minShapes", "least"), ("optShapes", "usual"), ("maxShapes", "most")):
            if self.shapes:
                sizes = ((one.name, "x".join(map(str, getattr(one, part)))) for one in self.shapes)
                words.append(f"--{option}=" + ",".join(f"{name}:{size}" for name, size in sizes))
        if self.workspace_bytes:
            words.append(f"--memPoolSize=workspace:{math.ceil(self.workspace_bytes / 2**20)}M")
        if self.optimization_level != EnginePlan.optimization_level:
            words.append(f"--builderOptimizationLevel={self.optimization_level}")
        if self.timing_cache:
            words.append(f"--timingCacheFile={self.timing_cache}")
        return shlex.join(words)


@dataclasses.dataclass(frozen=True)
class TFTRTPlan(Record):
    """What is asked of TensorFlow's converter to TensorRT.

    Attributes:
        precision: `"fp32"`, `"fp16"` or `"int8"`.
        batch_sizes: numbers of examples for which engines are built, the largest last.
        workspace_bytes: most scratch memory of an engine; 0 leaves the converter's default.
        minimum_segment_size: fewer operators in a row stay TensorFlow's.
        dynamic_shape: one engine for the range of the batch sizes, instead of one for each.
    """

    precision: str
    batch_sizes: tuple[int, ...]
    workspace_bytes: int = 0
    minimum_segment_size: int = 3
    dynamic_shape: bool = True

    def __post_init__(self) -> None:
        if self.minimum_segment_size < 1:
            raise ConfigError(f"`minimum_segment_size` must be at least 1. Received: {self.minimum_segment_size!r}.")

    @property
    def built_sizes(self) -> tuple[int, ...]:
        """Numbers of examples for which engines are built: the converter keeps one engine of int8 only."""
        return self.batch_sizes[-1:] if self.precision == "int8" and not self.dynamic_shape else self.batch_sizes

    def arguments(self) -> dict[str, object]:
        """Return the arguments of `TrtGraphConverterV2` besides the SavedModel."""
        arguments: dict[str, object] = {
            "precision_mode": self.precision.upper(),
            "minimum_segment_size": self.minimum_segment_size,
            "maximum_cached_engines": 1 if self.dynamic_shape else len(self.built_sizes),
            "use_calibration": self.precision == "int8",
            "use_dynamic_shape": self.dynamic_shape,
            "allow_build_at_runtime": False,
        }
        if self.dynamic_shape:
            arguments["dynamic_shape_profile_strategy"] = "Range"
        if self.workspace_bytes:
            arguments["max_workspace_size_bytes"] = self.workspace_bytes
        return arguments


def shape_ranges(inputs: Sequence[TensorInfo], batch_sizes: tuple[int, int, int]) -> tuple[ShapeRange, ...]:
    """Return the shapes of inputs with an open batch, for the least, the usual and the largest number of examples.

    Raises:
        ConfigError: the numbers are not in order, or another dimension is open, whose sizes they do not say.
    """
    if len(batch_sizes) != 3 or not 1 <= batch_sizes[0] <= batch_sizes[1] <= batch_sizes[2]:
        raise ConfigError(
            f"`batch_sizes` are the least, the usual and the largest number of examples a call, in this order, e.g. "
            f"(1, 8, 32). Received: {batch_sizes!r}."
        )
    found = []
    for info in inputs:
        if None in info.shape[1:]:
            raise ConfigError(
                f"Input {info.name!r} has the shape {info.shape}: an engine needs every dimension but the batch. "
                f"Rebuild the model with a fixed size, e.g. `keras.Input((224, 224, 3))`."
            )
        if info.shape and info.shape[0] is None:
            sizes = [(count, *(size for size in info.shape[1:] if size is not None)) for count in batch_sizes]
            found.append(ShapeRange(info.name, *sizes))
    return tuple(found)


def _missing_in_tensorflow(facts: TensorRTFacts) -> tuple[Missing, ...]:
    if not facts.built_with_tensorrt:
        found = f"TensorFlow {facts.tensorflow} was built without TensorRT (is_tensorrt_build is False)"
        remedy = "take engine='onnx'; packages of TensorFlow have TF-TRT up to 2.17, which kopt does not support"
        return (Missing("a TensorFlow with TensorRT", found, remedy),)
    if not facts.converter:
        found = "tensorflow.python.compiler.tensorrt cannot be imported"
        return (Missing("TF-TRT's converter", found, "install TensorFlow again"),)
    if not facts.libnvinfer:
        return (Missing("libnvinfer", "the loader finds no libnvinfer", "install the TensorRT of TensorFlow's build"),)
    return ()


def _missing_package(facts: TensorRTFacts) -> tuple[Missing, ...]:
    remedy = "pip install 'keras-kopt[tensorrt]'"
    if not facts.package:
        return (Missing("the package tensorrt", "the package tensorrt is not installed", remedy),)
    if facts.package_error:
        found = f"tensorrt {facts.package} cannot be imported ({facts.package_error})"
        return (Missing("a tensorrt that can be imported", found, remedy),)
    if int(facts.package.partition(".")[0]) < LEAST_TENSORRT:
        found = f"tensorrt {facts.package} is older than {LEAST_TENSORRT}.0"
        return (Missing(f"tensorrt from {LEAST_TENSORRT}.0", found, remedy),)
    return ()


def _missing_device(facts: TensorRTFacts) -> tuple[Missing, ...]:
    if not facts.driver:
        found = "there is no CUDA driver (libcuda.so.1)"
        return (Missing("a CUDA driver", found, "run on a machine with an NVIDIA GPU and its driver"),)
    if not facts.gpu:
        found = f"the driver (CUDA {facts.driver}) sees no GPU"
        return (Missing("a GPU", found, "give this process one; see CUDA_VISIBLE_DEVICES"),)
    return ()


def _sentence(way: str, missing: tuple[Missing, ...]) -> str:
    return f"engine={way!r} lacks " + ", and ".join(f"{one.part}: {one.found} ({one.remedy})" for one in missing) + "."
