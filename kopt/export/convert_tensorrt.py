"""ONNX to a TensorRT engine. Runs in the conversion child process only."""

from pathlib import Path
from typing import Any

from kopt.core.optional import require
from kopt.core.records.shipping.tensorrt import EnginePlan


def convert(onnx: str, output: str, plan: str) -> None:
    """Build the engine for the GPU of this machine.

    Args:
        onnx: path of the file to build from.
        output: path to write.
        plan: JSON of an `EnginePlan`.
    """
    Path(output).write_bytes(build(require("tensorrt", "TensorRT export"), onnx, EnginePlan.from_json(plan)))


def build(trt: Any, onnx: str, plan: EnginePlan) -> bytes:
    """Return a serialized engine.

    The network is strongly typed: it computes each tensor in the type that the file gives it. So half precision and
    int8 are what was compared with the model in ONNX Runtime, and TensorRT has no flags and no calibrator that could
    choose otherwise (TensorRT 11 has neither any more).

    Args:
        trt: the module `tensorrt`.
        onnx: path of the file to build from.
        plan: of the build.

    Raises:
        ValueError: TensorRT cannot read the file, or has no kernels for it.

    Source: "TensorRT Python API", Builder, IBuilderConfig, OnnxParser, for TensorRT 10 and 11.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(onnx):
        reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise ValueError(f"TensorRT cannot read the ONNX file: {reasons}")
    config = _config(trt, builder, plan)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ValueError("TensorRT built no engine of the ONNX file; its log says why")
    if plan.timing_cache:
        Path(plan.timing_cache).write_bytes(bytes(memoryview(config.get_timing_cache().serialize())))
    return bytes(memoryview(engine))


def _config(trt: Any, builder: Any, plan: EnginePlan) -> Any:
    config = builder.create_builder_config()
    config.builder_optimization_level = plan.optimization_level
    if plan.workspace_bytes:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace_bytes)
    if plan.shapes:
        profile = builder.create_optimization_profile()
        for one in plan.shapes:
            profile.set_shape(one.name, one.least, one.usual, one.most)
        config.add_optimization_profile(profile)
    if plan.timing_cache:
        path = Path(plan.timing_cache)
        cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
        if not config.set_timing_cache(cache, ignore_mismatch=False):
            raise ValueError(f"the timing cache {path} is of another GPU or version of TensorRT; name a new file")
    return config
