"""What rematerialization saves and costs: training steps, plain and rematerialized, in processes of their own."""

import dataclasses
import importlib
import json
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, MeasurementError
from kopt.core.memory import peak_resident_bytes, start_peak
from kopt.core.records.training.rematerialization import RematReport
from kopt.graph.internals import flatten_layers, serializing_in_memory
from kopt.train.memory.rematerialization import Blocks, rematerialized

TIMEOUT_S = 1800
_CHILD = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from kopt.train.memory.remat_measurement import main; main()"
)


def measure_rematerialization(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    blocks: Blocks = "auto",
    loss: str | keras.losses.Loss | None = None,
    jit_compile: bool = False,
    steps: int = 5,
) -> RematReport:
    """Measure the peak memory and the time of training steps on one batch, plain and rematerialized.

    A step is the forward pass, the loss, the gradients and `weight -= 0.001 * gradient`; optimizer state is the same
    in both and left out. On the CPU each is run in a fresh process, and memory is how far resident memory rises above
    what it was before the first step, with the graph traced and the weights loaded; with `jit_compile` the compiler's
    own memory is in it. A plain step that does not fit ends that process, not yours. On a GPU both run in this process,
    which holds the GPU's memory, and memory is the peak of TensorFlow's allocator less what was in use before. Times
    are of steps in turn.

    Args:
        model: built; not changed. For the CPU it is saved and loaded, so custom classes must stand in a module.
        x: one batch of inputs: an array, or a list, tuple or dict of arrays.
        y: its targets; needed with `loss`.
        blocks: see `rematerialized`.
        loss: name or object; the mean square of the outputs without one.
        jit_compile: compile the steps with XLA.
        steps: timed, after one that is not; at least 1.

    Raises:
        ConfigError, UnsupportedModelError: see `rematerialized`.
        MeasurementError: a process died or took more than half an hour, or a class cannot be imported in another one.

    Example:
        >>> report = kopt.train.measure_rematerialization(model, x_train[:64], blocks=["conv1..relu1"], steps=1)
        >>> report.batch_size, report.plan.blocks[0].name
        (64, 'conv1..relu1')
        >>> report.memory_ratio, report.time_ratio  # doctest: +SKIP
        (0.71, 1.28)
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"`steps` must be a whole number of at least 1. Received: {steps!r}.")
    if (loss is None) != (y is None):
        raise DataError("`loss` and `y` belong together. Received only one of them.")
    plan = rematerialized(model, blocks).plan
    loss = keras.losses.get(loss) if loss is not None else None
    job = _Job(tf.nest.map_structure(_array, x), tf.nest.map_structure(_array, y), jit_compile, steps)
    gpus = tf.config.list_logical_devices("GPU")
    measured = _on_gpu(model, blocks, loss, job, gpus[0].name) if gpus else _in_processes(model, blocks, loss, job)
    return RematReport(
        batch_size=len(tf.nest.flatten(job.x)[0]),
        device=_gpu_name() if gpus else "CPU",
        method=_GPU if gpus else _CPU,
        jit_compile=jit_compile,
        **measured,
        plan=plan,
    )


_CPU = "Memory is the rise of a fresh process' resident memory above its value before the first step."
_GPU = "Memory is the peak of TensorFlow's allocator on the GPU less what was in use before the first step."


@dataclasses.dataclass(frozen=True)
class _Job:
    x: Any
    y: Any
    jit_compile: bool
    steps: int


def _array(value: Any) -> Any:
    return None if value is None else tf.convert_to_tensor(value).numpy()


def _step(model: keras.Model, blocks: Blocks | None, loss: Any, job: _Job) -> Callable[[], None]:
    """Return a function that makes one step and waits for it; `blocks=None` is the plain one. It is traced already."""
    forward = model if blocks is None else rematerialized(model, blocks).forward
    x, y = tf.nest.map_structure(lambda value: None if value is None else tf.constant(value), (job.x, job.y))

    @tf.function(jit_compile=job.jit_compile)  # type: ignore[untyped-decorator]
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            outputs = forward(x, training=True)
            value = _mean_square(outputs) if loss is None else loss(y, outputs)
            value = tf.cast(value, tf.float32) + sum(tf.cast(extra, tf.float32) for extra in model.losses)
        variables = model.trainable_variables
        for variable, gradient in zip(variables, tape.gradient(value, variables), strict=True):
            if gradient is not None:
                variable.assign_sub(1e-3 * tf.convert_to_tensor(gradient))
        return value

    step.get_concrete_function(x, y)

    def run() -> None:
        step(x, y).numpy()

    return run


def _mean_square(outputs: Any) -> Any:
    return sum(tf.reduce_mean(tf.square(tf.cast(one, tf.float32))) for one in tf.nest.flatten(outputs))


def _times_ms(steps: dict[str, Callable[[], None]], runs: int) -> dict[str, float]:
    """Return the median time of each, called in turn, so that other work hits all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for run in range(runs + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if run:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {f"{name}_step_ms": statistics.median(values) for name, values in times.items()}


def _on_gpu(model: keras.Model, blocks: Blocks, loss: Any, job: _Job, name: str) -> dict[str, Any]:
    device = name.split("device:")[-1]
    results: dict[str, Any] = {"plain_peak_bytes": None, "plain_step_ms": None}
    before = [(variable, tf.identity(variable.value)) for variable in model.variables]
    steps = {}
    try:
        for kind, chosen in (("remat", blocks), ("plain", None)):
            step = _step(model, chosen, loss, job)
            tf.config.experimental.reset_memory_stats(device)
            start = tf.config.experimental.get_memory_info(device)["current"]
            try:
                step()
            except tf.errors.ResourceExhaustedError:
                if kind == "remat":
                    raise
                break
            results[f"{kind}_peak_bytes"] = int(tf.config.experimental.get_memory_info(device)["peak"] - start)
            steps[kind] = step
        return {**results, **_times_ms(steps, job.steps)}
    finally:
        for variable, value in before:
            variable.assign(value)


def _gpu_name() -> str:
    device = tf.config.list_physical_devices("GPU")[0]
    return str(tf.config.experimental.get_device_details(device).get("device_name", "GPU"))


def _in_processes(model: keras.Model, blocks: Blocks, loss: Any, job: _Job) -> dict[str, Any]:
    chosen = blocks if isinstance(blocks, (str, int)) else list(map(_path, blocks))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.keras"
        with serializing_in_memory():
            model.save(path)
            request = {
                "path": str(path),
                "classes": _classes(model, loss),
                "loss": None if loss is None else keras.losses.serialize(loss),
                "job": job,
                "blocks": chosen,
            }
        # The first has its own times, for the case that the second does not fit; those of the third are in turn.
        results = _run(request, ["remat"]) | (_run(request, ["plain"], may_die=True) or _TOO_LARGE)
        fits = results["plain_peak_bytes"] is not None
        return results | (_run(request, ["plain", "remat"]) if fits else {})


_TOO_LARGE = {"plain_peak_bytes": None, "plain_step_ms": None}


def _path(block: str | keras.layers.Layer) -> str:
    return block if isinstance(block, str) else str(block.path or block.name)


def _classes(model: keras.Model, loss: Any) -> list[tuple[str, str]]:
    """Return module and name of every class (and loss function) that is not of Keras."""
    objects = [*map(type, flatten_layers(model)), type(loss), getattr(loss, "fn", type(loss))]
    own = {(one.__module__, one.__qualname__) for one in objects if one.__module__.split(".")[0] not in _KNOWN}
    for module, name in own:
        if module == "__main__" or "<" in name or "." in name:
            raise MeasurementError(
                f"{module}.{name} cannot be imported in another process, in which memory is measured. Move it to the "
                f"top level of a module of its own."
            )
    return sorted(own)


_KNOWN = ("keras", "builtins")


def _run(request: dict[str, Any], kinds: list[str], *, may_die: bool = False) -> dict[str, Any]:
    """Return the peak of one kind, or the times of several, measured in a fresh process; nothing if memory ended it."""
    command = [sys.executable, "-c", _CHILD, json.dumps(sys.path)]
    data = pickle.dumps({**request, "kinds": kinds})
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"Training steps took more than {TIMEOUT_S} s. Pass a smaller batch.") from error
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    log = done.stderr.decode(errors="replace")
    if may_die and (done.returncode < 0 or "ResourceExhaustedError" in log or "bad_alloc" in log):
        return {}
    tail = "\n".join(log.splitlines()[-10:])
    raise MeasurementError(f"The process of the {' and '.join(kinds)} step ended with {done.returncode}:\n{tail}")


def main() -> None:
    """Run in the fresh process: print peak bytes or milliseconds as the last line."""
    request = pickle.loads(sys.stdin.buffer.read())  # From the parent, through a pipe.
    own = {name: getattr(importlib.import_module(module), name) for module, name in request["classes"]}
    with keras.saving.custom_object_scope(own):
        # The parent has the model in memory already: loading it runs nothing that the parent's user did not write.
        model = keras.saving.load_model(request["path"], compile=False, safe_mode=False)
        loss = None if request["loss"] is None else keras.losses.get(request["loss"])
    job, kinds = request["job"], request["kinds"]
    chosen = {"plain": None, "remat": request["blocks"]}
    steps = {kind: _step(model, chosen[kind], loss, job) for kind in kinds}
    result: dict[str, Any] = {}
    if len(kinds) == 1:
        before = start_peak()
        steps[kinds[0]]()
        result[f"{kinds[0]}_peak_bytes"] = peak_resident_bytes() - before
    if "remat" in kinds:
        result |= _times_ms(steps, job.steps)
    sys.stdout.write(f"\n{json.dumps(result)}\n")
