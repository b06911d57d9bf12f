"""TensorFlow's devices: what there is, and small settings whose effect is stated.

The settings hold for the whole process and must come before TensorFlow is used for the first time; each returns a
record of what it did.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kopt.core.environment import machine
from kopt.core.errors import ConfigError
from kopt.core.records.training.hardware import DeviceChange, GpuInfo, Hardware

_CPUINFO = Path("/proc/cpuinfo")


def hardware() -> Hardware:
    """Describe what TensorFlow may compute on in this process. It does not start TensorFlow's runtime."""
    visible = tf.config.get_visible_devices()
    gpus = [device for device in visible if device.device_type == "GPU"]
    tpus = sum(device.device_type == "TPU" for device in visible)
    return Hardware(machine().processor, _cpu_flags(), tuple(map(_gpu_info, gpus)), tpus)


def memory_growth(enable: bool = True) -> DeviceChange:
    """Let every visible GPU take memory as it is needed, in place of nearly all of it at once.

    Raises:
        ConfigError: TensorFlow was used already.

    Example:
        >>> try:
        ...     print("memory:", kopt.train.memory_growth().effect)
        ... except kopt.KoptError as error:  # a GPU is in use already: call it first in the program
        ...     print("memory:", error)
        memory: ...
    """
    gpus = tf.config.get_visible_devices("GPU")
    for gpu in gpus:
        _early("memory_growth()", tf.config.experimental.set_memory_growth, gpu, enable)
    effect = (
        "memory is taken as it is needed and not given back; other programs can use the rest. Fragmentation can end a "
        "training that would just fit otherwise"
        if enable
        else "nearly all memory is taken at once"
    )
    return DeviceChange(f"memory growth {'on' if enable else 'off'}", _names(gpus), effect)


def memory_limit(limit_mb: int) -> DeviceChange:
    """Give TensorFlow at most so much memory on every visible GPU.

    Args:
        limit_mb: megabytes (2^20 bytes) for each GPU, at least 1. The CUDA context of about 300 MB comes on top.

    Raises:
        ConfigError: an impossible limit, or TensorFlow was used already.

    Example:
        >>> try:
        ...     print("memory:", kopt.train.memory_limit(4096).effect)
        ... except kopt.KoptError as error:  # a GPU is in use already: call it first in the program
        ...     print("memory:", error)
        memory: ...
    """
    _require_count(limit_mb, "limit_mb")
    gpus = tf.config.get_visible_devices("GPU")
    for gpu in gpus:
        limit = [tf.config.LogicalDeviceConfiguration(memory_limit=limit_mb)]
        _early("memory_limit()", tf.config.set_logical_device_configuration, gpu, limit)
    effect = f"{limit_mb} MB are taken on each at once; what needs more fails with ResourceExhaustedError"
    return DeviceChange(f"memory limit {limit_mb} MB", _names(gpus), effect)


def visible_devices(gpus: Sequence[int]) -> DeviceChange:
    """Let TensorFlow see only some of the GPUs; the CPU stays visible.

    Args:
        gpus: their indices, as in `tf.config.list_physical_devices("GPU")`; empty for the CPU alone.

    Raises:
        ConfigError: an index that does not exist, or TensorFlow was used already.

    Example:
        >>> try:
        ...     print("visible:", kopt.train.visible_devices([]).setting)  # the CPU alone
        ... except kopt.KoptError as error:  # a GPU is in use already: call it first in the program
        ...     print("visible:", error)
        visible: ...
    """
    found = tf.config.list_physical_devices("GPU")
    wrong = [index for index in gpus if isinstance(index, bool) or index not in range(len(found))]
    if wrong:
        raise ConfigError(
            f"`gpus` are indices below {len(found)}, the number of GPUs that TensorFlow finds. Received: {list(gpus)}. "
            f"Pass an empty list to train on the CPU."
        )
    chosen = [found[index] for index in gpus]
    _early("visible_devices()", tf.config.set_visible_devices, chosen, "GPU")
    return DeviceChange(
        f"{len(chosen)} of {len(found)} GPUs visible", _names(chosen), "the others are left to other programs"
    )


def logical_cpus(count: int) -> DeviceChange:
    """Split the CPU into `count` devices `CPU:0`, `CPU:1`, ..., for trying out a distribution on one machine.

    Args:
        count: at least 1.

    Raises:
        ConfigError: an impossible count, or TensorFlow was used already.

    Example:
        >>> kopt.train.logical_cpus(2)  # before the first tensor, else
        Traceback (most recent call last):
            ...
        kopt.core.errors.ConfigError: TensorFlow has been used in this process, ...
    """
    _require_count(count, "count")
    (cpu,) = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    _early("logical_cpus()", tf.config.set_logical_device_configuration, cpu, parts)
    names = tuple(f"CPU:{index}" for index in range(count))
    return DeviceChange(f"{count} logical CPUs", names, "they share the same cores: correct, but no faster than one")


def deterministic(seed: int = 0) -> DeviceChange:
    """Make two runs of the same program on the same machine and versions give the same numbers, bit by bit.

    Seeds Python, NumPy, Keras and TensorFlow, and switches TensorFlow to deterministic operations.

    Args:
        seed: in [0, 2^32).

    Raises:
        ConfigError: a seed out of range.

    Example:
        >>> import random
        >>> change = kopt.train.deterministic(seed=7)  # first in the program
        >>> first = random.random()
        >>> change = kopt.train.deterministic(seed=7)
        >>> random.random() == first
        True
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"`seed` must be a whole number in [0, 2**32). Received: {seed!r}.")
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    effect = (
        "slower: sums run in a fixed order, on GPUs by slower kernels, and a `tf.data` map with random operations runs "
        "one element at a time; an operation without a deterministic form raises UnimplementedError, and random "
        "operations need the seed. It stays on until the process ends"
    )
    return DeviceChange(f"deterministic, seed {seed}", _names(tf.config.get_visible_devices()), effect)


def logical_device_names() -> tuple[str, ...]:
    """Return the devices that this process has or will have, e.g. `("CPU:0", "GPU:0")`.

    Read from the settings, because asking TensorFlow for its logical devices starts the runtime, after which
    `MultiWorkerMirroredStrategy` cannot be made.
    """
    counts: dict[str, int] = {}
    for device in tf.config.get_visible_devices():
        parts = tf.config.get_logical_device_configuration(device) or [None]
        counts[device.device_type] = counts.get(device.device_type, 0) + len(parts)
    return tuple(f"{kind}:{index}" for kind, count in counts.items() for index in range(count))


def known_devices(names: Sequence[str], available: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return device names as `"GPU:0"`, whether given as `"/gpu:0"`, `"/device:GPU:0"` or so.

    Args:
        names: at least one, each once.
        available: names to choose from; by default the devices of this process.

    Raises:
        ConfigError: no device, one that does not exist, or one that comes twice.
    """
    known = logical_device_names() if available is None else tuple(available)
    normal = tuple(str(name).lstrip("/").upper().removeprefix("DEVICE:") for name in names)
    missing = [name for name in normal if name not in known]
    if missing or not normal or len(set(normal)) < len(normal):
        problem = f"{missing[0]!r} does not exist" if missing else "name at least one, and each once"
        raise ConfigError(
            f"`devices`: {problem}. Devices of this process: {', '.join(known)}. Received: {list(names)}. "
            f"`kopt.train.logical_cpus(2)` splits the CPU to try things out."
        )
    return normal


def _gpu_info(gpu: Any) -> GpuInfo:
    details = tf.config.experimental.get_device_details(gpu)
    capability = details.get("compute_capability")
    return GpuInfo(details.get("device_name", gpu.name), tuple(capability) if capability else None)


def _cpu_flags() -> tuple[str, ...]:
    if not _CPUINFO.exists():
        return ()
    lines = _CPUINFO.read_text().splitlines()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return tuple(sorted(flags.split()))


def _names(devices: Sequence[Any]) -> tuple[str, ...]:
    return tuple(device.name.removeprefix("/physical_device:") for device in devices)


def _require_count(value: int, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"`{name}` must be a whole number of at least 1. Received: {value!r}.")


def _early(call: str, change: Callable[..., None], *arguments: Any) -> None:
    """Make a change that TensorFlow allows only before its first use; `call` is the public function that makes it."""
    try:
        change(*arguments)
    except RuntimeError as error:
        raise ConfigError(
            f"TensorFlow has been used in this process, and its devices are fixed from then on ({error}). Call "
            f"`kopt.train.{call}` first in the program: before the first tensor, layer, data set or list of logical "
            f"devices is made."
        ) from error
