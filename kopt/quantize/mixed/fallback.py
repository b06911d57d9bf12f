"""The public function: the fewest layers that have to leave the integers."""

import dataclasses
import os
from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np

from kopt.core.errors import ExportError, UnsupportedModelError
from kopt.core.files import scratch_directory
from kopt.core.progress import Progress, Silent
from kopt.core.randomness import preserved_random_state
from kopt.core.records.changes.aware_training import RangeRule
from kopt.core.records.changes.fallback import FallbackPlan, FallbackStep, fallback_type
from kopt.core.settings import number, whole
from kopt.export import tflite
from kopt.export.float_layers import free_layers, layers_in_float
from kopt.export.integers import warned_already
from kopt.export.manifest import check_target
from kopt.export.source import open_model, trace
from kopt.graph import GraphView, signature
from kopt.measure import load
from kopt.measure.accuracy import require_probabilities
from kopt.quantize.copying import require_fit, rounded_copy
from kopt.quantize.diagnosis.calibrating import Batches, find_extremes, growth, set_ranges
from kopt.quantize.diagnosis.diagnose import batch_size
from kopt.quantize.diagnosis.examples import numbered
from kopt.quantize.diagnosis.measuring import Passes
from kopt.quantize.diagnosis.tracing import RoundedTrace
from kopt.quantize.few_examples import warn_of_few
from kopt.quantize.judged import before_choice
from kopt.quantize.mixed.float_layers import MixedModel
from kopt.quantize.mixed.judging import AccuracyJudge, Judge, RatioJudge, labelled_inputs
from kopt.quantize.mixed.searching import search
from kopt.quantize.quantized_model import is_quantized
from kopt.report.changes.fallback import FALLBACK
from kopt.report.look import Shown


@dataclasses.dataclass(frozen=True)
class Fallback(Shown, FallbackPlan):
    """What `fallback` found, with ways to show it.

    Example:
        >>> plan = kopt.quantize.fallback(model, x_train, least_db=20.0, samples=50)
        >>> plan.within_budget, plan.layers  # all of this model can be integers
        (True, ())
    """

    look = FALLBACK


@preserved_random_state()
def fallback(
    model: keras.Model,
    calibration: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    evaluate: tuple[np.ndarray, np.ndarray] | None = None,
    max_drop: float = 0.01,
    least_db: float = 20.0,
    to: str = "float32",
    most: int | None = None,
    samples: int = 100,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Fallback:
    """Find the fewest layers that have to stay out of the integers for an int8 file to be good enough.

    Use it when `kopt.quantize.diagnose` finds a few layers that spoil the rest and the network cannot be changed. The
    search runs a copy that rounds as the file does; the file itself is made once, at the end, and measured in LiteRT.

    Args:
        model: Functional or Sequential, built; not changed.
        calibration: real inputs, see `kopt.data.calibration`.
        path: where the file goes, with its manifest; `None`: it is made, measured and dropped.
        evaluate: `(x, y)` of labelled arrays: then the accuracy is budgeted, else the signal-to-noise ratio on the
            calibration examples.
        max_drop: accuracy that may be lost against the float model, with `evaluate`: 0.01 is one point.
        least_db: signal-to-quantization-noise ratio of the outputs that is wanted, without `evaluate`: 20 dB are an
            error of a tenth.
        to: `"float32"`, or `"float16"`: weights of half the size that compute in float32. `"int16"` is refused: the
            converter gives all activations of a file one type.
        most: layers in float; `None`: any number.
        samples: how many calibration examples at most.
        seed: of their choice.
        overwrite: replace `path`.
        progress: told of every batch of the ranking.

    Returns:
        A plan that can be saved (`.to_json()`), read (`kopt.core.records.changes.fallback.FallbackPlan.from_json`)
        and applied again: `kopt.export.tflite(model, path, scheme=plan.scheme, calibration=..., fallback=plan)`.

    Raises:
        InputError: the model, a setting or the examples cannot be used.
        UnsupportedModelError: as `kopt.quantize.aware`; a copy that it made is refused, too, and an RNN that TFLite has
            no integer operator for.
        ExportError: the converter failed.
        OutputError: `path` cannot be written or exists.

    Warns:
        UserWarning: there are fewer than 20 examples.

    Example:
        >>> plan = kopt.quantize.fallback(model, x_train, "mixed.tflite", evaluate=(x_val, y_val), max_drop=0.02)
        >>> plan.within_budget, plan.metric
        (True, 'accuracy')
    """
    fallback_type(to)
    number("max_drop", max_drop, least=0.0, most=1.0)
    number("least_db", least_db, least=0.0, most=200.0)
    if is_quantized(model):
        raise UnsupportedModelError(
            f"Model {model.name!r} is quantization-aware already. Name layers as `skip` of `kopt.quantize.aware`, or "
            f"pass the model that it was made from."
        )
    if most is not None:
        whole("most", most, least=0)
    if path is not None:
        check_target(path, format="tflite", overwrite=overwrite)
    inputs, _ = signature(model)
    arrays, _ = numbered(calibration, samples, seed, inputs)
    require_fit(model)
    if evaluate is not None:
        require_probabilities(model)
    source = trace(open_model(model))
    free = free_layers(source)
    copy, record = rounded_copy(model, "int8", RangeRule(), ())
    rounded = RoundedTrace(copy, judged=False)
    batches = Batches(arrays, batch_size(rounded))
    extremes = find_extremes(rounded, batches)
    set_ranges(rounded, extremes)
    few = warn_of_few(batches.examples, growth(extremes))
    mixed = MixedModel(copy, rounded)
    decibels = RatioJudge(mixed, batches)
    judge: Judge = decibels
    if evaluate is not None:
        judge = AccuracyJudge(mixed, Batches(labelled_inputs(evaluate, inputs), batches.size), evaluate[1])
    least = least_db if evaluate is None else judge.reference - max_drop
    order = [name for name in mixed.layers if free is None or name in free]
    limit = len(order) if most is None else most
    noise = mixed.noise(_errors_alone(rounded, batches, progress or Silent()))
    takers = {name: mixed.takers[name].intersection(order) for name in order}
    states = search(order, {name: noise[name] for name in order}, takers, judge.of_model, least, limit)
    # What has no integer operator computes in float whatever the budget; of much the converter knows a way.
    without = _in_order(model, [one.layer for one in record.left])
    layers = tuple(name for name in mixed.layers if name in states[-1].layers)
    notes: tuple[str, ...] = ()
    with scratch_directory() as scratch, warned_already():
        target = scratch / "model.tflite" if path is None else path
        settings = {"scheme": "int8", "calibration": calibration, "samples": samples, "seed": seed}
        settings |= {"fallback_dtype": to, "overwrite": overwrite}
        try:
            tflite(source, target, fallback=layers, **settings)
        except ExportError as error:
            if not without:
                raise
            layers = _in_order(model, (*without, *layers))
            notes = (f"{', '.join(without)} went to {to} for the converter's sake, which refused before: {error}",)
            tflite(source, target, fallback=layers, **settings)
        else:
            beside = [name for name in layers_in_float(source, target, without) if name not in layers]
            if beside:
                layers = _in_order(model, (*layers, *beside))
                notes = (f"{', '.join(beside)} would be in {to} anyway: there is no integer operator for it.",)
                tflite(source, target, fallback=layers, **{**settings, "overwrite": True})
        runner = load(target)
        measured, measured_db = judge.of_file(runner), decibels.of_file(runner)
    return Fallback(
        model=model.name,
        scheme="int8",
        to=to,
        layers=layers,
        least_db=least_db if evaluate is None else None,
        max_drop=None if evaluate is None else max_drop,
        metric=judge.metric,
        reference=judge.reference,
        steps=tuple(FallbackStep(one.added, decibels.of_model(one.layers), one.score) for one in states),
        measured=measured,
        measured_db=measured_db,
        within_budget=measured >= least,
        examples=judge.batches.examples,
        notes=(
            *(*few, *notes, *_note_of_choices(copy)),
            *_notes(states[-1].score >= least, measured >= least, limit, order, mixed.layers),
        ),
    )


def _errors_alone(rounded: RoundedTrace, batches: Batches, progress: Progress) -> list[float]:
    """Return the error that each operator injects into the outputs."""
    passes = Passes(rounded)
    progress.start(-(-batches.examples // batches.size))
    try:
        passes.run(batches, progress)
    finally:
        progress.finish()
    return passes.alone


def _in_order(model: keras.Model, layers: Collection[str]) -> tuple[str, ...]:
    """Return paths of layers in the order of the model, each once."""
    return tuple(path for path, _ in GraphView.of(model).walk() if path in layers)


def _note_of_choices(copy: keras.Model) -> tuple[str, ...]:
    view = GraphView.of(copy)
    if all(before_choice(view, tensor) is tensor for tensor in view.outputs):
        return ()
    return (
        "An output is an argmax, and its places were compared as if they were quantities: it counts only whether they "
        "are the same. Plan with the model that ends before it.",
    )


def _notes(is_found: bool, is_met: bool, limit: int, tried: Sequence[str], layers: Sequence[str]) -> tuple[str, ...]:
    if not is_found:
        held = [name for name in layers if name not in tried]
        note = f"No choice of up to {limit} layers was found that holds the budget; this is the best that was tried."
        if held:
            note += (
                f" Beside an LSTM, which is one operator, {', '.join(held)} cannot stay in float so; "
                f"`skip` of `kopt.quantize.post_training` and `aware` leaves any layer in float."
            )
        return (note,)
    if not is_met:
        return (
            "The rounded model holds the budget, its file does not: where a sum lies on a tie, LiteRT may round it to "
            "the other side. Ask for a little more than is needed.",
        )
    return ()
