"""The public function: how many bits the weights of each layer get."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from kopt.core.errors import UnsupportedModelError
from kopt.core.randomness import preserved_random_state
from kopt.core.records.changes.aware_training import RangeRule
from kopt.core.records.changes.bits import WEIGHT_BITS, BitsPlan, LayerBits
from kopt.core.settings import number
from kopt.graph import signature
from kopt.quantize.copying import Skip, require_fit, rounded_copy
from kopt.quantize.diagnosis.calibrating import Batches, find_extremes, growth, set_ranges
from kopt.quantize.diagnosis.diagnose import batch_size
from kopt.quantize.diagnosis.examples import numbered
from kopt.quantize.diagnosis.measuring import Passes
from kopt.quantize.diagnosis.signals import power
from kopt.quantize.diagnosis.tracing import RoundedTrace
from kopt.quantize.few_examples import warn_of_few
from kopt.quantize.mixed.allocation import allocate
from kopt.quantize.mixed.float_layers import MixedModel
from kopt.quantize.mixed.judging import ratio
from kopt.quantize.quantized_model import is_quantized
from kopt.report.changes.bits import BITS
from kopt.report.look import Shown


@dataclasses.dataclass(frozen=True)
class Bits(Shown, BitsPlan):
    """What `bits` found, with ways to show it.

    Example:
        >>> plan = kopt.quantize.bits(model, x_train, size=0.6, samples=20)
        >>> sorted(set(plan.bits.values())), plan.size_bytes <= plan.budget_bytes
        ([4, 8], True)
    """

    look = BITS


@preserved_random_state()
def bits(
    model: keras.Model,
    calibration: Any,
    *,
    size: float = 0.75,
    skip: Skip = (),
    samples: int = 100,
    seed: int = 0,
) -> Bits:
    """Choose 4 or 8 bits for the weights of each layer, so that they fit a size with the least error.

    Use it before `kopt.quantize.aware(model, bits=plan)`, whose training makes up for most of what 4 bits cost. The
    error that each kernel alone makes at the outputs is measured with 4 and with 8 bits; which get 4 is an integer
    program over these errors, solved exactly. An output that is an argmax is judged by what it is taken of. That errors
    add up is an assumption: what all together do is measured and reported, and where 4 bits for all are no worse, which
    are smaller, all get them. There is no budget of latency: LiteRT unpacks weights of 4 bits, so that they are not
    faster.

    Args:
        model: Functional or Sequential, built; not changed.
        calibration: real inputs, see `kopt.data.calibration`.
        size: bytes that all kernels may take; up to 1, a share of what they take with 8 bits: 0.5 is 4 bits for all.
        skip: layers in float, see `kopt.quantize.aware`; they are not counted, nor are layers of which TFLite takes 8
            bits only, such as transposed convolutions.
        samples: how many examples at most.
        seed: of their choice.

    Returns:
        A plan that can be saved and applied again: `kopt.quantize.aware(model, bits=plan)`.

    Raises:
        InputError: the model, a setting or the examples cannot be used, or the size is too small for 4 bits.
        UnsupportedModelError: as `kopt.quantize.aware`; a copy that it made is refused, too.

    Warns:
        UserWarning: there are fewer than 20 examples.

    Example:
        >>> plan = kopt.quantize.bits(model, x_train, size=0.6)
        >>> plan.bits
        {'conv1': 8, 'conv2': 4, 'classes': 4}
        >>> copy, report = kopt.quantize.aware(model, bits=plan)

    Source: Hubara et al., "Accurate Post Training Quantization With Small Calibration Sets", 2021, section 3.4.
    """
    number("size", size, least=0.0, open_below=True)
    if is_quantized(model):
        raise UnsupportedModelError(f"Model {model.name!r} is quantization-aware already; pass the one it was made of.")
    arrays, _ = numbered(calibration, samples, seed, signature(model)[0])
    require_fit(model)
    copy, _ = rounded_copy(model, "int8", RangeRule(), skip)
    trace = RoundedTrace(copy)
    batches = Batches(arrays, batch_size(trace))
    extremes = find_extremes(trace, batches)
    set_ranges(trace, extremes)
    warn_of_few(batches.examples, growth(extremes))
    mixed = MixedModel(copy, trace)
    exact = mixed.exact(batches)
    layers = _measured(trace, mixed, Passes(trace), batches, sum(map(power, exact)))
    if not layers:
        raise UnsupportedModelError(
            f"No kernel of model {model.name!r} can have {WEIGHT_BITS[0]} bits in a file of TFLite, so that there is "
            f"nothing to choose."
        )
    sizes = [[-(-one.weights * width // 8) for width in WEIGHT_BITS] for one in layers]
    budget = int(size * sum(row[-1] for row in sizes)) if size <= 1.0 else int(size)
    chosen = allocate([one.noise for one in layers], sizes, budget)

    def decibels(choice: Sequence[int]) -> float:
        widths = {one.layer: WEIGHT_BITS[place] for one, place in zip(layers, choice, strict=True)}
        return ratio(exact, mixed.outputs_of_bits(batches, widths))

    widest, narrowest = [len(WEIGHT_BITS) - 1] * len(layers), [0] * len(layers)
    # Errors of several layers can cancel each other.
    output_db, narrowest_db = decibels(chosen), decibels(narrowest)
    if narrowest_db >= output_db:
        chosen, output_db = narrowest, narrowest_db
    return Bits(
        model=model.name,
        budget_bytes=budget,
        size_bytes=sum(row[place] for row, place in zip(sizes, chosen, strict=True)),
        layers=tuple(
            dataclasses.replace(one, bits=WEIGHT_BITS[place]) for one, place in zip(layers, chosen, strict=True)
        ),
        output_db=output_db,
        widest_db=decibels(widest),
        narrowest_db=narrowest_db,
        examples=batches.examples,
    )


def _measured(
    trace: RoundedTrace, mixed: MixedModel, passes: Passes, batches: Batches, signal: float
) -> list[LayerBits]:
    """Return the layers with kernels and what each bit width costs; all have the widest."""
    errors = passes.kernel_errors(batches, WEIGHT_BITS)
    found: dict[str, LayerBits] = {}
    seen = set()
    for place, (one, name) in enumerate(zip(trace.operators, mixed.names, strict=True)):
        weights = one.operator.weights
        if weights is None or weights.kind.least_bits > WEIGHT_BITS[0] or id(weights) in seen:
            continue
        seen.add(id(weights))
        narrow, wide = (errors[place, width] / signal if signal else 0.0 for width in WEIGHT_BITS)
        before = found.get(name)
        kind, count = type(weights.layer).__name__, int(weights.layer.kernel.shape.num_elements())
        if before is not None:  # a layer of several kernels
            count, kind = count + before.weights, before.type
            narrow, wide = narrow + before.noise[0], wide + before.noise[1]
        found[name] = LayerBits(name, kind, count, WEIGHT_BITS[-1], (narrow, wide))
    return list(found.values())
