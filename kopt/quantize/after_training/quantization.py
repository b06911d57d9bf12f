"""Post-training quantization: a rounded copy whose ranges and weights were chosen by the error of its outputs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kopt.core import settings as checks
from kopt.core.errors import ConfigError
from kopt.core.progress import Progress, Silent
from kopt.core.randomness import preserved_random_state
from kopt.core.records.changes.aware_training import RangeRule
from kopt.core.records.changes.post_training import PostTrainingQuantization
from kopt.core.settings import choice, number, whole
from kopt.data import calibration as sample
from kopt.graph import from_tf_keras, signature
from kopt.profile import model as costs_of
from kopt.quantize.after_training.bench import Arrays, Bench
from kopt.quantize.after_training.choosing import SMALL_MACS, apply_all, choose
from kopt.quantize.after_training.fixed_ranges import AUTO, fixed_ranges
from kopt.quantize.after_training.options import OPTIONS, RANGES, Settings
from kopt.quantize.after_training.raw_inputs import scaling_layers
from kopt.quantize.copying import Skip, require_fit, rounded_copy
from kopt.quantize.few_examples import warn_of_few
from kopt.report.changes.post_training import POST_TRAINING
from kopt.report.look import Shown

# Of four examples three teach and one judges.
_HELD = 4


@dataclasses.dataclass(frozen=True)
class PostTraining(Shown, PostTrainingQuantization):
    """What `post_training` did, with ways to show it.

    Example:
        >>> report = kopt.quantize.post_training(model, x_train, options=["equalize", "mse"])[1]
        >>> [option.name for option in report.options if option.kept]
        ['equalize', 'mse']
    """

    look = POST_TRAINING


@preserved_random_state()
def post_training(
    model: keras.Model,
    calibration: Any,
    *,
    scheme: str = "int8",
    options: str | Sequence[str] = AUTO,
    ranges: str | Mapping[str, str] = AUTO,
    alpha: float = 0.5,
    iterations: int = 500,
    skip: Skip = (),
    samples: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[keras.Model, PostTraining]:
    """Return a copy of a trained model that computes with rounded numbers, improved without training, and a report.

    Use it where the converter's own quantization loses accuracy and there are no labels or no time to train:
    `kopt.export.tflite(copy, path, scheme="int8")` then needs no calibration, and the file computes what the copy
    computes. Where this is not enough, the copy trains like that of `kopt.quantize.aware`.

    In int8 a layer that scales raw features of very different ranges stays in float: one scale cannot hold them.
    Normalizations are folded into kernels and biases first. Then these are tried, in this order, each on top of what
    was kept before:

    - `"equalize"`: weights that make and that take a channel become equally large (cross-layer equalization), through
      ReLU, pooling and padding. Through ReLU6 a channel is enlarged only so far that no example reaches the cap.
    - `"absorb"`: what every value of a channel exceeds moves from the bias before a ReLU behind it.
    - `"smooth"`: the share `alpha` of the spread of activations over channels moves into the weights that take them
      (SmoothQuant), which helps dense layers behind a normalization.
    - `"moving_average"`, `"percentile"`, `"mse"`, `"entropy"`: ranges of activations that clip rare values.
    - `"clip"`: weights far out are clipped where the squared error of a channel is least.
    - `"learned"`: every weight is rounded up or down as the output of its layer is given back best (AdaRound); or
      `"blocks"`: as that of its block is, a piece of the model that ends in one tensor, with activations rounded.
    - `"analytic"`, `"empirical"`: the mean error of every layer is taken out of its bias.

    Args:
        model: Functional or Sequential, built; not changed. Nested models come out flat. A model of tf_keras becomes
            one of Keras 3 first.
        calibration: real inputs, without labels or with; see `kopt.data.calibration`. Of every four examples one judges
            and is not learned from.
        scheme: `"int8"` or `"int16x8"`.
        options: `"auto"` keeps what lowers the error of the outputs by 2 % or more, and tries `"learned"` and
            `"blocks"` only where the model has at most 5 million products for an example; or the names of options to
            apply whatever they do.
        ranges: how ranges are found: `"minmax"` or one of the four above, for all layers; or by layer, from names or
            patterns with `*` to these words. `"auto"`: `"minmax"`, unless an option is kept.
        alpha: of `"smooth"`, in [0, 1].
        iterations: of `"learned"` and `"blocks"`, for each kernel.
        skip: layers to leave in float, see `kopt.quantize.aware`.
        samples: how many examples of `calibration` are used.
        seed: of their choice.
        progress: told of every option that is tried.

    Returns:
        The copy, not compiled, and a report: the error of every option and why it was kept or not.

    Raises:
        InputError: a setting, the model or the calibration data cannot be used.
        NonFiniteError: a weight, an example or an output is NaN or infinite.
        UnsupportedModelError: a subclassed model, one that is quantized already, one of tf_keras that Keras 3 does not
            have, or one without a layer that has an integer operator.

    Warns:
        UserWarning: there are fewer than 20 examples.

    Example:
        >>> copy, report = kopt.quantize.post_training(model, x_train, options=["equalize", "mse"])
        >>> made = kopt.export.tflite(copy, "int8.tflite", scheme="int8")  # no calibration
        >>> kopt.measure.parity("int8.tflite", model, x_val).argmax_agreement > 0.95
        True

    Source: Nagel et al., "A White Paper on Neural Network Quantization", 2021, section 3; of blocks Li et al., "BRECQ:
    Pushing the Limit of Post-Training Quantization by Block Reconstruction", 2021.
    """
    settings = Settings(number("alpha", alpha, least=0.0, most=1.0), whole("iterations", iterations))
    names = _chosen(options)
    _require_free_ranges(names, ranges)
    if calibration is None:
        raise ConfigError(
            "Post-training quantization needs `calibration`: a hundred real inputs, as arrays or a tf.data.Dataset, "
            "e.g. `calibration=x_train`. Received: None. Labels are not used."
        )
    model = from_tf_keras(model)
    require_fit(model)
    arrays = list(sample(calibration, samples=samples, seed=seed, inputs=signature(model)[0]).values())
    raw = scaling_layers(model, arrays) if scheme == "int8" else {}
    copy, record = rounded_copy(model, scheme, RangeRule(), skip, in_float=raw, fold=True)
    fixed = fixed_ranges(ranges, record.ranges, model)
    rows, held = _split(arrays)
    bench = Bench(copy, rows, held, fixed)
    plain = bench.error()
    progress = progress or Silent()
    try:
        if names is None:
            tried = choose(bench, settings, _passed_over(model), progress)
        else:
            tried = apply_all(bench, settings, names, progress)
    finally:
        progress.finish()
    notes = warn_of_few(len(arrays[0]), bench.growth())
    report = PostTraining(
        quantization=record,
        examples=len(rows[0]),
        held_out=len(held[0]),
        plain_error=plain,
        error=bench.error(),
        agreement=bench.agreement(),
        options=tuple(tried),
        warnings=notes,
    )
    return copy, report


def _chosen(options: str | Sequence[str]) -> tuple[str, ...] | None:
    """Return the names of options to apply; `None`: those that are good.

    Raises:
        ConfigError: an unknown option, or two of one group.
    """
    if options == AUTO:
        return None
    chosen = checks.names("options", options)
    groups: dict[str, str] = {}
    for name in chosen:
        choice("options", name, (AUTO, *OPTIONS))
        group = OPTIONS[name].group if name in OPTIONS else ""
        if name == AUTO:
            raise ConfigError(f'`options="auto"` stands alone. Received: options={options!r}.')
        if group in groups and groups[group] != name:
            raise ConfigError(f"Of `options` {groups[group]!r} and {name!r} one can be had: both set the {group}.")
        groups.update({group: name} if group else {})
    return chosen


def _require_free_ranges(options: Sequence[str] | None, ranges: str | Mapping[str, str]) -> None:
    """Refuse options that find ranges where `ranges` says how all are found.

    Raises:
        ConfigError: there is one.
    """
    chosen = next((name for name in options or () if OPTIONS[name].group == RANGES), None)
    if chosen is not None and isinstance(ranges, str) and ranges != AUTO:
        raise ConfigError(
            f"The option {chosen!r} would change nothing: `ranges={ranges!r}` says how all ranges are found. Leave one "
            f"of the two out, or give `ranges` by layer, which leaves the others to the option."
        )


def _split(arrays: Arrays) -> tuple[Arrays, Arrays]:
    """Return the examples that teach and those that judge; of fewer than four all do both."""
    judges = np.arange(len(arrays[0])) % _HELD == _HELD - 1
    if not judges.any():
        return arrays, arrays
    return [array[~judges] for array in arrays], [array[judges] for array in arrays]


def _passed_over(model: keras.Model) -> dict[str, str]:
    """Return the options that `"auto"` does not try, with the reason."""
    macs = costs_of(model).macs
    if macs <= SMALL_MACS:
        return {}
    reason = f"slow: the model has {macs:,} products for an example, more than {SMALL_MACS:,}. Ask for it by name"
    return {name: reason for name, one in OPTIONS.items() if one.slow}
