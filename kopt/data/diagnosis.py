"""Does training wait for its input, for which stage of it, and what should be changed."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kopt.core.environment import machine
from kopt.core.errors import ConfigError, DataError
from kopt.core.records.training.data import CachePlan, PipelineDiagnosis, StageTime
from kopt.data.advice import CacheOption, Facts, advise, verdict_of
from kopt.data.caching import dataset_bytes, plan_cache
from kopt.data.internals import (
    all_stages,
    draws_random_numbers,
    function_name,
    is_parallel,
    kind_of,
    makes_generator,
    name_of,
    remapped,
    runs_python,
    setting_of,
)
from kopt.data.seeds import AUGMENTATION
from kopt.data.stage_timing import UNTIMED, Prefix, pace, prefixes
from kopt.data.step_timing import check_compiled, step_ms
from kopt.report import PIPELINE, Shown, pipeline_headline

_LEAST_STAGE_S = 0.05


@dataclasses.dataclass(frozen=True)
class Diagnosis(Shown, PipelineDiagnosis):
    """What `diagnose` found, with ways to show it."""

    look = PIPELINE

    def __str__(self) -> str:
        return pipeline_headline(self)


def diagnose(dataset: tf.data.Dataset, model: Any = None, *, seconds: float = 10.0) -> Diagnosis:
    """Measure each stage of an input pipeline alone and the model alone, and say which limits training.

    Use it when training is slower than it should be: it answers whether the input or the model is the limit, by how
    much, which stage of the input costs most and what to change.

    A stage's cost is the time to make one batch with the pipeline up to this stage, less that up to the stage before.
    The model's is that of a training step on a batch that is at hand. In `fit` the two overlap if the pipeline ends
    with `.prefetch`; on a machine without an accelerator they share the processor, so that the sum is the limit.

    The data set is iterated, in parts and whole. Random orders and augmentations advance by that as by epochs: build
    the pipeline anew for a run that must repeat. A cache is filled as far as the measuring gets.

    Args:
        dataset: batched, of any source; `(x, y)` if there is a model.
        model: a compiled Keras model, or `None` for the pipeline alone. Its weights, optimizer, metrics and random
            states are put back.
        seconds: how long to measure in all, about.

    Returns:
        The verdict, with `.table()` for the terminal and `.plot(path)`.

    Raises:
        ConfigError: an impossible `seconds`, a model that is not compiled, or no targets for it.
        DataError: not a data set, or an empty one.

    Example:
        >>> train = kopt.data.from_arrays(x_train, y_train, batch_size=64)
        >>> found = kopt.data.diagnose(train, model, seconds=0.3)
        >>> [stage.stage for stage in found.stages]
        ['source: range', 'batch', 'map']
        >>> found.verdict  # doctest: +SKIP
        'compute-bound'

    Source: https://www.tensorflow.org/guide/data_performance_analysis
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        raise ConfigError(f"`seconds` must be a positive number. Received: {seconds!r}.")
    if not isinstance(dataset, tf.data.Dataset):
        raise DataError(
            f"`dataset` must be a tf.data.Dataset. Received: {type(dataset).__module__}.{type(dataset).__qualname__}. "
            f"Make one of arrays with `kopt.data.from_arrays`."
        )
    if model is not None:
        check_compiled(model)
    batch = next(iter(dataset), None)
    if batch is None:
        raise DataError("The data set is empty: there is nothing to measure. Check its source and filters.")
    parts = _timed_parts(dataset)
    share = max(_LEAST_STAGE_S, seconds / (len(parts) + 1 + (model is not None)))
    whole = pace(dataset, share)
    step = None if model is None else step_ms(model, batch, share)
    stages = _times(parts, share, whole.element_ms)
    facts = tuple(_facts(part, stage, whole.element_ms, share) for part, stage in zip(parts, stages, strict=True))
    verdict = verdict_of(whole.element_ms, step)
    return Diagnosis(
        verdict=verdict,
        batch_ms=whole.element_ms,
        step_ms=step,
        batch_examples=float(_examples(batch)),
        start_ms=whole.start_ms,
        stages=stages,
        slowest=max(stages, key=lambda stage: stage.added_ms).stage,
        advice=advise(
            verdict,
            stages,
            facts,
            batch_ms=whole.element_ms,
            start_ms=whole.start_ms,
            has_prefetch=_ends_with_prefetch(dataset),
            cache=_cache_option(parts),
            cores=machine().cores,
        ),
        machine_cores=machine().cores,
    )


def _timed_parts(dataset: tf.data.Dataset) -> list[Prefix]:
    parts = prefixes(dataset)
    timed = [part for part in parts if part.kind not in UNTIMED and name_of(part.dataset) != AUGMENTATION]
    return timed or parts[:1]


def _times(parts: Sequence[Prefix], seconds: float, batch_ms: float) -> tuple[StageTime, ...]:
    measured = [pace(part.dataset, seconds, group=part.multiplicity).element_ms for part in parts]
    # A longer part does all that a shorter one does: where it was faster, the shorter one was disturbed (or a cache
    # after it spares its work).
    up_to = list(itertools.accumulate(reversed([*measured, batch_ms]), min))[:0:-1]
    return tuple(
        StageTime(
            stage=_label(part, is_source=place == 0),
            detail=_detail(part),
            up_to_ms=up_to[place],
            added_ms=up_to[place] - (up_to[place - 1] if place else 0.0),
            python=_is_python(part, is_source=place == 0),
        )
        for place, part in enumerate(parts)
    )


def _label(part: Prefix, *, is_source: bool) -> str:
    if not is_source:
        return part.kind
    if makes_generator(part.dataset):
        return "source: from_generator"
    deepest = all_stages(part.dataset)[-1]
    kinds = dict.fromkeys((kind_of(deepest), part.kind))
    return f"source: {' '.join(kinds)}"


def _detail(part: Prefix) -> str:
    words = [_function(part)]
    if part.kind in ("map", "interleave"):
        words.append("parallel" if is_parallel(part.dataset) else "sequential")
    if (setting := setting_of(part.dataset)) is not None:
        words.append("AUTOTUNE" if setting == -1 else f"{setting:,}")
    return ", ".join(filter(None, words))


def _is_python(part: Prefix, *, is_source: bool) -> bool:
    # All that lies before the first timed stage counts as it.
    return any(map(runs_python, all_stages(part.dataset))) if is_source else runs_python(part.dataset)


def _facts(part: Prefix, stage: StageTime, batch_ms: float, seconds: float) -> Facts:
    tried = None
    is_sequential_map = part.kind == "map" and not is_parallel(part.dataset) and not stage.python
    if is_sequential_map and stage.added_ms > 0.05 * batch_ms and (again := remapped(part.dataset)) is not None:
        tried = _parallel_ms(part, again(_input(part.dataset)), stage.up_to_ms, seconds)
    return Facts(
        kind=part.kind,
        function=_function(part),
        parallel=is_parallel(part.dataset),
        multiplicity=part.multiplicity,
        setting=setting_of(part.dataset),
        parallel_ms=tried,
    )


def _parallel_ms(part: Prefix, parallel: tf.data.Dataset, up_to_ms: float, seconds: float) -> float:
    """Milliseconds with the map in parallel; the two are measured in turn, because the machine is never quiet."""
    best, as_it_is = float("inf"), up_to_ms
    for _ in range(2):
        best = min(best, pace(parallel, seconds / 2, group=part.multiplicity).element_ms)
        as_it_is = min(as_it_is, pace(part.dataset, seconds / 2, group=part.multiplicity).element_ms)
    return up_to_ms * best / as_it_is


def _function(part: Prefix) -> str:
    return function_name(part.dataset) if part.kind in ("map", "filter", "scan") else ""


def _cache_option(parts: Sequence[Prefix]) -> CacheOption | None:
    """The last stage whose elements are the same every epoch, if there is no cache yet and more than a source."""
    if any(kind_of(stage) in ("cache", "snapshot") for stage in all_stages(parts[-1].dataset)):
        return None
    last = None
    for place, part in enumerate(parts):
        if any(_varies(stage) for stage in all_stages(part.dataset)):
            break
        last = place
    if last is None or (last == 0 and len(parts) > 1):
        return None
    dataset = parts[last].dataset
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        return None
    plan: CachePlan = plan_cache(dataset, "auto", size_bytes=dataset_bytes(dataset))
    return CacheOption(last, plan)


def _varies(stage: tf.data.Dataset) -> bool:
    return kind_of(stage) in ("shuffle", "random") or draws_random_numbers(stage)


def _ends_with_prefetch(dataset: tf.data.Dataset) -> bool:
    kind = kind_of(dataset)
    return kind == "prefetch" or (kind in UNTIMED and _ends_with_prefetch(_input(dataset)))


def _input(dataset: tf.data.Dataset) -> tf.data.Dataset:
    [source] = prefixes(dataset)[-2:-1]
    return source.dataset


def _examples(batch: Any) -> int:
    first = tf.nest.flatten(batch, expand_composites=True)[0]
    return int(first.shape[0]) if first.shape.rank else 1
