"""Claims: removing channels takes seconds, reaches its target, and makes the exported file faster."""

import tempfile
import time
from pathlib import Path

import keras
from claims import Claim, publish
from training_networks import resnet8

import kopt

# Two of `keras.applications` at 224x224 and one for small images, and how much faster half of the arithmetic should be.
SPEEDUPS = {"ResNet50": 1.6, "MobileNetV2": 1.5, "ResNet8": 1.6}
# Where a layer takes microseconds, arithmetic does not tell the time of a channel: it is measured.
SETTINGS = {"ResNet8": {"per": "latency"}}
LIMIT_S = 20.0
SECONDS = 10.0


def main() -> int:
    """Prune to half of the multiply-accumulates, export both models, and time the files in turns."""
    keras.utils.set_random_seed(0)
    numbers: dict[str, object] = {}
    claims = [_largest(numbers)]
    for name, speedup in SPEEDUPS.items():
        model = resnet8() if name == "ResNet8" else getattr(keras.applications, name)(weights=None)
        start = time.perf_counter()
        smaller, report = kopt.prune.channels(model, target_macs=0.5, **SETTINGS.get(name, {}))
        seconds = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as directory:
            pairs = {"dense": model, "pruned": smaller}
            files = [kopt.export.tflite(one, Path(directory) / f"{kind}.tflite") for kind, one in pairs.items()]
            dense, pruned = kopt.measure.latency([file.path for file in files], max_seconds=SECONDS)
        numbers |= {
            f"{name}, pruning s": round(seconds, 2),
            f"{name}, macs kept": round(report.macs_kept, 4),
            f"{name}, dense ms": round(dense.latency_ms, 3),
            f"{name}, pruned ms": round(pruned.latency_ms, 3),
            f"{name}, dense bytes": files[0].size_bytes,
            f"{name}, pruned bytes": files[1].size_bytes,
        }
        claims += [
            Claim(f"{name}, pruning", seconds, LIMIT_S, unit="s"),
            Claim(f"{name}, multiply-accumulates kept", report.macs_kept, 0.5),
            Claim(f"{name}, dense over pruned", dense.latency_ms / pruned.latency_ms, speedup, above=True),
        ]
    return publish(
        "channel_pruning",
        "Half of the multiply-accumulates, LiteRT float32, one thread, batch 1, in turns, medians.",
        numbers,
        claims,
    )


def _largest(numbers: dict[str, object]) -> Claim:
    """Prune a network of 88 million parameters."""
    model = keras.applications.ConvNeXtBase(weights=None)
    start = time.perf_counter()
    _, report = kopt.prune.channels(model, target_macs=0.5)
    seconds = time.perf_counter() - start
    numbers |= {
        "ConvNeXtBase, pruning s": round(seconds, 2),
        "ConvNeXtBase, macs kept": round(report.macs_kept, 4),
        "ConvNeXtBase, parameters": model.count_params(),
    }
    return Claim("ConvNeXtBase, pruning", seconds, LIMIT_S, unit="s")


if __name__ == "__main__":
    raise SystemExit(main())
