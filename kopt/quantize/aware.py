"""Quantization-aware training on Keras 3, as TFLite's integers will compute."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kopt.core.errors import ConfigError
from kopt.core.randomness import preserved_random_state
from kopt.core.records.changes.aware_training import Quantization, RangeRule
from kopt.core.records.changes.bits import BitsPlan
from kopt.core.settings import whole
from kopt.data import calibration as sample
from kopt.export.integers import ENOUGH
from kopt.graph import from_tf_keras, signature
from kopt.quantize.copying import Skip, require_fit, require_trainable_copy, rounded_copy
from kopt.quantize.few_examples import warn_of_few, widened
from kopt.quantize.modes import observing
from kopt.quantize.ranges import Quantizer
from kopt.report.changes.quantization import QUANTIZATION
from kopt.report.look import Shown

_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Aware(Shown, Quantization):
    """What `aware` did, with ways to show it.

    Example:
        >>> report = kopt.quantize.aware(model)[1]
        >>> [(kernel.layer, kernel.bits, kernel.folded) for kernel in report.kernels]
        [('conv1', 8, 'norm1'), ('conv2', 8, ''), ('classes', 8, '')]
    """

    look = QUANTIZATION


@preserved_random_state()
def aware(
    model: keras.Model,
    *,
    scheme: str = "int8",
    skip: Skip = (),
    bits: BitsPlan | Mapping[str, int] | None = None,
    ranges: str = "ema",
    momentum: float = 0.99,
    percentile: float = 99.99,
    start: int = 0,
    freeze: int | None = None,
    freeze_batch_norm: int | None = None,
    calibration: Any = None,
    samples: int = 100,
) -> tuple[keras.Model, Aware]:
    """Return a copy of a model that trains with the rounding of an integer file, and what was done to each layer.

    Use it when an int8 file of the trained model loses accuracy: train the copy for a few epochs at a small learning
    rate, then `kopt.export.tflite(copy, path, scheme="int8")`, which needs no calibration. The copy trains like any
    model, in `fit` or a loop of your own, compiled or not, in mixed precision, on several replicas; it saves to
    `.keras` and loads, and goes on where it was. Compile it anew. Where channels of a layer are of very different sizes
    (`kopt.quantize.diagnose` says so), train the copy of `kopt.quantize.post_training` instead, which trains alike:
    from there it ended at 88.6 % of Fashion-MNIST, from here at 72.3 %, on a depthwise network spread 1,000 times.

    Kernels are rounded channel by channel, symmetric, biases to 32 bits, activations tensor by tensor where TFLite
    writes one. A BatchNormalization behind a kernel is part of it, with the statistics of the batch until
    `freeze_batch_norm`. Convolutions, sums and products are rounded behind their ReLU; pooling, reshaping, padding and
    concatenation keep the range of what they take. Zeros of a pruned kernel stay zero, and weights that share a value
    go on sharing it.

    Args:
        model: Functional or Sequential, built; not changed. Nested models come out flat. A model of tf_keras becomes
            one of Keras 3 first.
        scheme: `"int8"`, or `"int16x8"`: activations of 16 bits, for models without concatenation and float layers.
        skip: layers to leave in float: names, paths, patterns with `*`, classes; or a function of the layer.
        bits: of the weights of single layers, by their paths, 4 or 8, or a plan of `kopt.quantize.bits`; others have 8.
            Weights of 4 bits take half the bytes of the file; LiteRT unpacks them, so that they are not faster. For
            `scheme="int8"`.
        ranges: how those of activations are found: `"ema"`, the moving average of the smallest and largest value of a
            batch; `"percentile"`, of percentiles; `"learned"`, trained with the weights (LSQ), which needs
            `calibration`; then `start` and `freeze` are batches before and after which they are not trained.
        momentum: of the moving average.
        percentile: of `"percentile"`.
        start: batches of training that only set ranges, before activations are rounded in training.
        freeze: batches of training after which ranges stay; `None`: never.
        freeze_batch_norm: batches after which normalizations use moving statistics in training, as the file will;
            `None`: never.
        calibration: inputs from which ranges start, see `kopt.data.calibration`; without, the first batch of training
            sets them.
        samples: how many examples of `calibration` are used.

    Returns:
        The copy, not compiled, and a report: `kernels` and `ranges` list what is rounded, `left` what computes in
        float, with the reason.

    Raises:
        InputError: a setting or the model cannot be used.
        NonFiniteError: a weight is NaN or infinite.
        UnsupportedModelError: a subclassed model, one that is quantized already, one of tf_keras that Keras 3 does not
            have, one without a layer that has an integer operator, or one whose training a copy would not have: its own
            `train_step`, a schedule of pruning that has not ended, or an `activity_regularizer`.

    Warns:
        UserWarning: `calibration` has fewer than 20 examples.

    Example:
        >>> copy, report = kopt.quantize.aware(model)
        >>> copy.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> history = copy.fit(x_train, y_train, verbose=0)
        >>> made = kopt.export.tflite(copy, "int8.tflite", scheme="int8")  # no calibration
        >>> kopt.measure.parity("int8.tflite", copy, x_val).argmax_agreement > 0.98
        True

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", 2018, section 3; Esser et al., "Learned Step Size Quantization", 2020.
    """
    rule = RangeRule(ranges, momentum, percentile, start, freeze)
    if freeze_batch_norm is not None:
        whole("freeze_batch_norm", freeze_batch_norm, least=0)
    if ranges == "learned" and calibration is None:
        raise ConfigError('`ranges="learned"` trains ranges from where `calibration` puts them: give it real inputs.')
    model = from_tf_keras(model)
    require_fit(model)
    require_trainable_copy(model)
    data = None if calibration is None else sample(calibration, samples=samples, inputs=signature(model)[0])
    copy, record = rounded_copy(model, scheme, rule, skip, freeze_batch_norm=freeze_batch_norm, bits=bits)
    if data is not None:
        arrays = list(data.values())
        warn_of_few(len(arrays[0]), _calibrate(copy, arrays))
    return copy, Aware(**{field.name: getattr(record, field.name) for field in dataclasses.fields(record)})


def _calibrate(model: keras.Model, arrays: list[np.ndarray]) -> float:
    """Let every quantizer see the examples, and return by what share few of them widened the ranges, see `widened`."""
    count = len(arrays[0])
    if count >= ENOUGH:
        _widths(model, arrays)
        return 0.0
    unseen = [one.get_weights() for one in _quantizers(model)]
    first = _widths(model, [array[: max(count // 2, 1)] for array in arrays])
    for one, weights in zip(_quantizers(model), unseen, strict=True):
        one.set_weights(weights)
    return widened(first, _widths(model, arrays))


def _widths(model: keras.Model, arrays: list[np.ndarray]) -> np.ndarray:
    """Let every quantizer see examples, and return how wide the ranges are then."""
    with observing():
        for begin in range(0, len(arrays[0]), _BATCH):
            flat = [array[begin : begin + _BATCH] for array in arrays]
            model(keras.tree.pack_sequence_as(model.input, flat), training=False)
    ranges = [one.ranges.numpy() for one in _quantizers(model)]
    return np.array([one[:, 1].max() - one[:, 0].min() for one in ranges])


def _quantizers(model: keras.Model) -> list[Quantizer]:
    return [one for one in model.layers if isinstance(one, Quantizer)]
