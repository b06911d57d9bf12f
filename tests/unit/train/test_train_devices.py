import pytest
import tensorflow as tf
from processes import run_program

from kopt.core.errors import ConfigError
from kopt.train.distribution import devices


@pytest.fixture
def started():
    """TensorFlow's runtime is running, so that no test can change the devices of this process."""
    return tf.constant(1.0) + 1


def test_hardware_reads_the_flags_of_the_processor(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: sse2 avx512_bf16 avx2\n\nprocessor : 1\nflags : other\n")
    monkeypatch.setattr(devices, "_CPUINFO", cpuinfo)
    found = devices.hardware()
    assert found.cpu_flags == ("avx2", "avx512_bf16", "sse2")
    assert found.gpus == ()
    monkeypatch.setattr(devices, "_CPUINFO", tmp_path / "none")
    assert devices.hardware().cpu_flags == ()


def test_gpu_settings_without_a_gpu_say_that_nothing_was_changed(started):
    for change in (devices.memory_growth(), devices.memory_limit(100), devices.visible_devices([])):
        assert change.devices == ()
        assert "no such device" in str(change) or change.setting == "0 of 0 GPUs visible"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: devices.memory_limit(0), "`limit_mb` must be a whole number of at least 1. Received: 0"),
        (lambda: devices.memory_limit(1.5), "Received: 1.5"),
        (lambda: devices.visible_devices([0]), "indices below 0, the number of GPUs.*Pass an empty list"),
        (lambda: devices.logical_cpus(True), "Received: True"),
        (lambda: devices.deterministic(-1), r"`seed` must be a whole number in \[0, 2\*\*32\). Received: -1"),
        (lambda: devices.deterministic("1"), "Received: '1'"),
    ],
)
def test_impossible_settings_are_refused(started, call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_a_setting_that_comes_too_late_says_what_to_do(started):
    with pytest.raises(ConfigError, match=r"has been used in this process.*Call `kopt.train.logical_cpus\(\)` first"):
        devices.logical_cpus(5)


@pytest.mark.parametrize("name", ["CPU:0", "/cpu:0", "/device:CPU:0", "/CPU:0"])
def test_every_spelling_of_a_device(name):
    assert devices.known_devices([name], ["CPU:0", "GPU:0"]) == ("CPU:0",)


@pytest.mark.parametrize(
    ("names", "problem"),
    [(["GPU:1"], "'GPU:1' does not exist"), ([], "name at least one"), (["GPU:0", "/gpu:0"], "each once")],
)
def test_unknown_devices_are_refused(names, problem):
    with pytest.raises(ConfigError, match=f"{problem}.*Devices of this process: CPU:0, GPU:0"):
        devices.known_devices(names, ["CPU:0", "GPU:0"])


PROGRAM = """
import numpy as np, keras, tensorflow as tf
from kopt.train.distribution import devices
assert devices.logical_device_names() == ("CPU:0",)
change = devices.logical_cpus(3)
assert change.devices == ("CPU:0", "CPU:1", "CPU:2"), change
assert devices.logical_device_names() == change.devices
change = devices.deterministic(7)
first = (np.random.rand(), float(tf.random.uniform([])), keras.layers.Dense(2).build((None, 2)))
assert [device.name for device in tf.config.list_logical_devices()] == [f"/device:CPU:{i}" for i in range(3)]
try:
    tf.raw_ops.TruncatedNormal(shape=[1], dtype=tf.float32, seed=0, seed2=0)  # a random operation without a seed
except tf.errors.InvalidArgumentError as error:
    print("refused" if "determinism is enabled" in str(error) else error)
try:
    devices.logical_cpus(2)
except ValueError as error:
    print(str(error)[:48])
print(first[:2])
"""


@pytest.mark.slow
def test_in_a_process_of_its_own_the_settings_take_effect():
    runs = [run_program(PROGRAM) for _ in range(2)]
    for run in runs:
        assert run.exit_code == 0, run.errors
    lines = runs[0].output.splitlines()
    assert lines[:-1] == ["refused", "TensorFlow has been used in this process, and it"]
    assert runs[1].output == runs[0].output
