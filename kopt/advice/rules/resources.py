"""What does not fit or does not scale: memory, devices, versions."""

from collections.abc import Iterator

from kopt.advice.rules.row import Found, Rule
from kopt.core.records.checks import Check
from kopt.core.records.profiles.circumstances import DataFacts, MemoryNeeds, RuntimeSettings
from kopt.core.records.training.data import PipelineDiagnosis
from kopt.core.records.training.distribution import DistributionPlan

_LINK_BYTES_PER_S = 10e9
_COMMUNICATION = 0.2
_LITTLE_A_REPLICA = 8
_GIB = 2**30


def out_of_memory(memory: MemoryNeeds) -> Iterator[Found]:
    """A training step needs more than there is."""
    needed = memory.estimate.total_bytes
    if memory.fits(needed):
        return
    lines = [f"{one.words}: about {_bytes(one.total_bytes)}" for one in memory.remedies]
    fits = [one for one in memory.remedies if memory.fits(one.total_bytes)]
    first = fits[0] if fits else min(memory.remedies, key=lambda one: one.total_bytes, default=None)
    where = memory.estimate.layers[0].layer if memory.estimate.layers else ""
    yield Found(
        where,
        f"A step of {memory.estimate.batch_size} examples needs about {_bytes(needed)} (activations "
        f"{_bytes(memory.estimate.activations_bytes)}, optimizer {_bytes(memory.estimate.optimizer_bytes)}, gradients "
        f"{_bytes(memory.estimate.gradients_bytes)}, weights {_bytes(memory.estimate.weights_bytes)}); there are "
        f"{_bytes(memory.limit_bytes)}, and {memory.MARGIN:g} times the estimate should fit.",
        share=1 - first.total_bytes / needed if first and first.total_bytes < needed else None,
        how="`kopt.train.estimate_memory` with the change; within 14 % of what TensorFlow allocates",
        remedy="In this order: " + "; ".join(lines) + "." if lines else "",
        code=first.code if first else "",
    )


def idle_devices(distribution: DistributionPlan, runtime: RuntimeSettings) -> Iterator[Found]:
    """Several devices, and one model on one of them."""
    if distribution.replicas > 1 and runtime.replicas == 1:
        yield Found(
            ", ".join(distribution.devices),
            f"There are {distribution.replicas} devices to train on ({distribution.reason}), and the model was built "
            f"for one.",
            share=0.8 * (1 - 1 / distribution.replicas),
            how="0.8 * (1 - 1 / devices): four fifths of a perfect speed-up are assumed",
        )


def poor_scaling(
    distribution: DistributionPlan, memory: MemoryNeeds, pipeline: PipelineDiagnosis, runtime: RuntimeSettings
) -> Iterator[Found]:
    """Replicas wait for each other's gradients."""
    if runtime.replicas < 2 or not pipeline.step_ms:
        return
    replicas = runtime.replicas
    sent = 2 * (replicas - 1) / replicas * memory.estimate.gradients_bytes
    wait_ms = 1e3 * sent / _LINK_BYTES_PER_S
    share = wait_ms / (wait_ms + pipeline.step_ms)
    if share > _COMMUNICATION:
        yield Found(
            f"{replicas} replicas",
            f"Summing gradients of {_bytes(memory.estimate.gradients_bytes)} over {replicas} replicas takes about "
            f"{wait_ms:.3g} ms at 10 GB a second, beside a step of {pipeline.step_ms:.3g} ms: {share:.0%} (threshold "
            f"{_COMMUNICATION:.0%}). {' '.join(distribution.warnings)}".strip(),
            share=0.75 * share,
            how="2 (R - 1) / R * gradient bytes / 10 GB/s, three quarters of it with one sum for four batches",
        )


def small_replica_batch(data: DataFacts, runtime: RuntimeSettings) -> Iterator[Found]:
    """Each replica gets few examples, or not all the same number."""
    each = data.batch_size / runtime.replicas
    if runtime.replicas > 1 and (each < _LITTLE_A_REPLICA or data.batch_size % runtime.replicas):
        yield Found(
            "batch size",
            f"A batch of {data.batch_size} gives {each:.3g} examples to each of {runtime.replicas} replicas (threshold "
            f"{_LITTLE_A_REPLICA}, and a whole number).",
        )


def version_clash(installation: tuple[Check, ...]) -> Iterator[Found]:
    """Packages that are missing, of an untested version, or in each other's way."""
    for check in installation:
        if check.status == "warning":
            yield Found(check.name, f"{check.name}: {check.found}.", remedy=check.remedy, code=check.remedy)


def _bytes(size: float) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.3g} MiB"


RULES = (
    Rule(
        id="out-of-memory",
        area="out of memory",
        symptoms=(
            "ResourceExhaustedError: OOM when allocating tensor",
            "CUDA out of memory",
            "process killed while training",
        ),
        needs=("memory",),
        check=out_of_memory,
        looks_for="Half as much again as the estimate of a training step is more than the device has.",
        remedy="In this order: a smaller batch with accumulation, activations computed again, 16 bits, layers on "
        "several devices.",
        code="kopt.train.accelerate(model, accumulate_steps=4)  # kopt.train.place_layers(model, devices) for several",
        target="memory",
        gain="estimated: `kopt.train.estimate_memory` with each change",
        effort="basic",
    ),
    Rule(
        id="idle-devices",
        area="distribution",
        symptoms=("only one GPU is used", "how to train on several GPUs"),
        needs=("distribution", "runtime"),
        check=idle_devices,
        looks_for="There are several devices, and the model was built for one.",
        remedy="Build and compile the model inside a strategy, with batches and learning rate for all replicas.",
        code="with kopt.train.strategy().scope():\n    model = build_model()",
        target="training time",
        gain="estimated: 0.8 * (1 - 1 / devices)",
        effort="intermediate",
    ),
    Rule(
        id="poor-scaling",
        area="distribution",
        symptoms=("two GPUs are not faster than one", "distributed training scales poorly"),
        needs=("distribution", "memory", "pipeline", "runtime"),
        check=poor_scaling,
        looks_for="Summing the gradients at 10 GB a second takes more than 20 % of a step with it.",
        remedy="Update once for several batches, and give replicas larger ones.",
        code="kopt.train.accelerate(model, accumulate_steps=4)",
        target="training time",
        gain="estimated: 2 (R - 1) / R * gradient bytes / 10 GB/s",
        effort="intermediate",
    ),
    Rule(
        id="small-replica-batch",
        area="distribution",
        symptoms=("batch size per replica", "uneven batches with MirroredStrategy"),
        needs=("data", "runtime"),
        check=small_replica_batch,
        looks_for="A replica gets fewer than 8 examples, or the replicas do not divide the batch.",
        remedy="Give batches of a multiple of the replicas, and scale the learning rate.",
        code='print(kopt.train.plan_distribution(per_replica_batch_size=32, scale_learning_rate="linear"))',
        target="training time",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="version-clash",
        area="versions",
        symptoms=("version conflict", "No module named", "TF_USE_LEGACY_KERAS"),
        needs=("installation",),
        check=version_clash,
        looks_for="`kopt doctor`: a requirement is missing, of a version that was not tested, or in the way of "
        "another.",
        remedy="Install the version that was tested.",
        code="kopt doctor",
        target="correctness",
        gain="each was seen to break something",
        effort="basic",
    ),
)
