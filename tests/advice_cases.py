"""Records of a model that nothing is wrong with, and for every rule what makes it speak."""

import dataclasses
import math

from kopt.advice.facts import Facts
from kopt.core.records.changes.quantization_diagnosis import Finding, QuantizationDiagnosis
from kopt.core.records.checks import Check
from kopt.core.records.profiles.circumstances import (
    ChannelActivity,
    DataFacts,
    DeployedFile,
    Deployment,
    FitScores,
    InferenceFacts,
    LayerActivity,
    MemoryNeeds,
    RuntimeSettings,
    StepSpeeds,
    TrainingSettings,
)
from kopt.core.records.profiles.cost import LayerCost, LayerIntensity, MachinePeaks, ModelProfile, RooflineProfile
from kopt.core.records.profiles.gradients import GradientProfile, GradientThresholds, Verdict
from kopt.core.records.profiles.parameters import (
    Channels,
    EffectiveRank,
    Histogram,
    ParameterProfile,
    ParameterSettings,
    ValueStatistics,
    VariableParameters,
)
from kopt.core.records.profiles.sensitivity import LayerSensitivity, PerturbationEffect, SensitivityProfile
from kopt.core.records.profiles.time import LayerTime, LayerTimes
from kopt.core.records.profiles.training import TrainingAdvice, TrainingEpoch, TrainingRun, TrainingTrends
from kopt.core.records.training.data import PipelineDiagnosis, StageTime
from kopt.core.records.training.distribution import DistributionPlan
from kopt.core.records.training.finders import LayerMemory, LearningRateCurve, MemoryEstimate, MemoryRemedy
from kopt.core.records.training.hardware import PrecisionChoice
from kopt.core.records.training.input_checks import InputScale

GIB = 2**30


def statistics(size, zeros=0, nans=0):
    return ValueStatistics(
        size, 0.0, 0.1, 0.0, 0.0, -0.3, 0.3, 1.0, 1.0, zeros, zeros, nans, 0, {}, Histogram((-0.3, 0.3), (size,))
    )


def variable(layer, kind, shape, *, zeros=0, nans=0, dead=0, rank=None):
    size = math.prod(shape)
    full = min(math.prod(shape[:-1]), shape[-1])
    effective = EffectiveRank(full if rank is None else rank, full, math.prod(shape[:-1]), shape[-1], "exact")
    channels = Channels((len(shape) - 1,), shape[-1], dead, tuple(range(dead)))
    return VariableParameters(
        f"{layer}/kernel",
        layer,
        kind,
        (),
        shape,
        "float32",
        True,
        4 * size,
        statistics(size, zeros, nans),
        channels,
        effective,
    )


def epochs(losses, judged):
    return tuple(
        TrainingEpoch(i, 100 * i, {"loss": a, "val_loss": b}, 0, (), (), {}, (), {})
        for i, (a, b) in enumerate(zip(losses, judged, strict=True))
    )


def stage(name, added, python=False):
    return StageTime(name, "", added, added, python)


def file(name, scheme, ms, threads=1, drop=0.0, reason=""):
    return DeployedFile(name, scheme, threads, ms, 100_000, drop, reason)


def profile_of(*layers):
    total = sum(layer.parameters for layer in layers)
    return ModelProfile("net", layers, total, total)


def changed(record, **values):
    return dataclasses.replace(record, **values)


def verdict(kind, where="conv/kernel"):
    return Verdict(kind, where, 0.5, 0.25, f"{where}: 0.5, threshold 0.25.")


def trend(kind, value=0.3):
    return changed(TRENDS, advice=(TrainingAdvice(kind, "val_loss", value, 0.05, f"{value:g} (threshold 0.05)"),))


CONV = LayerCost("conv", "Conv2D", (None, 8, 8, 16), 448, 27_648, 60_000, 1792, 100, 4096)
DEPTHWISE = LayerCost("depthwise", "DepthwiseConv2D", (None, 8, 8, 16), 160, 9_216, 20_000, 640, 100, 4096)
HEAD = LayerCost("head", "Dense", (None, 10), 170, 160, 330, 680, 64, 40)

SETTINGS = TrainingSettings(
    optimizer="Adam",
    learning_rate=1e-3,
    iterations=1000,
    run_eagerly=False,
    jit_compile=False,
    steps_per_execution=1,
    compute_dtypes={"float32": 3},
    output_dtypes=("float32",),
    scales_loss=False,
    batch_norms=("norm",),
    dropouts={},
)
DATA = DataFacts(64, 10, 640, {"(64, 8, 8, 3)": 10}, (), {str(i): 64 for i in range(10)})
PARAMETERS = ParameterProfile(
    "net", (variable("conv", "Conv2D", (3, 3, 3, 16)), variable("head", "Dense", (16, 10))), ParameterSettings()
)
ESTIMATE = MemoryEstimate("net", 64, 10**6, 2 * 10**6, 10**6, 10**5, GIB, GIB + 10**6, (LayerMemory("conv", GIB),))
MEMORY = MemoryNeeds(ESTIMATE, 8 * GIB, (MemoryRemedy("batch 32", "kopt.train.accelerate(model)", GIB // 2),))
GRADIENTS = GradientProfile("net", 4, 256, 64, 1.0, 1.0, 500.0, 0.5, (), (), (), GradientThresholds(), True)
TRENDS = TrainingTrends(TrainingRun("net", "Adam", 1, ()), (), epochs([2.3, 1.2, 0.8, 0.6], [2.2, 1.3, 1.0, 0.9]), ())
PIPELINE = PipelineDiagnosis("compute-bound", 2.0, 10.0, 64.0, 5.0, (stage("map", 2.0),), "map", (), 8)
STEPS = StepSpeeds(64, 10.0, 10.0, 9.8, 9.5, 32, 36.0)
RATES = LearningRateCurve((1e-6, 1.0), (2.0, 1.0), (2.0, 1.0), 2e-3, 1e-3, 1e-3, "completed", 1)
LAYER_TIMES = LayerTimes(
    "net", "training", 64, 10, 10.0, 9.5, (LayerTime("conv", "Conv2D", 3.0, 5.0, 8.0, 4),), 1.0, 0.5, ()
)
ROOFLINE = RooflineProfile(
    "net", 1, MachinePeaks(1e11, 1e10), (LayerIntensity("conv", "Conv2D", 10**9, 10**6, "compute", 10.0),), {}
)
EFFECTS = (
    PerturbationEffect("int8", 0.0, 0.001, 0.0, 0.001, 0.1),
    PerturbationEffect("pruned_50", 0.5, 0.01, 0.1, 0.01, 1.0),
)
SENSITIVE = LayerSensitivity("conv", "Conv2D", ("conv/kernel",), 100_000, EFFECTS)
SENSITIVITY = SensitivityProfile(
    "net", "abc", "accuracy", 0.9, 0.3, 500, ("int8", "pruned_50"), (SENSITIVE,), {}, (), 0, 2, 1.0, 0, 1.0
)
QUANTIZATION = QuantizationDiagnosis("net", "int8", 64, 35.0, 1.0, 0, (), (), (), (), 1.0)
DEPLOYMENT = Deployment(
    (
        file("keras", "float32", 1.5, None),
        file("tflite-float32", "float32", 1.0),
        file("tflite-float16", "float16", 0.9),
        file("tflite-int8", "int8", 0.6),
        file("tflite-float32, 8 threads", "float32", 0.9, 8),
    ),
    max_drop=0.01,
)
RUNTIME = RuntimeSettings(8, 0, None, 0, False, 1)
PLAN = DistributionPlan("auto", "one_device", "there is no accelerator", ("CPU:0",), None, 1, 64, 64)

HEALTHY = Facts(
    installation=(Check("python", "ok", "3.11"), Check("GPU", "missing", "none", "pip install it")),
    runtime=RUNTIME,
    precision=PrecisionChoice("float32", "no instruction for 16-bit products is known of it", "CPU"),
    distribution=PLAN,
    settings=SETTINGS,
    cost=profile_of(CONV, HEAD),
    parameters=PARAMETERS,
    data=DATA,
    inference=InferenceFacts(8, 0, 0.0, 1e-6),
    activity=ChannelActivity(256, (LayerActivity("relu", "ReLU", 16, 2, 1),)),
    fit=FitScores(1000, 0.5, 0.6, 0.85, 0.82, math.log(10)),
    memory=MEMORY,
    gradients=GRADIENTS,
    trends=TRENDS,
    pipeline=PIPELINE,
    steps=STEPS,
    rates=RATES,
    layer_times=LAYER_TIMES,
    roofline=ROOFLINE,
    sensitivity=SENSITIVITY,
    quantization=QUANTIZATION,
    deployment=DEPLOYMENT,
)

_FOUR = DistributionPlan("auto", "mirrored", "there are 4 GPUs", ("GPU:0", "GPU:1", "GPU:2", "GPU:3"), None, 4, 16, 64)
_BF16 = PrecisionChoice("mixed_bfloat16", "it has amx_bf16", "CPU")
_WIDE = LayerCost("conv", "Conv2D", (None, 32, 32, 64), 36_928, 37_748_736, 75_000_000, 147_712, 100, 262_144)
_SLOW_INPUT = PipelineDiagnosis("input-bound", 20.0, 5.0, 64.0, 5.0, (stage("map", 20.0, True),), "map", ("Cache.",), 8)


def _with(**values):
    return changed(HEALTHY, **values)


def _files(*replaced):
    kept = [one for one in DEPLOYMENT.files if one.name not in [other.name for other in replaced]]
    return _with(deployment=changed(DEPLOYMENT, files=(*kept, *replaced)))


FAULTS = {
    "out-of-memory": _with(memory=changed(MEMORY, limit_bytes=GIB)),
    "input-bound": _with(pipeline=changed(_SLOW_INPUT, stages=(stage("map", 20.0),))),
    "python-input": _with(pipeline=_SLOW_INPUT),
    "run-eagerly": _with(settings=changed(SETTINGS, run_eagerly=True), steps=changed(STEPS, compiled_ms=50.0)),
    "jit-unused": _with(steps=changed(STEPS, jit_ms=5.0)),
    "jit-useless": _with(settings=changed(SETTINGS, jit_compile=True), steps=changed(STEPS, compiled_ms=20.0)),
    "single-steps": _with(steps=changed(STEPS, many_ms=4.0)),
    "small-batch": _with(steps=changed(STEPS, larger_ms=12.0)),
    "retracing": _with(data=changed(DATA, shapes={f"(64, {n})": 2 for n in range(5)})),
    "precision-unused": _with(precision=_BF16, cost=profile_of(changed(_WIDE, name="products"))),
    "precision-useless": _with(settings=changed(SETTINGS, compute_dtypes={"bfloat16": 2})),
    "few-threads": _with(runtime=changed(RUNTIME, threads=1)),
    "slow-update": _with(layer_times=changed(LAYER_TIMES, update_ms=6.0)),
    "gpu-unseen": _with(runtime=changed(RUNTIME, nvidia_driver=True)),
    "no-convergence": _with(trends=changed(TRENDS, epochs=epochs([2.3, 2.31, 2.29], [2.3, 2.3, 2.3]))),
    "learned-nothing": _with(fit=FitScores(1000, 2.29, 2.3, 0.1, 0.1, math.log(10))),
    "rate-too-high": _with(settings=changed(SETTINGS, learning_rate=0.1)),
    "rate-too-low": _with(settings=changed(SETTINGS, learning_rate=1e-6)),
    "unsteady-loss": _with(trends=trend("learning rate too high")),
    "slow-convergence": _with(trends=trend("learning rate too low")),
    "plateau": _with(trends=trend("plateau")),
    "vanishing-gradients": _with(gradients=changed(GRADIENTS, verdicts=(verdict("vanishing"),))),
    "exploding-gradients": _with(gradients=changed(GRADIENTS, verdicts=(verdict("exploding"),))),
    "exploding-in-training": _with(trends=trend("exploding")),
    "vanishing-in-training": _with(trends=trend("vanishing")),
    "no-gradient": _with(gradients=changed(GRADIENTS, verdicts=(verdict("not connected"),))),
    "dead-units": _with(gradients=changed(GRADIENTS, verdicts=(verdict("dead units"),))),
    "dying-units": _with(trends=trend("dead units")),
    "batch-norm-small-batch": _with(data=changed(DATA, batch_size=2)),
    "batch-norm-drift": _with(trends=trend("batch normalization drifts")),
    "uneven-gradients": _with(trends=trend("uneven gradient variance")),
    "over-fitting": _with(trends=trend("over-fitting")),
    "validation-gap": _with(fit=FitScores(1000, 0.05, 0.9, 0.99, 0.8, math.log(10))),
    "under-fitting": _with(fit=FitScores(1000, 1.6, 1.62, 0.4, 0.39, math.log(10))),
    "nan-weights": _with(
        parameters=changed(PARAMETERS, variables=(variable("conv", "Conv2D", (3, 3, 3, 16), nans=2),))
    ),
    "nan-loss": _with(trends=changed(TRENDS, epochs=epochs([2.3, 1.2, math.nan], [2.2, 1.3, 1.2]))),
    "nan-data": _with(data=changed(DATA, error_type="NonFiniteError", error="Input 'x' has 3 values that are NaN.")),
    "nan-outputs": _with(inference=InferenceFacts(8, 80, 0.0, 0.0)),
    "unscaled-loss": _with(
        settings=changed(SETTINGS, compute_dtypes={"float16": 3}),
        precision=PrecisionChoice("mixed_float16", "its tensor cores multiply float16", "GPU:0"),
    ),
    "coarse-output": _with(settings=changed(SETTINGS, output_dtypes=("float16",))),
    "random-inference": _with(inference=InferenceFacts(8, 0, 0.3, 0.3)),
    "batch-inference": _with(inference=InferenceFacts(8, 0, 0.0, 0.3)),
    "wrong-logits": _with(data=changed(DATA, error_type="ConfigError", error="softmax, and X(from_logits=True)")),
    "wrong-data": _with(data=changed(DATA, error_type="DataError", error="Targets must lie in [0, 10).")),
    "unscaled-inputs": _with(data=changed(DATA, unscaled=(InputScale("image", 120.0, 70.0, "`Rescaling(1 / 255)`"),))),
    "class-imbalance": _with(data=changed(DATA, classes={"0": 600, "1": 40})),
    "idle-devices": _with(distribution=_FOUR),
    "poor-scaling": _with(
        distribution=_FOUR,
        runtime=changed(RUNTIME, replicas=4),
        memory=changed(MEMORY, estimate=changed(ESTIMATE, gradients_bytes=10**8)),
    ),
    "small-replica-batch": _with(data=changed(DATA, batch_size=30), runtime=changed(RUNTIME, replicas=4)),
    "version-clash": _with(installation=(Check("keras", "warning", "3.20; tested with <3.16", "pip install keras"),)),
    "slow-integers": _files(file("tflite-int8", "int8", 2.0)),
    "useless-float16": _files(file("tflite-float16", "float16", 1.0)),
    "keras-inference": _with(deployment=Deployment((file("keras", "float32", 20.0, None), *DEPLOYMENT.files[1:]))),
    "runtime-threads": _files(file("tflite-float32, 8 threads", "float32", 0.6, 8)),
    "nothing-in-budget": _files(file("tflite-int8", "int8", 0.6, drop=0.05)),
    "failed-export": _files(file("tflite-float16", "float16", None, drop=None, reason="ExportError: no kernel.")),
    "memory-bound": _with(
        roofline=changed(ROOFLINE, layers=(LayerIntensity("dense", "Dense", 10**6, 10**8, "memory", 10.0),))
    ),
    "wide-convolutions": _with(
        cost=profile_of(_WIDE),
        parameters=changed(PARAMETERS, variables=(variable("conv", "Conv2D", (3, 3, 64, 64)),)),
    ),
    "tiny-channels": _with(
        parameters=changed(PARAMETERS, variables=(variable("conv", "Conv2D", (3, 3, 3, 16), dead=4),))
    ),
    "constant-channels": _with(activity=ChannelActivity(256, (LayerActivity("relu", "ReLU", 16, 6, 0),))),
    "redundant-channels": _with(activity=ChannelActivity(256, (LayerActivity("relu", "ReLU", 16, 0, 8),))),
    "useless-zeros": _with(
        parameters=changed(PARAMETERS, variables=(variable("conv", "Conv2D", (3, 3, 3, 16), zeros=300),))
    ),
    "large-dense": _with(
        cost=profile_of(changed(HEAD, parameters=500 * 400)),
        parameters=changed(PARAMETERS, variables=(variable("head", "Dense", (500, 400), rank=40.0),)),
    ),
    "large-embedding": _with(cost=profile_of(changed(HEAD, type="Embedding", parameters=10**6), CONV)),
    "tolerant-layers": _with(
        sensitivity=changed(
            SENSITIVITY,
            layers=(
                changed(SENSITIVITY.layers[0], effects=(PerturbationEffect("pruned_50", 0.001, 0.01, 0, 0, 1.0),)),
            ),
        )
    ),
    "hostile-layers": _with(
        quantization=changed(
            QUANTIZATION,
            output_db=5.0,
            agreement=0.6,
            flips=26,
            findings=(Finding("spread output", "depthwise", 500.0, 100.0, "Channels differ 500x."),),
        )
    ),
}
# Rules that the same fault makes speak too, and rightly so.
ALSO = {"python-input": {"input-bound"}}
