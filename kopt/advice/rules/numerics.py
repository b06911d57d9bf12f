"""Numbers that are no numbers, data that does not fit, and layers that answer otherwise than they should."""

import math
from collections.abc import Iterator

from kopt.advice.rules.row import Found, Rule, places
from kopt.core.circumstance_records import DataFacts, InferenceFacts, TrainingSettings
from kopt.core.parameter_records import ParameterProfile
from kopt.core.training_profile_records import TrainingTrends

_DIFFERS = 1e-3
_IMBALANCE, _LEAST_COUNTED = 10.0, 100


def nonfinite_weights(parameters: ParameterProfile) -> Iterator[Found]:
    """Weights that are NaN or infinite."""
    bad = [
        one.path for one in parameters.variables if one.statistics and one.statistics.nans + one.statistics.infinities
    ]
    if bad:
        yield Found(places(bad), f"{parameters.nonfinite} weights are NaN or infinite, in {len(bad)} variables.", 1.0)


def nonfinite_loss(trends: TrainingTrends) -> Iterator[Found]:
    """Losses or metrics that are NaN or infinite."""
    for epoch in trends.epochs:
        bad = [name for name, value in epoch.logs.items() if not math.isfinite(value)]
        if bad:
            yield Found(places(bad), f"In epoch {epoch.epoch + 1} {places(bad)} is NaN or infinite.", 1.0)
            return


def nonfinite_data(data: DataFacts) -> Iterator[Found]:
    """Examples that are NaN or infinite."""
    if data.error_type == "NonFiniteError":
        yield Found("data", data.error, 1.0)


def nonfinite_outputs(inference: InferenceFacts) -> Iterator[Found]:
    """Answers that are NaN or infinite."""
    if inference.nonfinite:
        yield Found(
            "output", f"{inference.nonfinite} entries of the outputs for {inference.examples} examples are NaN or infinite.", 1.0
        )


def unscaled_loss(settings: TrainingSettings) -> Iterator[Found]:
    """float16 without a scaled loss."""
    layers = settings.compute_dtypes.get("float16", 0)
    if layers and settings.optimizer and not settings.scales_loss:
        yield Found(
            "optimizer",
            f"{layers} layers compute in float16, and {settings.optimizer} does not scale the loss: gradients below 6e-8 "
            f"become 0.",
            1.0,
        )


def coarse_output(settings: TrainingSettings) -> Iterator[Found]:
    """Outputs of 16 bits."""
    bad = [dtype for dtype in settings.output_dtypes if dtype in ("float16", "bfloat16")]
    if bad:
        yield Found("output", f"An output is {bad[0]}: the loss has its range and its 3 or 2 digits.", 0.5)


def random_inference(inference: InferenceFacts) -> Iterator[Found]:
    """Two calls give two answers."""
    if inference.repeat_difference > _DIFFERS:
        yield Found(
            "inference",
            f"Two calls with the same {inference.examples} examples differ by {inference.repeat_difference:.2g} of the "
            f"largest output (threshold {_DIFFERS:g}): a layer draws random numbers in inference.",
            1.0,
        )


def batch_inference(inference: InferenceFacts) -> Iterator[Found]:
    """An example's answer depends on the others in its batch."""
    if inference.batch_difference > _DIFFERS and inference.repeat_difference <= _DIFFERS:
        yield Found(
            "inference",
            f"An example alone is answered otherwise than in a batch of {inference.examples}: they differ by "
            f"{inference.batch_difference:.2g} of the largest output (threshold {_DIFFERS:g}). A batch normalization "
            f"uses the batch.",
            1.0,
        )


def wrong_logits(data: DataFacts) -> Iterator[Found]:
    """The loss and the last layer disagree about softmax or sigmoid."""
    if data.error_type == "ConfigError" and "from_logits" in data.error:
        yield Found("loss", data.error, 1.0)


def wrong_data(data: DataFacts) -> Iterator[Found]:
    """Examples or labels that the model or its loss cannot use."""
    is_logits = data.error_type == "ConfigError" and "from_logits" in data.error
    if data.error and not is_logits and data.error_type != "NonFiniteError":
        yield Found("data", data.error, 1.0)


def unscaled_inputs(data: DataFacts) -> Iterator[Found]:
    """Inputs far from 0 and 1."""
    for one in data.unscaled:
        yield Found(one.name, str(one), code=one.remedy.replace("`", ""))


def class_imbalance(data: DataFacts) -> Iterator[Found]:
    """Some classes are rare."""
    counts = {name: count for name, count in data.classes.items() if count}
    if len(counts) < 2 or sum(counts.values()) < _LEAST_COUNTED:
        return
    most, least = max(counts, key=lambda one: counts[one]), min(counts, key=lambda one: counts[one])
    ratio = counts[most] / counts[least]
    if ratio >= _IMBALANCE:
        mean = sum(counts.values()) / len(counts)
        weights = ", ".join(f"{name}: {mean / count:.3g}" for name, count in counts.items())
        yield Found(
            f"class {least}",
            f"Class {most} has {counts[most]} of {sum(counts.values())} examples looked at, class {least} {counts[least]}: "
            f"{ratio:.3g} times fewer (threshold {_IMBALANCE:g}).",
            code=f"model.fit(x, y, class_weight={{{weights}}})" if len(counts) <= 20 else "",
        )


RULES = (
    Rule(
        "nan-weights", "numerics", ("weights are NaN", "model predicts NaN"),
        ("parameters",), nonfinite_weights,
        "Reads every weight: any that is NaN or infinite.",
        "Load an earlier checkpoint, or draw the layer anew; then find the step that made it.",
        "model, report = kopt.restructure.reinitialize(model, layers=names)",
        "correctness", "such a model answers NaN", "basic",
    ),
    Rule(
        "nan-loss", "numerics", ("loss is NaN", "loss becomes inf"),
        ("trends",), nonfinite_loss,
        "Any loss or metric of the history is NaN or infinite.",
        "Train with `kopt.train.accelerate`, which leaves such steps out and says where the first NaN arises; lower the "
        "learning rate, clip gradients, check the data.",
        "kopt.train.locate_nonfinite(model, x, y); kopt.train.accelerate(model, global_clip_norm=1.0)",
        "correctness", "nothing is learned after it", "basic",
    ),
    Rule(
        "nan-data", "numerics", ("NaN in the input", "Input contains NaN, infinity", "NaN labels"),
        ("data",), nonfinite_data,
        "An input, target or weight of the first batches is NaN or infinite.",
        "Remove those examples, or replace the values.",
        "x = np.nan_to_num(x)",
        "correctness", "one such example makes the loss NaN", "basic",
    ),
    Rule(
        "nan-outputs", "numerics", ("predict returns NaN",),
        ("inference",), nonfinite_outputs,
        "Answers to a few examples: any entry is NaN or infinite.",
        "Find the first layer that gives one.",
        "print(kopt.train.locate_nonfinite(model, x, y))",
        "correctness", "such an answer is none", "basic",
    ),
    Rule(
        "unscaled-loss", "numerics", ("mixed_float16 does not learn", "float16 underflow"),
        ("settings",), unscaled_loss,
        "Layers compute in float16, and the optimizer does not scale the loss.",
        "Scale the loss, or compute in bfloat16.",
        "model.compile(kopt.train.scaled_optimizer(model, optimizer), loss)",
        "correctness", "gradients below 6e-8 are 0: Micikevicius et al., 2018", "basic",
    ),
    Rule(
        "coarse-output", "numerics", ("softmax in float16", "loss is inaccurate in mixed precision"),
        ("settings",), coarse_output,
        "An output of the model is float16 or bfloat16.",
        "Keep the last layer in float32.",
        'model, report = kopt.train.to_precision(model, "auto")',
        "correctness", "as Keras' guide to mixed precision says", "basic",
    ),
    Rule(
        "random-inference", "numerics", ("predict gives different results each time", "dropout active at inference"),
        ("inference",), random_inference,
        "Answers to the same examples, twice: they differ.",
        "Call dropout and augmentation without `training=True`; Keras passes it where it belongs.",
        "x = keras.layers.Dropout(0.5)(x)  # not (x, training=True)",
        "correctness", "no answer can be trusted", "basic",
    ),
    Rule(
        "batch-inference", "numerics", ("predict depends on the batch size", "BatchNormalization in inference"),
        ("inference",), batch_inference,
        "An example alone and in a batch: the answers differ.",
        "Call batch normalization without `training=True`, and train it so that its moving statistics are right.",
        "x = keras.layers.BatchNormalization()(x)  # not (x, training=True)",
        "correctness", "a single example gets another answer", "basic",
    ),
    Rule(
        "wrong-logits", "data and labels", ("from_logits", "softmax twice", "loss stays high with softmax"),
        ("data",), wrong_logits,
        "Outputs for the first examples against the loss: softmax or sigmoid twice, or not at all.",
        "Let either the last layer or the loss apply it.",
        "keras.losses.SparseCategoricalCrossentropy(from_logits=True)  # and a last layer without activation",
        "correctness", "the loss is that of other probabilities", "basic",
    ),
    Rule(
        "wrong-data", "data and labels", ("labels do not fit the loss", "Shapes are incompatible", "label out of range"),
        ("data",), wrong_data,
        "The first batch against the model and its loss: shapes, types, class numbers, one-hot rows, ranges.",
        "As the message says.",
        "print(kopt.train.check_inputs(model, x, y))",
        "correctness", "it cannot be trained, or learns something else", "basic",
    ),
    Rule(
        "unscaled-inputs", "data and labels", ("inputs not normalized", "pixels 0 to 255"),
        ("data",), unscaled_inputs,
        "An input has a mean or a deviation above 20, and no layer of the model scales it first.",
        "Scale inputs to about 0 and 1, best inside the model, so that the file that ships does the same.",
        "keras.layers.Rescaling(1 / 255)",
        "quality", "not known", "basic",
    ),
    Rule(
        "class-imbalance", "data and labels", ("imbalanced classes", "rare class is never predicted"),
        ("data",), class_imbalance,
        "Among the labels looked at the most frequent class has 10 times the examples of the rarest, or more.",
        "Weight the classes, draw the rare ones more often, and judge each class by itself.",
        "model.fit(x, y, class_weight=weights)",
        "quality", "not known", "basic",
    ),
)  # fmt: skip
