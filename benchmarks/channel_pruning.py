"""Claim: at half the multiply-accumulates, a LiteRT file is 1.5 to 1.6 times as fast, and pruning takes seconds."""

import tempfile
import time
from pathlib import Path
from typing import Any

import keras
from claims import Claim, publish
from training_networks import resnet8

import kopt


def resnet50() -> Any:
    """Return it for images of 224 x 224."""
    return keras.applications.ResNet50(weights=None)


def mobilenet_v2() -> Any:
    """Return it for images of 224 x 224."""
    return keras.applications.MobileNetV2(weights=None)


# Network, and the bound of its ratio.
NETWORKS = {"ResNet8": (resnet8, 1.6), "MobileNetV2": (mobilenet_v2, 1.5), "ResNet50": (resnet50, 1.6)}
MOST_SECONDS = 20.0


def main() -> int:
    """Prune, export both, and time them in turns."""
    numbers: dict[str, object] = {}
    claims = []
    for name, (make, bound) in NETWORKS.items():
        keras.utils.set_random_seed(0)
        model = make()
        start = time.perf_counter()
        smaller, report = kopt.prune.channels(model, target_macs=0.5)
        seconds = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as directory:
            runners = []
            for which, one in (("dense", model), ("pruned", smaller)):
                artifact = kopt.export.tflite(one, Path(directory) / f"{which}.tflite")
                runners.append(kopt.measure.load(artifact.path, threads=1))
            dense, pruned = kopt.measure.latency(runners, max_seconds=20.0)
        numbers[f"{name}, multiply-accumulates"] = [report.macs_before, report.macs_after]
        numbers[f"{name}, ms"] = [round(dense.median_ms, 4), round(pruned.median_ms, 4)]
        numbers[f"{name}, seconds to prune"] = round(seconds, 2)
        claims.append(Claim(f"{name}: dense over pruned", dense.median_ms / pruned.median_ms, bound, above=True))
        if name == "ResNet50":
            claims.append(Claim("pruning ResNet50", seconds, MOST_SECONDS, unit="s"))
        keras.backend.clear_session()
    return publish(
        "channel_pruning",
        "kopt.prune.channels(target_macs=0.5) of networks with random weights; both as float32 files, LiteRT on one "
        "thread, one example, in turns, medians.",
        numbers,
        claims,
    )


if __name__ == "__main__":
    raise SystemExit(main())
