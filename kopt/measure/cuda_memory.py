"""Memory of a GPU and a stream, by the driver's own library: an engine needs no other package for them."""

import ctypes
import weakref
from typing import Any

import numpy as np

from kopt.core.errors import MeasurementError

_LIBRARY = "libcuda.so.1"


class CudaMemory:
    """Named buffers on the first GPU, which grow as needed, and one stream.

    Source: "CUDA Driver API", memory management, stream management, primary context management.
    """

    def __init__(self, library: Any = None):
        """Take the primary context, which TensorRT uses too.

        Args:
            library: the driver's; loaded if not given.

        Raises:
            MeasurementError: there is no driver or no GPU.
        """
        try:
            self._cuda = ctypes.CDLL(_LIBRARY) if library is None else library
        except OSError as error:
            raise MeasurementError(f"There is no CUDA driver: {error}.") from error
        device, self._context, self._stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._buffers: dict[str, tuple[ctypes.c_uint64, int]] = {}
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.enter()
        self._call("cuStreamCreate", ctypes.byref(self._stream), 0)
        self._free = weakref.finalize(self, _release, self._cuda, self._context, self._buffers)

    @property
    def stream(self) -> int:
        """The handle of the stream."""
        return int(self._stream.value or 0)

    def enter(self) -> None:
        """Make this thread use the context."""
        self._call("cuCtxSetCurrent", self._context)

    def reserve(self, name: str, size_bytes: int) -> int:
        """Return the address of a buffer of at least this size."""
        address, held = self._buffers.get(name, (ctypes.c_uint64(), 0))
        if held < max(size_bytes, 1):
            if held:
                self._call("cuMemFree_v2", address)
                del self._buffers[name]
            address = ctypes.c_uint64()
            self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size_bytes, 1)))
            self._buffers[name] = (address, max(size_bytes, 1))
        return int(address.value)

    def write(self, name: str, array: np.ndarray) -> int:
        """Copy a contiguous array to the buffer `name` and return its address."""
        place = self.reserve(name, array.nbytes)
        source = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(place), source, ctypes.c_size_t(array.nbytes))
        return place

    def read(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return what the buffer `name` holds, after all work in the stream."""
        self._call("cuStreamSynchronize", self._stream)
        array = np.empty(shape, dtype)
        source = self._buffers[name][0]
        self._call("cuMemcpyDtoH_v2", ctypes.c_void_p(array.ctypes.data), source, ctypes.c_size_t(array.nbytes))
        return array

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code != 0:
            raise MeasurementError(f"CUDA's {name} failed with error {code}; see CUresult in its documentation.")


def _release(cuda: Any, context: ctypes.c_void_p, buffers: dict[str, tuple[ctypes.c_uint64, int]]) -> None:
    cuda.cuCtxSetCurrent(context)  # this may be another thread
    for address, _ in buffers.values():
        cuda.cuMemFree_v2(address)
