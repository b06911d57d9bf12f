"""Synthetic records with round numbers, so that every ratio in a rendering can be checked in the head."""

import dataclasses

from kopt.core.records.artifacts import Artifact, OperatorCount, OutputParity, Parity, TensorInfo
from kopt.core.records.candidates import Candidate, ExportConfig, OptimizationResult
from kopt.core.records.measurements import Energy, Evaluation, Latency, Machine, Measurement
from kopt.core.records.profiles.cost import LayerCost, ModelProfile
from kopt.core.records.search.budget import Budget

MACHINE = Machine(
    "Linux x86_64",
    "Synthetic CPU 3000",
    2,
    8 << 30,
    (),
    "3.11.4",
    {"kopt": "1.2.3", "tensorflow": "2.21.0", "keras": "3.15.1"},
)


def make_latency(p50_ms, batch_size=1):
    return Latency(
        batch_size, 200, 20, p50_ms * 1.05, p50_ms * 0.9, p50_ms, p50_ms * 1.2, p50_ms * 1.5, batch_size * 1000 / p50_ms
    )


def make_measurement(target, p50_ms, runtime="LiteRT", *, batch_sizes=(1, 16), energy=None):
    latencies = tuple(make_latency(p50_ms * batch**0.8, batch) for batch in batch_sizes)
    return Measurement(target, runtime, 1, latencies, MACHINE, 12 << 20, energy)


def make_artifact(name, size_bytes, *, format="tflite", scheme="int8", agreement=0.99, examples=2000, notes=()):
    parity = Parity(
        name, "keras", examples, (OutputParity("probabilities", 0.031, 0.002, 0.0042, 0.31, 0.9999, agreement, 0, 0),)
    )
    return Artifact(
        path=f"run/{name}.{format}",
        format=format,
        scheme=scheme,
        size_bytes=size_bytes,
        gzip_bytes=size_bytes * 3 // 4,
        sha256="ab" * 32,
        source_sha256="cd" * 32,
        inputs=(TensorInfo("image", (None, 28, 28, 1), "float32"),),
        outputs=(TensorInfo("probabilities", (None, 10), "int8", 0.00390625, -128),),
        operators=(OperatorCount("CONV_2D", "int8", 4), OperatorCount("FULLY_CONNECTED", "int8", 1)),
        options={"io_dtype": "float32"},
        versions=MACHINE.versions,
        parity=parity,
        notes=notes,
    )


def make_candidate(name, p50_ms, size_bytes, accuracy, drop, *, runtime="LiteRT", energy=None, verdict="", **artifact):
    return Candidate(
        name=name,
        config=ExportConfig(),
        status="ok",
        artifact=make_artifact(name, size_bytes, **artifact),
        evaluation=Evaluation(name, runtime, 2000, {"accuracy": accuracy}),
        measurement=make_measurement(name, p50_ms, runtime, energy=energy),
        drop=drop,
        within_budget=drop <= 0.01,
        pareto=name in ("int8", "float16"),
        verdict=verdict,
    )


def make_profile(layers=6):
    costs = [LayerCost("image", "InputLayer", (None, 28, 28, 1), 0, 0)]
    costs += [LayerCost(f"conv_{i}", "Conv2D", (None, 14, 14, 16 * i), 1000 * i, 200_000 * i) for i in range(1, layers)]
    costs += [LayerCost("mystery", "MyLayer", (None, 64), 640, None), LayerCost("dense", "Dense", (None, 10), 650, 640)]
    total = sum(cost.parameters for cost in costs)
    return ModelProfile("digits_cnn", tuple(costs), total, total - 40)


def make_result(**changes):
    """Baseline 98.00 % of 2,000, 4 ms, 400 KiB; int8: 97.90 %, 1 ms, 100 KiB: 4x as fast, a quarter of the size."""
    baseline = make_candidate(
        "keras", 4.0, 400 * 1024, 0.98, 0.0, runtime="Keras", format="keras", scheme="float32", agreement=1.0
    )
    candidates = (
        make_candidate(
            "float32", 2.0, 392 * 1024, 0.98, 0.0, scheme="float32", agreement=1.0, verdict="slower than int8"
        ),
        make_candidate(
            "float16", 2.1, 200 * 1024, 0.98, 0.0, scheme="float16", agreement=1.0, verdict="slower than int8"
        ),
        make_candidate(
            "int8",
            1.0,
            100 * 1024,
            0.979,
            0.001,
            energy=Energy(0.5, "0.5 W assumed for one core", False),
            verdict="fastest inside the budget",
            notes=("Inputs are float32; the file quantizes them itself.",),
        ),
        make_candidate(
            "onnx-float32",
            3.0,
            396 * 1024,
            0.98,
            0.0,
            runtime="ONNX Runtime",
            format="onnx",
            scheme="float32",
            agreement=1.0,
            verdict="beaten by float32 in latency and size",
        ),
        make_candidate(
            "int4", 1.6, 60 * 1024, 0.93, 0.05, scheme="int4", agreement=0.94, verdict="5.00 points below the baseline"
        ),
        Candidate(
            "int16x8", ExportConfig(scheme="int16x8"), "failed", "The converter stopped: Empty min/max for tensor 12."
        ),
    )
    result = OptimizationResult(
        model="digits_cnn.keras",
        data="digits (2,000 validation examples)",
        budget=Budget(),
        baseline=baseline,
        candidates=candidates,
        best_name="int8",
        profile=make_profile(),
        machine=MACHINE,
        command="kopt optimize digits_cnn.keras --data digits --max-drop 0.01",
        seconds=83.4,
    )
    return dataclasses.replace(result, **changes)
