"""Numbers that are no numbers, data that does not fit, and layers that answer otherwise than they should."""

import math
from collections.abc import Iterator

from kopt.advice.rules.row import Found, Rule, places
from kopt.core.records.profiles.circumstances import DataFacts, InferenceFacts, TrainingSettings
from kopt.core.records.profiles.parameters import ParameterProfile
from kopt.core.records.profiles.training import TrainingTrends
from kopt.core.records.training.input_checks import STRETCHED, UNFIT

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
            "output",
            f"{inference.nonfinite} entries of the outputs for {inference.examples} examples are NaN or infinite.",
            1.0,
        )


def unscaled_loss(settings: TrainingSettings) -> Iterator[Found]:
    """float16 without a scaled loss."""
    layers = settings.compute_dtypes.get("float16", 0)
    if layers and settings.optimizer and not settings.scales_loss:
        yield Found(
            "optimizer",
            f"{layers} layers compute in float16, and {settings.optimizer} does not scale the loss: gradients below "
            f"6e-8 become 0.",
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
    for note in data.notes:
        if STRETCHED in note or UNFIT in note:
            yield Found("targets", note, 1.0)


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
            f"Class {most} has {counts[most]} of {sum(counts.values())} examples looked at, class {least} "
            f"{counts[least]}: {ratio:.3g} times fewer (threshold {_IMBALANCE:g}).",
            code=f"model.fit(x, y, class_weight={{{weights}}})" if len(counts) <= 20 else "",
        )


RULES = (
    Rule(
        id="nan-weights",
        area="numerics",
        symptoms=("weights are NaN", "model predicts NaN"),
        needs=("parameters",),
        check=nonfinite_weights,
        looks_for="Reads every weight: any that is NaN or infinite.",
        remedy="Load an earlier checkpoint, or draw the layer anew; then find the step that made it.",
        code="model, report = kopt.restructure.reinitialize(model, layers=names)",
        target="correctness",
        gain="such a model answers NaN",
        effort="basic",
    ),
    Rule(
        id="nan-loss",
        area="numerics",
        symptoms=("loss is NaN", "loss becomes inf"),
        needs=("trends",),
        check=nonfinite_loss,
        looks_for="Any loss or metric of the history is NaN or infinite.",
        remedy="Train with `kopt.train.accelerate`, which leaves such steps out and says where the first NaN arises; "
        "lower the learning rate, clip gradients, check the data.",
        code="kopt.train.locate_nonfinite(model, x, y)\nkopt.train.accelerate(model, global_clip_norm=1.0)",
        target="correctness",
        gain="nothing is learned after it",
        effort="basic",
    ),
    Rule(
        id="nan-data",
        area="numerics",
        symptoms=("NaN in the input", "Input contains NaN, infinity", "NaN labels"),
        needs=("data",),
        check=nonfinite_data,
        looks_for="An input, target or weight of the first batches is NaN or infinite.",
        remedy="Remove those examples, or replace the values.",
        code="x = np.nan_to_num(x)",
        target="correctness",
        gain="one such example makes the loss NaN",
        effort="basic",
    ),
    Rule(
        id="nan-outputs",
        area="numerics",
        symptoms=("predict returns NaN",),
        needs=("inference",),
        check=nonfinite_outputs,
        looks_for="Answers to a few examples: any entry is NaN or infinite.",
        remedy="Find the first layer that gives one.",
        code="print(kopt.train.locate_nonfinite(model, x, y))",
        target="correctness",
        gain="such an answer is none",
        effort="basic",
    ),
    Rule(
        id="unscaled-loss",
        area="numerics",
        symptoms=("mixed_float16 does not learn", "float16 underflow"),
        needs=("settings",),
        check=unscaled_loss,
        looks_for="Layers compute in float16, and the optimizer does not scale the loss.",
        remedy="Scale the loss, or compute in bfloat16.",
        code="model.compile(kopt.train.scaled_optimizer(model, optimizer), loss)",
        target="correctness",
        gain="gradients below 6e-8 are 0: Micikevicius et al., 2018",
        effort="basic",
    ),
    Rule(
        id="coarse-output",
        area="numerics",
        symptoms=("softmax in float16", "loss is inaccurate in mixed precision"),
        needs=("settings",),
        check=coarse_output,
        looks_for="An output of the model is float16 or bfloat16.",
        remedy="Keep the last layer in float32.",
        code='model, report = kopt.train.to_precision(model, "auto")',
        target="correctness",
        gain="as Keras' guide to mixed precision says",
        effort="basic",
    ),
    Rule(
        id="random-inference",
        area="numerics",
        symptoms=("predict gives different results each time", "dropout active at inference"),
        needs=("inference",),
        check=random_inference,
        looks_for="Answers to the same examples, twice: they differ.",
        remedy="Call dropout and augmentation inside of `call` without `training=True`; Keras passes it where it "
        "belongs.",
        code="x = self.dropout(x)  # in `call`; not (x, training=True)",
        target="correctness",
        gain="no answer can be trusted",
        effort="basic",
    ),
    Rule(
        id="batch-inference",
        area="numerics",
        symptoms=("predict depends on the batch size", "BatchNormalization in inference"),
        needs=("inference",),
        check=batch_inference,
        looks_for="An example alone and in a batch: the answers differ.",
        remedy="Call batch normalization without `training=True`, and train it so that its moving statistics are "
        "right.",
        code="x = self.norm(x)  # in `call`; not (x, training=True)",
        target="correctness",
        gain="a single example gets another answer",
        effort="basic",
    ),
    Rule(
        id="wrong-logits",
        area="data and labels",
        symptoms=("from_logits", "softmax twice", "loss stays high with softmax"),
        needs=("data",),
        check=wrong_logits,
        looks_for="Outputs for the first examples against the loss: softmax or sigmoid twice, or not at all.",
        remedy="Let either the last layer or the loss apply it.",
        code="keras.losses.SparseCategoricalCrossentropy(from_logits=True)  # and a last layer without activation",
        target="correctness",
        gain="the loss is that of other probabilities",
        effort="basic",
    ),
    Rule(
        id="wrong-data",
        area="data and labels",
        symptoms=("labels do not fit the loss", "Shapes are incompatible", "label out of range"),
        needs=("data",),
        check=wrong_data,
        looks_for="The first batch against the model and its loss: shapes, types, class numbers, one-hot rows, ranges.",
        remedy="As the message says.",
        code="print(kopt.train.check_inputs(model, x, y))",
        target="correctness",
        gain="it cannot be trained, or learns something else",
        effort="basic",
    ),
    Rule(
        id="unscaled-inputs",
        area="data and labels",
        symptoms=("inputs not normalized", "pixels 0 to 255"),
        needs=("data",),
        check=unscaled_inputs,
        looks_for="An input has a mean or a deviation above 20, and no layer of the model scales it first.",
        remedy="Scale inputs to about 0 and 1, best inside the model, so that the file that ships does the same.",
        code="keras.layers.Rescaling(1 / 255)",
        target="quality",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="class-imbalance",
        area="data and labels",
        symptoms=("imbalanced classes", "rare class is never predicted"),
        needs=("data",),
        check=class_imbalance,
        looks_for="Among the labels looked at the most frequent class has 10 times the examples of the rarest, or "
        "more.",
        remedy="Weight the classes, draw the rare ones more often, and judge each class by itself.",
        code="model.fit(x, y, class_weight=weights)",
        target="quality",
        gain="not known",
        effort="basic",
    ),
)
