"""The runner of engines on a stand-in for TensorRT and for the driver: neither is needed."""

# ruff: noqa: N802 - the driver names its functions so

import ctypes
from unittest import mock

import numpy as np
import pytest

from kopt.core.errors import ConfigError, LoadError, MeasurementError, MissingDependencyError
from kopt.measure import load, tensorrt_facts, tensorrt_support
from kopt.measure.cuda_memory import CudaMemory
from kopt.measure.tensorrt_runner import TensorRTRunner

LARGEST = 8


class Driver:
    """Memory of the host in place of that of a GPU, by the names of the driver's library."""

    def __init__(self):
        self.blocks = {}

    def cuInit(self, flags):
        return 0

    def cuDeviceGet(self, device, ordinal):
        return 0

    def cuDevicePrimaryCtxRetain(self, context, device):
        return 0

    def cuCtxSetCurrent(self, context):
        return 0

    def cuStreamCreate(self, stream, flags):
        return 0

    def cuStreamSynchronize(self, stream):
        return 0

    def cuMemAlloc_v2(self, address, size):
        block = ctypes.create_string_buffer(size.value)
        place = ctypes.addressof(block)
        self.blocks[place] = block
        address._obj.value = place
        return 0

    def cuMemFree_v2(self, address):
        del self.blocks[address.value]
        return 0

    def cuMemcpyHtoD_v2(self, target, source, size):
        ctypes.memmove(target.value, source.value, size.value)
        return 0

    def cuMemcpyDtoH_v2(self, target, source, size):
        ctypes.memmove(target.value, source.value, size.value)
        return 0


class Engine:
    """Computes `y = 2 x` for up to `LARGEST` rows of three numbers."""

    num_io_tensors = 2

    def get_tensor_name(self, index):
        return "xy"[index]

    def get_tensor_mode(self, name):
        return {"x": "input", "y": "output"}[name]

    def get_tensor_shape(self, name):
        return (-1, 3)

    def get_tensor_dtype(self, name):
        return "float"

    def get_tensor_profile_shape(self, name, profile):
        return (1, 3), (4, 3), (LARGEST, 3)

    def create_execution_context(self):
        return Context()


class Context:
    def __init__(self):
        self.addresses = {}

    def set_input_shape(self, name, shape):
        self.shape = shape
        return shape[0] <= LARGEST

    def get_tensor_shape(self, name):
        return self.shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        count = self.shape[0] * self.shape[1]
        x, y = ((ctypes.c_float * count).from_address(self.addresses[name]) for name in "xy")
        for index in range(count):
            y[index] = 2 * x[index]
        return True


def tensorrt(engine):
    trt = mock.MagicMock(__version__="10.14.1")
    trt.TensorIOMode.INPUT = "input"
    trt.nptype.return_value = np.float32
    trt.Runtime.return_value.deserialize_cuda_engine.return_value = engine
    return trt


@pytest.fixture
def path(tmp_path):
    (tmp_path / "m.engine").write_bytes(b"plan")
    return tmp_path / "m.engine"


def runner(path, engine=None):
    return TensorRTRunner(path, None, tensorrt(engine or Engine()), CudaMemory(Driver()))


def test_an_engine_is_a_runner_like_any_other(path):
    one = runner(path)
    assert [(info.name, info.shape, info.dtype) for info in one.inputs] == [("x", (None, 3), "float32")]
    assert [info.name for info in one.outputs] == ["y"]
    assert (one.format, one.device, one.fixed_batch, one.runtime) == ("tensorrt", "gpu", None, "TensorRT 10.14.1")
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    np.testing.assert_array_equal(one.predict(x, batch_size=2), 2 * x)
    np.testing.assert_array_equal(one.predict(x), 2 * x)


def test_more_examples_than_the_engine_was_built_for(path):
    with pytest.raises(MeasurementError, match=r"was not built for 'x' of shape \(9, 3\).*\(1, 3\) to \(8, 3\)"):
        runner(path).predict(np.zeros((9, 3), np.float32))


def test_an_engine_of_another_gpu_or_a_damaged_one(path):
    with pytest.raises(LoadError, match="it is damaged, or was built for another GPU or by another version"):
        TensorRTRunner(path, None, tensorrt(None), CudaMemory(Driver()))


def test_threads_are_refused(path):
    with pytest.raises(ConfigError, match="it runs on a GPU"):
        load(path, threads=2)


def test_buffers_grow_and_are_freed():
    driver = Driver()
    memory = CudaMemory(driver)
    assert memory.reserve("x", 8) == memory.reserve("x", 4)
    memory.reserve("x", 16)
    assert [len(block) for block in driver.blocks.values()] == [16]
    del memory
    assert not driver.blocks


def test_an_error_of_the_driver_has_its_number():
    driver = Driver()
    driver.cuMemAlloc_v2 = lambda address, size: 2
    with pytest.raises(MeasurementError, match="cuMemAlloc_v2 failed with error 2"):
        CudaMemory(driver).reserve("x", 8)


@pytest.mark.skipif(bool(tensorrt_facts().package), reason="the package tensorrt is installed")
def test_without_tensorrt_the_package_is_named(path):
    with pytest.raises(MissingDependencyError, match=r"Running the engine m.engine.*keras-kopt\[tensorrt\]"):
        load(path)


def test_doctor_shows_what_the_error_says():
    facts = tensorrt_facts()
    assert facts.tensorflow.startswith("2.")
    rows = {check.name: check for check in tensorrt_support().checks()}
    assert set(rows) == {"TensorRT (ONNX)", "TensorRT (TF-TRT)"}
    # TensorFlow's packages since 2.18.
    assert "was built without TensorRT" in rows["TensorRT (TF-TRT)"].found
    assert not facts.built_with_tensorrt
