"""Why a training is slow: the input, the settings of its steps, the threads, the arithmetic."""

from collections.abc import Iterator

from kopt.advice.rules.row import Found, Rule
from kopt.core.records.profiles.circumstances import DataFacts, RuntimeSettings, StepSpeeds, TrainingSettings
from kopt.core.records.profiles.cost import ModelProfile
from kopt.core.records.profiles.time import LayerTimes
from kopt.core.records.training.data import PipelineDiagnosis
from kopt.core.records.training.hardware import PrecisionChoice

_NOTICEABLE = 0.1  # share of a step below which a setting is not worth a line
_PYTHON_SHARE = 0.2
_LITTLE_WORK = 1e6  # multiply-accumulates an example below which 16 bits gain nothing
_BATCH_GAIN = 0.4
_UPDATE_SHARE = 0.35
_MOST_SHAPES = 2


def input_bound(pipeline: PipelineDiagnosis) -> Iterator[Found]:
    """The model waits for its input."""
    if pipeline.verdict == "input-bound" and pipeline.waiting is not None and pipeline.waiting >= _NOTICEABLE:
        yield Found(
            pipeline.slowest,
            f"A batch takes {pipeline.batch_ms:.3g} ms, a training step {pipeline.step_ms:.3g} ms: the model waits "
            f"{pipeline.waiting:.0%} of the time (threshold {_NOTICEABLE:.0%}). {pipeline.slowest!r} costs most.",
            share=pipeline.waiting,
            how="1 - step / batch, both timed here: what is left when the input is no longer the limit",
            source="measured",
            remedy=" ".join(pipeline.advice[:3]),
        )


def python_input(pipeline: PipelineDiagnosis) -> Iterator[Found]:
    """A stage of the input runs Python for every element, and the input matters."""
    if pipeline.verdict == "compute-bound":
        return
    for stage in pipeline.stages:
        share = stage.added_ms / pipeline.batch_ms
        if stage.python and share > _PYTHON_SHARE:
            yield Found(
                stage.stage,
                f"{stage.stage!r} runs Python for every element: {stage.added_ms:.3g} of the {pipeline.batch_ms:.3g} "
                f"ms of a batch ({share:.0%}, threshold {_PYTHON_SHARE:.0%}).",
                share=min(share, pipeline.waiting or 0.0),
                how="the share of its time, at most the share of waiting; both timed here",
                source="measured",
            )


def run_eagerly(settings: TrainingSettings, steps: StepSpeeds | None) -> Iterator[Found]:
    """Steps run line by line in Python."""
    if not settings.run_eagerly:
        return
    seen = "The model is compiled with `run_eagerly=True`: every operation is called from Python."
    if steps is None:
        yield Found("run_eagerly", seen)
        return
    yield Found(
        "run_eagerly",
        f"{seen} A step takes {steps.compiled_ms:.3g} ms so and {steps.plain_ms:.3g} ms as a graph.",
        share=1 - steps.plain_ms / steps.compiled_ms,
        how="1 - graph / eager step, both timed here",
        source="measured",
    )


def jit_unused(settings: TrainingSettings, steps: StepSpeeds) -> Iterator[Found]:
    """XLA would make the steps faster."""
    if settings.jit_compile or settings.run_eagerly or steps.jit_ms is None:
        return
    saved = 1 - steps.jit_ms / steps.compiled_ms
    if saved > _NOTICEABLE:
        yield Found(
            "jit_compile",
            f"A step takes {steps.compiled_ms:.3g} ms, with XLA {steps.jit_ms:.3g} ms.",
            share=saved,
            how="1 - XLA / plain step, both timed here; the compilation costs seconds once",
            source="measured",
        )


def jit_useless(settings: TrainingSettings, steps: StepSpeeds) -> Iterator[Found]:
    """XLA makes the steps slower."""
    saved = 1 - steps.plain_ms / steps.compiled_ms
    if settings.jit_compile and not settings.run_eagerly and saved > _NOTICEABLE:
        yield Found(
            "jit_compile",
            f"With XLA, as compiled, a step takes {steps.compiled_ms:.3g} ms; without {steps.plain_ms:.3g} ms.",
            share=saved,
            how="1 - plain / XLA step, both timed here",
            source="measured",
        )


def single_steps(settings: TrainingSettings, steps: StepSpeeds) -> Iterator[Found]:
    """Small steps, between which Python takes the time."""
    saved = 1 - steps.many_ms / steps.plain_ms
    if settings.steps_per_execution == 1 and saved > 2 * _NOTICEABLE:
        yield Found(
            "steps_per_execution",
            f"A step takes {steps.plain_ms:.3g} ms in a call of its own and {steps.many_ms:.3g} ms in one of "
            f"{steps.many}: the rest is Python between them (threshold {2 * _NOTICEABLE:.0%}).",
            share=saved,
            how="1 - step in a long call / step alone, both timed here",
            source="measured",
        )


def small_batch(steps: StepSpeeds) -> Iterator[Found]:
    """A larger batch would train more examples a second."""
    if steps.larger_ms is None:
        return
    saved = 1 - steps.larger_ms / (steps.larger * steps.plain_ms)
    if saved > _BATCH_GAIN:
        size = steps.batch_examples
        yield Found(
            f"batch of {size}",
            f"{steps.larger} times the examples take {steps.larger_ms / steps.plain_ms:.2g} times as long "
            f"({steps.plain_ms:.3g} ms for {size}, {steps.larger_ms:.3g} ms for {size * steps.larger}); threshold: "
            f"{_BATCH_GAIN:.0%} less an example.",
            share=saved,
            how="1 - time of an example in the larger batch / in this one, both timed here",
            source="measured",
        )


def retracing(data: DataFacts) -> Iterator[Found]:
    """Batches of many shapes, each of which is traced anew."""
    if len(data.shapes) > _MOST_SHAPES:
        common = max(data.shapes, key=lambda shape: data.shapes[shape])
        yield Found(
            "shapes of batches",
            f"{data.batches} batches have {len(data.shapes)} different shapes (threshold {_MOST_SHAPES}; the last of "
            f"an epoch does not count); the most frequent is {common}. TensorFlow traces a step for new shapes, and "
            f"XLA compiles one for each.",
        )


def precision_unused(precision: PrecisionChoice, settings: TrainingSettings, cost: ModelProfile) -> Iterator[Found]:
    """The hardware multiplies 16 bits faster, and the model does not use it."""
    if not precision.policy.startswith("mixed") or set(settings.compute_dtypes) != {"float32"}:
        return
    if cost.macs >= _LITTLE_WORK:
        yield Found(
            precision.device,
            f"All layers compute in float32, and {precision.device} multiplies 16 bits faster: {precision.reason}. The "
            f"model has {cost.macs / 1e6:.3g} million multiply-accumulates an example (threshold 1 million).",
            share=0.2,
            how="training steps took 0.44 to 1.0 of the time on a CPU with avx512_bf16 "
            "(`kopt.train.choose_precision`); 0.8 is assumed",
            source="published",
            code=f'model, report = kopt.train.to_precision(model, "{precision.policy}")',
        )


def precision_useless(precision: PrecisionChoice, settings: TrainingSettings) -> Iterator[Found]:
    """16 bits on hardware that emulates them."""
    wanted = precision.policy.removeprefix("mixed_")
    used = [dtype for dtype in settings.compute_dtypes if dtype in ("float16", "bfloat16")]
    for dtype in used:
        if wanted != dtype:
            yield Found(
                precision.device,
                f"{settings.compute_dtypes[dtype]} layers compute in {dtype}; for {precision.device} "
                f"{precision.policy} is faster: {precision.reason}.",
                share=0.2,
                how="float16 steps took 0.8 to 8 times as long as float32 on a CPU (`kopt.train.choose_precision`)",
                source="published",
                code=f'model, report = kopt.train.to_precision(model, "{precision.policy}")',
            )


def few_threads(runtime: RuntimeSettings) -> Iterator[Found]:
    """TensorFlow is kept from using the cores."""
    limits = {"intra-op threads": runtime.threads, "OMP_NUM_THREADS": runtime.openmp_threads or 0}
    for name, limit in limits.items():
        if 0 < limit <= runtime.cores / 2:
            yield Found(
                name,
                f"{name} is {limit} on a machine of {runtime.cores} cores (threshold: half of them).",
                share=0.5 * (1 - limit / runtime.cores),
                how="half of 1 - threads / cores: operations of training reach about half of their speed-up",
            )


def slow_update(layer_times: LayerTimes) -> Iterator[Found]:
    """The optimizer takes much of the step."""
    share = (layer_times.update_ms or 0.0) / layer_times.step_ms if layer_times.step_ms else 0.0
    if layer_times.step == "training" and share > _UPDATE_SHARE:
        yield Found(
            "optimizer",
            f"The update of the weights takes {layer_times.update_ms:.3g} of the {layer_times.step_ms:.3g} ms of a "
            f"step ({share:.0%}, threshold {_UPDATE_SHARE:.0%}) of {layer_times.batch_examples} examples.",
            share=0.75 * share,
            how="3/4 of its share, timed here: one update for four batches",
        )


def gpu_unseen(runtime: RuntimeSettings) -> Iterator[Found]:
    """A GPU that TensorFlow does not see."""
    if runtime.nvidia_driver and not runtime.gpus:
        yield Found("GPU", "The system has an NVIDIA driver, and TensorFlow sees no GPU: training runs on the CPU.")


RULES = (
    Rule(
        id="input-bound",
        area="slow training",
        symptoms=("GPU is idle", "low GPU utilization", "training waits for data", "slow tf.data"),
        needs=("pipeline",),
        check=input_bound,
        looks_for="Times the input and a training step alone: the input takes 10 % longer or more.",
        remedy="Make the slowest stage parallel, cache what does not change, and prefetch.",
        code="dataset.map(f, num_parallel_calls=tf.data.AUTOTUNE).cache().prefetch(tf.data.AUTOTUNE)",
        target="training time",
        gain="measured: 1 - step / batch",
        effort="basic",
    ),
    Rule(
        id="python-input",
        area="slow training",
        symptoms=("py_function or from_generator is slow", "input runs on one core"),
        needs=("pipeline",),
        check=python_input,
        looks_for="A stage runs Python and takes a fifth of the time of a batch or more, and the model is not the "
        "limit.",
        remedy="Write the stage with TensorFlow operations, or keep its results once.",
        code="kopt.data.write_tfrecords(dataset, directory, shards=8)  # then kopt.data.from_tfrecords",
        target="training time",
        gain="measured: its share, at most the share of waiting",
        effort="intermediate",
    ),
    Rule(
        id="run-eagerly",
        area="slow training",
        symptoms=("training is ten times slower than it was", "run_eagerly=True"),
        needs=("settings",),
        check=run_eagerly,
        looks_for="The model is compiled with `run_eagerly=True`.",
        remedy="Compile without `run_eagerly`; it is for debugging. Side effects of Python (print, lists, counters) "
        "then happen once, while the step is traced: use `tf.print` and metrics.",
        code="model.compile(optimizer, loss, run_eagerly=False)",
        target="training time",
        gain='measured with `depth="full"`: 1 - graph / eager step',
        effort="basic",
        uses=("steps",),
    ),
    Rule(
        id="jit-unused",
        area="slow training",
        symptoms=("should I use jit_compile=True", "many small operations"),
        needs=("settings", "steps"),
        check=jit_unused,
        looks_for="Times steps with and without XLA: more than 10 % faster with it.",
        remedy="Compile with XLA. Keep the batches of one shape: every shape is compiled anew.",
        code="model.compile(optimizer, loss, jit_compile=True)  # or kopt.train.accelerate(model), which measures",
        target="training time",
        gain="measured: 1 - XLA / plain step",
        effort="basic",
    ),
    Rule(
        id="jit-useless",
        area="slow training",
        symptoms=("jit_compile=True made it slower", "XLA is slow on CPU"),
        needs=("settings", "steps"),
        check=jit_useless,
        looks_for="Times steps of a model compiled with XLA without it: more than 10 % faster.",
        remedy="Compile without XLA: on CPUs it makes most convolutions slower.",
        code="model.compile(optimizer, loss, jit_compile=False)",
        target="training time",
        gain="measured: 1 - plain / XLA step",
        effort="basic",
    ),
    Rule(
        id="single-steps",
        area="slow training",
        symptoms=("small model trains slowly", "Python overhead in fit"),
        needs=("settings", "steps"),
        check=single_steps,
        looks_for="Times steps alone and many in one call: more than 20 % faster together.",
        remedy="Run several steps in a call. Callbacks then see the last step of each call.",
        code="model.compile(optimizer, loss, steps_per_execution=32)  # or kopt.train.accelerate(model)",
        target="training time",
        gain="measured: 1 - step in a long call / step alone",
        effort="basic",
    ),
    Rule(
        id="small-batch",
        area="slow training",
        symptoms=("batch too small", "GPU utilization is low though data is ready"),
        needs=("steps",),
        check=small_batch,
        looks_for="Times a batch four times as large: an example takes 40 % less or better.",
        remedy="Train with larger batches, and find the learning rate again.",
        code="kopt.train.find_batch_size(model, data)\nkopt.train.find_learning_rate(model, data)",
        target="training time",
        gain="measured: 1 - time of an example in the larger batch / in this one",
        effort="intermediate",
    ),
    Rule(
        id="retracing",
        area="slow training",
        symptoms=("tf.function retracing warning", "every step compiles again"),
        needs=("data",),
        check=retracing,
        looks_for="More than two shapes among the first batches, the last of an epoch aside.",
        remedy="Give batches one shape: pad to a few lengths, and drop or pad the rest.",
        code="dataset.padded_batch(32, padded_shapes=([max_length], []), drop_remainder=True)",
        target="training time",
        gain="not known: a trace takes seconds, a compilation more",
        effort="basic",
    ),
    Rule(
        id="precision-unused",
        area="slow training",
        symptoms=("mixed precision", "Tensor Cores are not used"),
        needs=("precision", "settings", "cost"),
        check=precision_unused,
        looks_for="Every layer computes in float32, on hardware that multiplies 16 bits faster, in a model of a "
        "million multiply-accumulates or more.",
        remedy="Compute in 16 bits with weights in float32.",
        code='model, report = kopt.train.to_precision(model, "auto")',
        target="training time",
        gain="published with `kopt.train.choose_precision`; below it and on CPUs without avx512_bf16 or AMX "
        "nothing is won, and nothing is said",
        effort="intermediate",
    ),
    Rule(
        id="precision-useless",
        area="slow training",
        symptoms=("mixed_float16 is slow on CPU", "bfloat16 is emulated"),
        needs=("precision", "settings"),
        check=precision_useless,
        looks_for="Layers compute in 16 bits on hardware that another precision suits.",
        remedy="Compute in the precision that the hardware has.",
        code='model, report = kopt.train.to_precision(model, "float32")',
        target="training time",
        gain="published with `kopt.train.choose_precision`",
        effort="basic",
    ),
    Rule(
        id="few-threads",
        area="slow training",
        symptoms=("TensorFlow uses only one core", "OMP_NUM_THREADS"),
        needs=("runtime",),
        check=few_threads,
        looks_for="The threads of an operation, or of OpenMP, are limited to half of the cores or fewer.",
        remedy="Take the limit away before TensorFlow starts, unless other work shares the machine.",
        code="tf.config.threading.set_intra_op_parallelism_threads(0)  # and unset OMP_NUM_THREADS",
        target="training time",
        gain="estimated: half of 1 - threads / cores",
        effort="basic",
    ),
    Rule(
        id="slow-update",
        area="slow training",
        symptoms=("optimizer step takes most of the time", "AdamW is slow"),
        needs=("layer_times",),
        check=slow_update,
        looks_for="The update takes more than 35 % of a training step.",
        remedy="Update once for several batches, or train with larger batches.",
        code="kopt.train.accelerate(model, accumulate_steps=4)",
        target="training time",
        gain="estimated: 3/4 of its share",
        effort="intermediate",
    ),
    Rule(
        id="gpu-unseen",
        area="versions",
        symptoms=("Could not find cuda drivers", "TensorFlow does not see the GPU"),
        needs=("runtime",),
        check=gpu_unseen,
        looks_for="The system has an NVIDIA driver, and TensorFlow lists no GPU.",
        remedy="Install TensorFlow with its CUDA libraries, and look at `CUDA_VISIBLE_DEVICES`.",
        code="pip install 'tensorflow[and-cuda]'",
        target="training time",
        gain="not known before it runs",
        effort="basic",
    ),
)
