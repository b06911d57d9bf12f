"""What this machine can run models on, and measure them with."""

import importlib
import shutil
from pathlib import Path

from kopt.core.records.checks import Check
from kopt.measure.tensorrt_probe import tensorrt_support

_POWERCAP = Path("/sys/class/powercap")


def check_devices() -> list[Check]:
    """Return a check for whatever of a machine kopt can make use of: GPU, energy meter, servers and TensorRT.

    Example:
        >>> [check.name for check in kopt.measure.check_devices()]
        ['GPU', 'energy meter', 'TensorFlow Serving', 'TensorRT (ONNX)', 'TensorRT (TF-TRT)']
    """
    return [_gpus(), _energy_meter(), _model_server(), *tensorrt_support().checks()]


def _gpus() -> Check:
    tf = importlib.import_module("tensorflow")  # here, because measuring a `.tflite` file needs no TensorFlow
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return Check("GPU", "missing", "TensorFlow sees none", "pip install 'tensorflow[and-cuda]' where there is one")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    return Check("GPU", "ok", ", ".join(names))


def _energy_meter() -> Check:
    readable = [zone for zone in _POWERCAP.glob("intel-rapl:*/energy_uj") if _is_readable(zone)]
    if readable:
        return Check("energy meter", "ok", f"RAPL, {len(readable)} zones")
    found = "no readable RAPL counter; the energy of the CPU is estimated from its time"
    remedy = f"chmod a+r {_POWERCAP}/intel-rapl:*/energy_uj" if _POWERCAP.exists() else ""
    return Check("energy meter", "missing", found, remedy)


def _model_server() -> Check:
    path = shutil.which("tensorflow_model_server")
    if path:
        return Check("TensorFlow Serving", "ok", path)
    found = "tensorflow_model_server is not on the PATH"
    return Check("TensorFlow Serving", "missing", found, "install it, or run its container image")


def _is_readable(path: Path) -> bool:
    try:
        path.read_text()
    except OSError:
        return False
    return True
