"""Which batch sizes to try, and what a batch that was not tried would take: arithmetic, no training."""

from collections.abc import Callable, Sequence

from kopt.core.records.training.finders import BatchTrial

# Bisection ends when what is left is a sixteenth of the batch: a finer answer costs more trials than it gains.
_FINENESS = 16
# A batch with this share of the best throughput is as fast; the smallest such one leaves memory for the rest.
_AS_FAST = 0.97
_MOST_BEND = 4.0

Try = Callable[[int], BatchTrial | None]


def search(attempt: Try, *, start: int, most: int | None, bisect: bool) -> tuple[list[BatchTrial], str]:
    """Try powers of two times `start` until one does not fit, then halve the interval between; return trials and why.

    Args:
        attempt: tries a batch size; `None` if there are not so many examples.
        start: first size.
        most: largest size; tried itself, whatever power lies below.
        bisect: look between the last that fits and the first that does not.
    """
    trials: list[BatchTrial] = []
    fits, fails, size, reason = 0, 0, start, ""
    while not fails:
        if most is not None and size > most:
            if fits == most:
                return trials, f"`max_batch_size` is {most}."
            size = most
        trial = attempt(size)
        if trial is None:
            return trials, f"The data has fewer than {size} examples."
        trials.append(trial)
        fits, fails, reason = (size, 0, "") if trial.fits else (fits, size, trial.reason)
        size *= 2
    while bisect and fits and fails - fits > max(1, fits // _FINENESS):
        trial = attempt((fits + fails) // 2)
        if trial is None:
            break
        trials.append(trial)
        if trial.fits:
            fits = trial.batch_size
        else:
            fails, reason = trial.batch_size, trial.reason
    return trials, f"A batch of {fails} does not fit: {reason}"


def predicted_growth(grown: Sequence[tuple[int, int]], size: int) -> int:
    """Return the memory that a batch of `size` adds, from what smaller ones added.

    From one measurement `g` at `n` it is `g * size / n`, an upper bound where memory is a constant and a part in
    proportion. From two it is the line through the last two. From three, where the slope grows, its last increase by a
    factor is expected once more (at most 4), which is exact for doubled sizes and memory that grows with the square,
    as that of losses over all pairs in a batch does.

    Args:
        grown: batch sizes, ascending, and the bytes that resident memory rose by.
        size: larger than all of them.
    """
    n, growth = grown[-1]
    if len(grown) == 1:
        return growth * size // n
    slope = _slope(grown[-2], grown[-1])
    if len(grown) > 2:
        before = _slope(grown[-3], grown[-2])
        slope *= min(max(slope / before, 1.0), _MOST_BEND) if before > 0 else 1.0
    return growth + round(max(slope, 0.0) * (size - n))


def fastest(trials: Sequence[BatchTrial]) -> BatchTrial:
    """Return the trial with the most examples a second among those that fit."""
    return max((trial for trial in trials if trial.fits), key=lambda trial: trial.examples_per_s or 0.0)


def choose(trials: Sequence[BatchTrial], objective: str) -> tuple[int, str]:
    """Return the batch size for an objective, `"memory"` or `"throughput"`, and why."""
    fitting = sorted((trial for trial in trials if trial.fits), key=lambda trial: trial.batch_size)
    if objective == "memory":
        return fitting[-1].batch_size, "the largest batch that fits"
    best = fastest(trials)
    speed = best.examples_per_s or 0.0
    chosen = next(trial for trial in fitting if (trial.examples_per_s or 0.0) >= _AS_FAST * speed)
    if chosen is best:
        return chosen.batch_size, f"{speed:.0f} examples a second, the most of all batches that fit"
    return chosen.batch_size, (
        f"{chosen.examples_per_s or 0.0:.0f} examples a second, within 3 % of the most ({speed:.0f} with a batch of "
        f"{best.batch_size}) and the smallest batch of which that is true"
    )


def _slope(lower: tuple[int, int], upper: tuple[int, int]) -> float:
    return (upper[1] - lower[1]) / (upper[0] - lower[0])
