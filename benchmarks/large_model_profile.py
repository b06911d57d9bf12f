"""Claim: the parameters of a model of 350 million are profiled in a minute and 2 GB, and sampled in seconds."""

import json
import subprocess
import sys
import time
from typing import Any

from claims import Claim, publish

GIB = 2**30


def measure(how: str) -> dict[str, Any]:
    """Profile the model once in this process, and return seconds and the rise of the peak of resident memory."""
    import keras

    from kopt.core.memory import peak_resident_bytes, start_peak
    from kopt.profile.weights.profile import parameters

    model = keras.applications.ConvNeXtXLarge(weights=None)
    options: dict[str, Any] = {
        "full": {},
        "without effective rank": {"effective_rank": False},
        "sampled": {"sample": 100_000},
        # ConvNeXt makes its depthwise convolutions of `Conv2D` with as many groups as channels.
        "depthwise in full, others sampled": {"select": "*depthwise_conv*", "sample": 100_000},
    }[how]
    before = start_peak()
    begin = time.perf_counter()
    profile = parameters(model, **options)
    seconds = time.perf_counter() - begin
    peak = peak_resident_bytes()
    return {
        "seconds": seconds,
        "extra_bytes": peak - before,
        "model_bytes": profile.size_bytes,
        "parameters": profile.parameters,
        "read": sum(variable.statistics.read for variable in profile.variables if variable.statistics),
        "coverage": coverage(model, profile) if how == "sampled" else None,
    }


def coverage(model: Any, profile: Any) -> float:
    """Return the fraction of sampled variables whose true mean is within two standard errors of the estimate."""
    from kopt.graph import owned_variables
    from kopt.graph.values import values_of

    true = {owned.path: float(values_of(owned.variable).mean(dtype="float64")) for owned in owned_variables(model)}
    sampled = [variable for variable in profile.variables if variable.reading == "sample"]
    hits = [abs(one.statistics.mean - true[one.path]) <= 2 * one.statistics.errors.mean for one in sampled]
    return sum(hits) / len(hits)


def in_fresh_process(how: str) -> dict[str, Any]:
    """Return what `measure` finds in a process of its own, so that no memory is left over from another way."""
    done = subprocess.run([sys.executable, __file__, how], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{how}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    """Measure every way of profiling in a process of its own."""
    hows = ("full", "without effective rank", "sampled", "depthwise in full, others sampled")
    results = {how: in_fresh_process(how) for how in hows}
    full = results["full"]
    numbers: dict[str, object] = {
        "parameters": full["parameters"],
        "model, GiB": round(full["model_bytes"] / GIB, 2),
    }
    for how, result in results.items():
        numbers |= {
            f"{how}: s": round(result["seconds"], 1),
            f"{how}: extra memory, GiB": round(result["extra_bytes"] / GIB, 3),
            f"{how}: entries read, millions": round(result["read"] / 1e6, 1),
        }
    return publish(
        "large_model_profile",
        "ConvNeXtXLarge with random weights, all statistics with exact percentiles and effective ranks: seconds and "
        "rise of the peak of resident memory in a fresh process.",
        numbers,
        [
            Claim("full profile", full["seconds"], 60, unit="s"),
            Claim("extra memory of the full profile", full["extra_bytes"] / GIB, 2, unit="GiB"),
            Claim("sampled over full time", results["sampled"]["seconds"] / full["seconds"], 0.5),
            Claim("true means within two standard errors", results["sampled"]["coverage"], 0.9, above=True),
        ],
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        json.dump(measure(sys.argv[1]), sys.stdout)
        raise SystemExit(0)
    raise SystemExit(main())
