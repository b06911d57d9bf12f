"""The table of techniques, in the order in which they are applied."""

import dataclasses
import functools
from collections.abc import Callable

from kopt.quantize.after_training.bench import Bench
from kopt.quantize.after_training.correcting import clip, correct_analytically, correct_empirically
from kopt.quantize.after_training.equalizing import absorb, equalize, smooth
from kopt.quantize.after_training.estimators import ESTIMATORS
from kopt.quantize.after_training.learned_rounding import learn_rounding, reconstruct
from kopt.quantize.after_training.techniques import Done

KERNELS, BIASES, RANGES = "kernels", "biases", "ranges"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Numbers that techniques take.

    Attributes:
        alpha: share of the spread of activations that `smooth` moves into weights.
        iterations: of `learned` and `blocks`, for each kernel.
    """

    alpha: float
    iterations: int


@dataclasses.dataclass(frozen=True)
class Option:
    """A row.

    Attributes:
        name: what a caller writes.
        changes: what it changes.
        apply: does it to the copy on a bench.
        group: of options in one group one can be had; empty: of its own.
        same_function: the copy computes in float what it did before, whatever the input.
        slow: `"auto"` tries it where the model is small.
    """

    name: str
    changes: tuple[str, ...]
    apply: Callable[[Bench, Settings], Done]
    group: str = ""
    same_function: bool = False
    slow: bool = False


def _estimate(estimator: str, bench: Bench, settings: Settings) -> Done:
    if not bench.free_ranges:
        return Done(0, "`ranges` fixes all ranges")
    before = bench.state.estimator
    bench.estimate(estimator)
    return Done(bench.free_ranges, f"ranges by {estimator} instead of {before}")


OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option("equalize", (KERNELS, BIASES, RANGES), lambda bench, _: equalize(bench), same_function=True),
        Option("absorb", (BIASES, RANGES), lambda bench, _: absorb(bench)),
        Option("smooth", (KERNELS, BIASES, RANGES), lambda bench, use: smooth(bench, use.alpha), same_function=True),
        *(
            Option(name, (RANGES,), functools.partial(_estimate, name), group="ranges", same_function=True)
            for name in ESTIMATORS
            if name != "minmax"
        ),
        Option("clip", (KERNELS,), lambda bench, _: clip(bench)),
        Option("learned", (KERNELS,), lambda bench, use: learn_rounding(bench, use.iterations), "rounding", slow=True),
        Option("blocks", (KERNELS,), lambda bench, use: reconstruct(bench, use.iterations), "rounding", slow=True),
        Option("analytic", (BIASES,), lambda bench, _: correct_analytically(bench), group="biases"),
        Option("empirical", (BIASES,), lambda bench, _: correct_empirically(bench), group="biases"),
    )
}
