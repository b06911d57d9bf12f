"""What this machine has of the parts that TensorRT needs."""

import ctypes
import ctypes.util
import importlib
import importlib.metadata
import importlib.util
from typing import Any

from kopt.core.records.shipping.tensorrt import TensorRTFacts, TensorRTSupport

_CONVERTER = "tensorflow.python.compiler.tensorrt"
_NAME_BYTES = 256


def tensorrt_facts() -> TensorRTFacts:
    """Look at the installed TensorFlow, the package `tensorrt`, the libraries, the driver and the GPU.

    Example:
        >>> facts = kopt.measure.tensorrt_facts()
        >>> facts.tensorflow == tf.__version__
        True
    """
    tf = importlib.import_module("tensorflow")  # here, because running an engine needs no TensorFlow
    version, error = _package()
    driver, gpu = _device()
    return TensorRTFacts(
        tensorflow=tf.__version__,
        built_with_tensorrt=bool(tf.sysconfig.get_build_info().get("is_tensorrt_build", False)),
        converter=importlib.util.find_spec(_CONVERTER) is not None,
        package=version,
        package_error=error,
        libnvinfer=ctypes.util.find_library("nvinfer") or "",
        driver=driver,
        gpu=gpu,
    )


def tensorrt_support() -> TensorRTSupport:
    """Return what stands in the way of TensorRT engines on this machine.

    Example:
        >>> missing = kopt.measure.tensorrt_support().onnx
        >>> all(part.remedy for part in missing)
        True
    """
    return TensorRTSupport.of(tensorrt_facts())


def _package() -> tuple[str, str]:
    """Return the version of the package, and why it cannot be imported; it brings its own libnvinfer."""
    try:
        version = importlib.metadata.version("tensorrt")
    except importlib.metadata.PackageNotFoundError:
        return "", ""
    try:
        importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:  # OSError: a library that it loads itself
        return version, str(error)
    return version, ""


def _device() -> tuple[str, str]:
    """Return the CUDA version of the driver and the name of the first GPU."""
    try:
        cuda: Any = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "", ""
    number, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    if cuda.cuDriverGetVersion(ctypes.byref(number)) != 0 or number.value == 0:
        return "", ""
    driver = f"{number.value // 1000}.{number.value % 1000 // 10}"
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGet(ctypes.byref(number), 0) != 0:
        return driver, ""
    return driver, name.value.decode() if cuda.cuDeviceGetName(name, _NAME_BYTES, number) == 0 else ""
