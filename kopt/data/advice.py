"""What to change in an input pipeline, from what was measured: no clock and no pipeline here."""

import dataclasses
from collections.abc import Sequence

from kopt.core.records.training.data import CachePlan, StageTime

_NOTICEABLE = 0.05  # share of a batch's time below which a change is not worth a line
_LONG_START_MS = 1000.0
_SMALL_CALL_MS = 0.02  # a call of a TensorFlow function costs about this much whatever it does


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known about one stage beside its time.

    Attributes:
        kind: as `tf.data` spells it.
        function: the name of its function in the user's program, `""` if it has none.
        parallel: it was given `num_parallel_calls`.
        multiplicity: its elements in one element of the whole pipeline.
        setting: buffer or batch size, -1 for AUTOTUNE, `None` if it has none.
        parallel_ms: `up_to_ms` with `num_parallel_calls=AUTOTUNE`, where that was tried.
    """

    kind: str
    function: str = ""
    parallel: bool = False
    multiplicity: int = 1
    setting: int | None = None
    parallel_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class CacheOption:
    """Where a cache could go: after which stage, and whether it fits."""

    stage: int
    plan: CachePlan


def verdict_of(batch_ms: float, step_ms: float | None) -> str:
    """Return which of the two limits training; within 10 % of each other neither does."""
    if step_ms is None:
        return "no model"
    if batch_ms > 1.1 * step_ms:
        return "input-bound"
    return "compute-bound" if step_ms > 1.1 * batch_ms else "balanced"


def advise(
    verdict: str,
    stages: Sequence[StageTime],
    facts: Sequence[Facts],
    *,
    batch_ms: float,
    start_ms: float,
    has_prefetch: bool,
    cache: CacheOption | None,
    cores: int,
) -> tuple[str, ...]:
    """Return concrete edits, the one that saves most first; empty if nothing would help."""
    ranked: list[tuple[float, str]] = []
    if not has_prefetch:
        ranked.append(
            (batch_ms, "Add `.prefetch(tf.data.AUTOTUNE)` at the end: making the next batch then overlaps the step.")
        )
    if verdict != "compute-bound":
        for stage, fact in zip(stages, facts, strict=True):
            ranked.extend(_stage_advice(stage, fact, batch_ms))
        ranked.extend(_cache_advice(stages, cache, batch_ms))
    if start_ms > _LONG_START_MS:
        ranked.extend((start_ms / 1e3, line) for line in _start_advice(facts, start_ms))
    if verdict == "input-bound" and not ranked:
        slowest = max(stages, key=lambda stage: stage.added_ms)
        ranked.append(
            (
                0.0,
                f"Nothing here is left undone on {cores} core(s). Make `{slowest.stage}` cheaper, or make the input on "
                f"other machines: `kopt.data.distribute`.",
            )
        )
    return tuple(line for _, line in sorted(ranked, key=lambda pair: -pair[0]))


def _stage_advice(stage: StageTime, fact: Facts, batch_ms: float) -> list[tuple[float, str]]:
    name = f"`{stage.stage}`" if not fact.function else f"`{stage.stage}` of `{fact.function}`"
    if stage.python:
        return [
            (
                stage.added_ms + batch_ms * _NOTICEABLE,
                f"{name} runs Python for every element, one at a time: {stage.added_ms:.3g} ms of a batch. Write it "
                f"with TensorFlow operations, or keep its results once with `kopt.data.write_tfrecords` or arrays.",
            )
        ]
    if stage.added_ms < _NOTICEABLE * batch_ms:
        return []
    lines = []
    if fact.parallel_ms is not None and fact.parallel_ms < 0.8 * stage.up_to_ms:
        saved = stage.up_to_ms - fact.parallel_ms
        lines.append(
            (
                saved,
                f"{name} runs one call at a time: pass `num_parallel_calls=tf.data.AUTOTUNE`. Tried here: "
                f"{stage.up_to_ms:.3g} ms a batch becomes {fact.parallel_ms:.3g} ms.",
            )
        )
    if fact.kind == "interleave" and not fact.parallel:
        lines.append(
            (
                stage.added_ms / 2,
                "interleave reads one file at a time: pass `num_parallel_calls=tf.data.AUTOTUNE`.",
            )
        )
    if fact.kind == "map" and fact.multiplicity >= 8 and stage.added_ms / fact.multiplicity < _SMALL_CALL_MS:
        lines.append(
            (
                stage.added_ms / 2,
                f"{name} is called {fact.multiplicity} times a batch for little work: put `.batch` before it and let "
                f"it work on whole batches.",
            )
        )
    return lines


def _cache_advice(stages: Sequence[StageTime], cache: CacheOption | None, batch_ms: float) -> list[tuple[float, str]]:
    if cache is None or cache.plan.place == "none" or stages[cache.stage].up_to_ms < 0.2 * batch_ms:
        return []
    stage = stages[cache.stage]
    argument = "" if cache.plan.place == "memory" else "path"
    return [
        (
            0.9 * stage.up_to_ms,
            f"Cache after `{stage.stage}`, e.g. `.cache({argument})`: it makes the same elements every epoch at "
            f"{stage.up_to_ms:.3g} ms a batch. {cache.plan.reason[0].upper()}{cache.plan.reason[1:]}",
        )
    ]


def _start_advice(facts: Sequence[Facts], start_ms: float) -> list[str]:
    for fact in facts:
        if fact.kind == "shuffle" and fact.setting and fact.setting > 1:
            return [
                f"The first batch takes {start_ms / 1e3:.2g} s: `shuffle({fact.setting})` fills its buffer first, "
                f"every epoch. Shuffle file names or row numbers before decoding, or use a smaller buffer."
            ]
    return []
