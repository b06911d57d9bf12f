"""What ships is what is judged: one runner over every deployable file, and honest numbers on it."""

from typing import TYPE_CHECKING

from kopt.core.lazy_names import on_first_use

if TYPE_CHECKING:
    from kopt.measure.ab_testing import ABResult, ab_scores, ab_test
    from kopt.measure.accuracy import correct_share, evaluate, is_loss, metric_values
    from kopt.measure.comparison import compare_outputs, parity
    from kopt.measure.devices import check_devices
    from kopt.measure.drifting import drift, drift_profile
    from kopt.measure.feeding import random_inputs
    from kopt.measure.footprint import memory
    from kopt.measure.loading import load, load_signatures
    from kopt.measure.operation_energy import Work
    from kopt.measure.power import energy
    from kopt.measure.runner import Runner
    from kopt.measure.tensorrt_probe import tensorrt_facts, tensorrt_support
    from kopt.measure.timing import latency, summarize

__all__ = [
    "ABResult",
    "Runner",
    "Work",
    "ab_scores",
    "ab_test",
    "check_devices",
    "compare_outputs",
    "correct_share",
    "drift",
    "drift_profile",
    "energy",
    "evaluate",
    "is_loss",
    "latency",
    "load",
    "load_signatures",
    "memory",
    "metric_values",
    "parity",
    "random_inputs",
    "summarize",
    "tensorrt_facts",
    "tensorrt_support",
]

__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "ab_testing": ("ABResult", "ab_scores", "ab_test"),
        "accuracy": ("correct_share", "evaluate", "is_loss", "metric_values"),
        "comparison": ("compare_outputs", "parity"),
        "devices": ("check_devices",),
        "drifting": ("drift", "drift_profile"),
        "feeding": ("random_inputs",),
        "footprint": ("memory",),
        "loading": ("load", "load_signatures"),
        "operation_energy": ("Work",),
        "power": ("energy",),
        "runner": ("Runner",),
        "tensorrt_probe": ("tensorrt_facts", "tensorrt_support"),
        "timing": ("latency", "summarize"),
    },
)
