"""The public function: at which layers an integer file loses its accuracy, and why."""

import dataclasses
import math
import os
import time
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError
from kopt.core.files import atomic_write
from kopt.core.progress import Progress, Silent
from kopt.core.randomness import preserved_random_state
from kopt.core.records.changes.aware_training import RangeRule
from kopt.core.records.changes.quantization_diagnosis import ExampleError, LayerDiagnosis, QuantizationDiagnosis
from kopt.export.integers import ENOUGH
from kopt.graph import signature
from kopt.quantize.copying import Skip, require_fit, rounded_copy
from kopt.quantize.diagnosis.calibrating import Batches, find_extremes, growth, set_ranges
from kopt.quantize.diagnosis.examples import numbered
from kopt.quantize.diagnosis.findings import findings_of
from kopt.quantize.diagnosis.kernel_ranges import kernel_range
from kopt.quantize.diagnosis.measuring import Answers, Passes
from kopt.quantize.diagnosis.operators import Operator
from kopt.quantize.diagnosis.signals import Signal, decibels, middle_share
from kopt.quantize.diagnosis.tracing import RoundedTrace, Switched
from kopt.quantize.few_examples import effect
from kopt.quantize.quantized_model import QuantizedFunctional, is_quantized
from kopt.quantize.ranges import FixedQuantizer
from kopt.report.changes.diagnosis import DIAGNOSIS, diagnosis_html
from kopt.report.look import Shown

_WORST = 10
# What the outputs of all operators may take for one batch.
_BATCH_BYTES = 128 << 20
_MOST_EXAMPLES = 64


@dataclasses.dataclass(frozen=True)
class Diagnosis(Shown, QuantizationDiagnosis):
    """What `diagnose` found, with ways to show it.

    Example:
        >>> found = kopt.quantize.diagnose(model, (x_train, y_train), samples=20)
        >>> [(row.layer, row.type) for row in found.layers][:3]
        [('image', 'InputLayer'), ('conv1', 'Conv2D'), ('conv2', 'Conv2D')]
    """

    look = DIAGNOSIS

    def html(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write findings, plot and all numbers to one HTML file that needs no network, and return its path.

        Raises:
            OutputExistsError: the file exists and `overwrite` is false.
            OutputError: the path cannot be written.
        """
        return atomic_write(path, diagnosis_html(self), overwrite=overwrite)


@preserved_random_state()
def diagnose(
    model: keras.Model,
    calibration: Any,
    *,
    scheme: str = "int8",
    skip: Skip = (),
    samples: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """Round a model as an integer file does, layer by layer, and say where its accuracy goes and why.

    Use it when an int8 file of a model answers worse than the model. The rounding is that of `kopt.quantize.aware`,
    which agrees with the integers of LiteRT; ranges are the smallest and largest values, as the converter finds them.
    For each layer the error that it injects is told apart from the error that has accumulated before it. An output that
    is an argmax is judged by what it is taken of.

    The examples are passed through the model twice without rounding (once for the ranges), once with all of it, and
    for each layer alone through what comes after it.

    Args:
        model: Functional or Sequential, built; not changed. Or a copy of `kopt.quantize.aware`, whose own ranges are
            then judged.
        calibration: real inputs, see `kopt.data.calibration`; labels are used to choose the examples and nothing else.
        scheme: `"int8"` or `"int16x8"`.
        skip: layers in float, see `kopt.quantize.aware`.
        samples: how many examples at most.
        seed: of their choice.
        progress: told of every batch.

    Returns:
        A record with a row for each operator of the file, the examples that suffer most, and findings in plain words;
        `.table()`, `.plot(path)`, `.html(path)`, `.to_json()`.

    Raises:
        InputError: the model, a setting or the examples cannot be used.
        UnsupportedModelError: as `kopt.quantize.aware`.

    Warns:
        UserWarning: ranges come from fewer than 20 examples.

    Example:
        >>> found = kopt.quantize.diagnose(model, (x_train, y_train), samples=50)
        >>> found.examples, found.agreement > 0.9
        (50, True)
        >>> path = found.html("diagnosis.html")

    Source: Nagel et al., "A White Paper on Neural Network Quantization", 2021, section 3.6 (debugging).
    """
    begin = time.monotonic()
    arrays, rows = numbered(calibration, samples, seed, signature(model)[0])
    copy = _copy(model, scheme, skip)
    trace = RoundedTrace(copy)
    batches = Batches(arrays, batch_size(trace))
    extremes = find_extremes(trace, batches)
    if copy is not model:
        set_ranges(trace, extremes)
    passes = Passes(trace)
    progress = progress or Silent()
    progress.start(-(-batches.examples // batches.size))
    try:
        passes.run(batches, progress)
    finally:
        progress.finish()
    layers = _layers(copy, trace, passes)
    answers = passes.answers
    output_db = decibels(answers.signal.sum(), answers.noise.sum())
    flips = int(np.count_nonzero(answers.exact != answers.rounded))
    return Diagnosis(
        model=model.name,
        scheme=copy.quantization.scheme,
        examples=batches.examples,
        output_db=output_db,
        agreement=1.0 - flips / len(answers.exact) if len(answers.exact) else None,
        flips=flips,
        layers=layers,
        worst=_worst(answers, rows),
        findings=findings_of(layers, output_db),
        left=copy.quantization.left,
        seconds=time.monotonic() - begin,
        notes=_notes(batches.examples, extremes, copy is not model),
    )


def batch_size(trace: RoundedTrace) -> int:
    """Return how many examples go through the model at a time, so that all outputs can be kept."""
    numbers = sum(math.prod(size or 1 for size in one.taken.shape) for one in trace.operators)
    return max(1, min(_MOST_EXAMPLES, _BATCH_BYTES // (4 * numbers)))


def _copy(model: keras.Model, scheme: str, skip: Skip) -> QuantizedFunctional:
    if not is_quantized(model):
        require_fit(model)
        return rounded_copy(model, scheme, RangeRule(), skip)[0]
    own = model.quantization.scheme
    if scheme not in ("int8", own) or skip:
        raise ConfigError(
            f"Model {model.name!r} was made by `kopt.quantize.aware` for {own!r}, with its float layers. Received: "
            f"scheme={scheme!r}, skip={skip!r}. Leave both out."
        )
    return model


def _layers(copy: QuantizedFunctional, trace: RoundedTrace, passes: Passes) -> tuple[LayerDiagnosis, ...]:
    steps = _input_steps(trace)
    output = passes.answers.signal.sum()
    return tuple(
        _layer(copy, one, signal, decibels(output, alone), step)
        for one, signal, alone, step in zip(trace.operators, passes.signals, passes.alone, steps, strict=True)
    )


def _layer(
    copy: QuantizedFunctional, one: Switched, signal: Signal, output_db: float, step: float | None
) -> LayerDiagnosis:
    weights = one.operator.weights
    name, kind, parts = name_of(copy, one.operator)
    return LayerDiagnosis(
        layer=name,
        type=kind,
        parts=parts,
        grid=one.operator.quantizer.name,
        sqnr_db=signal.decibels("all"),
        alone_db=signal.decibels("alone"),
        kernel_db=None if weights is None else signal.decibels("kernel"),
        rounding_db=signal.decibels("rounding"),
        output_db=output_db,
        low=signal.grid.low,
        high=signal.grid.high,
        range_use=middle_share(signal.counts),
        saturated=0.0 if isinstance(one.operator.quantizer, FixedQuantizer) else signal.outside / signal.size,
        channels=signal.channels,
        dead_channels=signal.dead,
        output_spread=signal.spread,
        kernel=None if weights is None else kernel_range(weights, step),
    )


def name_of(copy: QuantizedFunctional, operator: Operator) -> tuple[str, str, tuple[str, ...]]:
    """Return the path of the layer that an operator is named after, its class, and the paths of all its parts."""
    main = operator.main
    if main is None:
        return operator.name, "InputLayer", (operator.name,)
    parts = tuple(dict.fromkeys(copy.sources.get(call.operation.name, call.operation.name) for call in operator.calls))
    inner = operator.weights.layer if operator.weights else main
    return copy.sources.get(main.name, main.name), type(inner).__name__, parts


def _input_steps(trace: RoundedTrace) -> list[float | None]:
    """Return the step of what each kernel takes, where biases are stored in 32 bits."""
    numbers = [
        place
        for place, one in enumerate(trace.operators)
        if one.input_step is not None and one.operator.quantizer.bits == 8
    ]
    with trace.graph.as_default():
        wanted = [tf.convert_to_tensor(trace.operators[place].input_step) for place in numbers]
    found = trace.function([], wanted)() if wanted else []
    steps: list[float | None] = [None] * len(trace.operators)
    for place, value in zip(numbers, found, strict=True):
        steps[place] = float(value)
    return steps


def _worst(answers: Answers, rows: np.ndarray) -> tuple[ExampleError, ...]:
    scale = np.sqrt(answers.signal.mean()) or 1.0
    errors = np.sqrt(answers.noise) / scale
    order = np.argsort(-errors, kind="stable")[:_WORST]
    has_answers = len(answers.exact) > 0
    return tuple(
        ExampleError(
            row=int(rows[place]),
            error=float(errors[place]),
            answer=int(answers.exact[place]) if has_answers else None,
            rounded_answer=int(answers.rounded[place]) if has_answers else None,
        )
        for place in order
    )


def _notes(examples: int, extremes: np.ndarray, is_calibrated: bool) -> tuple[str, ...]:
    if examples >= ENOUGH or not is_calibrated:
        return ()
    note = (
        f"Only {examples} example(s): ranges are still growing. {effect(examples, growth(extremes))}. Take {ENOUGH} or "
        f"more, 100 are usual."
    )
    warnings.warn(note, UserWarning, stacklevel=4)
    return (note,)
