"""Why a training does not get good: rates, gradients, dead units, normalization, too much or too little fit."""

import math
from collections.abc import Callable, Iterator

from kopt.advice.rules.row import Found, Rule, places
from kopt.core.records.profiles.circumstances import DataFacts, FitScores, TrainingSettings
from kopt.core.records.profiles.gradients import GradientProfile
from kopt.core.records.profiles.training import TrainingTrends
from kopt.core.records.training.finders import LearningRateCurve

_FALL, _LEAST_EPOCHS = 0.05, 3
_NEAR_CHANCE = 0.95
_RATE_HIGH, _RATE_LOW = 10.0, 100.0
_SMALL_BATCH = 8
_LOSS_GAP, _ACCURACY_GAP = 2.0, 0.08
_UNDERFIT, _UNDERFIT_GAP = 0.5, 0.1


def no_convergence(trends: TrainingTrends) -> Iterator[Found]:
    """The loss has hardly fallen since the first epoch."""
    losses = [epoch.logs["loss"] for epoch in trends.epochs if math.isfinite(epoch.logs.get("loss", math.nan))]
    if len(losses) < _LEAST_EPOCHS or losses[0] <= 0:
        return
    fall = 1 - min(losses) / losses[0]
    if fall < _FALL:
        yield Found(
            "loss",
            f"In {len(losses)} epochs the loss fell from {losses[0]:.4g} to {min(losses):.4g}, by {max(fall, 0.0):.1%} "
            f"(threshold {_FALL:.0%}).",
        )


def learned_nothing(settings: TrainingSettings, fit: FitScores) -> Iterator[Found]:
    """A trained model answers no better than the shares of the classes."""
    found = _cross_entropy(fit)
    if settings.iterations and fit.chance_loss and found >= _NEAR_CHANCE * fit.chance_loss:
        yield Found(
            "loss",
            f"After {settings.iterations} updates the loss on training examples is {found:.4g}; always answering "
            f"with the shares of the classes gives {fit.chance_loss:.4g} (threshold {_NEAR_CHANCE:.0%} of it).",
        )


def _cross_entropy(fit: FitScores) -> float:
    return fit.loss if fit.cross_entropy is None else fit.cross_entropy


def rate_too_high(settings: TrainingSettings, rates: LearningRateCurve) -> Iterator[Found]:
    """The learning rate is far above what the range test suggests."""
    rate, suggested = settings.learning_rate, rates.steepest
    if rate and suggested and rate > _RATE_HIGH * suggested:
        yield _rate(rate, suggested, "above", _RATE_HIGH)


def rate_too_low(settings: TrainingSettings, rates: LearningRateCurve) -> Iterator[Found]:
    """The learning rate is far below what the range test suggests."""
    rate, suggested = settings.learning_rate, rates.steepest
    if rate and suggested and suggested > _RATE_LOW * rate:
        yield _rate(rate, suggested, "below", _RATE_LOW)


def _rate(rate: float, suggested: float, side: str, threshold: float) -> Found:
    factor = max(rate / suggested, suggested / rate)
    return Found(
        "learning rate",
        f"The optimizer has {rate:.3g}; in the range test the loss fell fastest at {suggested:.3g}: {factor:.3g} times "
        f"{side} it (threshold {threshold:g}).",
        code=f"model.optimizer.learning_rate = {suggested:.2g}",
    )


def _of_trends(*kinds: str) -> Callable[[TrainingTrends], Iterator[Found]]:
    """Return a check that takes what the watched training itself advises."""

    def check(trends: TrainingTrends) -> Iterator[Found]:
        for one in trends.advice:
            if one.kind in kinds:
                yield Found(one.where, one.words)

    return check


def _of_gradients(*kinds: str) -> Callable[[GradientProfile], Iterator[Found]]:
    """Return a check that takes the verdicts on gradients; one finding for all places of a kind."""

    def check(gradients: GradientProfile) -> Iterator[Found]:
        for kind in kinds:
            found = [one for one in gradients.verdicts if one.kind == kind]
            if found:
                more = f" ({kind} in {len(found)} places)" if len(found) > 1 else ""
                yield Found(places([one.where for one in found]), f"{found[0].words}{more}")

    return check


def dead_units(gradients: GradientProfile) -> Iterator[Found]:
    """Units of ReLUs that are 0 for every example."""
    dead = [one for one in gradients.verdicts if one.kind == "dead units"]
    if dead:
        worst = max(dead, key=lambda one: one.value)
        more = f" (dead units in {len(dead)} places)" if len(dead) > 1 else ""
        yield Found(
            places([one.where for one in dead]),
            f"{worst.words}{more}",
            share=worst.value,
            how="the share of units that say and learn nothing, in the worst layer",
            source="measured",
        )


def over_fitting(trends: TrainingTrends) -> Iterator[Found]:
    """The validation loss rises while the loss falls."""
    for one in trends.advice:
        if one.kind == "over-fitting":
            yield Found(
                one.where,
                one.words,
                share=one.value / (1 + one.value),
                how="1 - best / last `val_loss` of this training",
                source="measured",
            )


def validation_gap(settings: TrainingSettings, fit: FitScores) -> Iterator[Found]:
    """Training examples are answered much better than others."""
    ratio = fit.validation_loss / fit.loss if fit.loss > 0 else 0.0
    if fit.accuracy is None or fit.validation_accuracy is None:
        far = ratio > 2 * _LOSS_GAP
        seen = f"(threshold {2 * _LOSS_GAP:g})"
    else:
        gap = fit.accuracy - fit.validation_accuracy
        far = ratio > _LOSS_GAP and gap > _ACCURACY_GAP
        seen = f"(threshold {_LOSS_GAP:g}), accuracies {fit.accuracy:.3f} and {fit.validation_accuracy:.3f}"
    if settings.iterations and far:
        without = "" if settings.dropouts else " The model has no dropout."
        yield Found(
            "validation",
            f"The loss is {fit.loss:.4g} on {fit.examples} training examples and {fit.validation_loss:.4g} on as many "
            f"others, {ratio:.3g} times as much {seen}.{without}",
        )


def under_fitting(settings: TrainingSettings, fit: FitScores) -> Iterator[Found]:
    """A trained model is bad at its own training examples, and no better there than elsewhere."""
    if not settings.iterations or not fit.chance_loss:
        return
    share = _cross_entropy(fit) / fit.chance_loss
    level = abs(fit.validation_loss - fit.loss) < _UNDERFIT_GAP * fit.loss
    if _UNDERFIT <= share < _NEAR_CHANCE and level:
        held = f" Dropout holds it back: {places(list(settings.dropouts))}." if settings.dropouts else ""
        yield Found(
            "loss",
            f"The loss on training examples is {_cross_entropy(fit):.4g}, {share:.0%} of that of answering with the "
            f"shares of the classes (threshold {_UNDERFIT:.0%}), and the loss about the same on others, "
            f"{fit.validation_loss:.4g}.{held}",
        )


def small_batch_norm(settings: TrainingSettings, data: DataFacts) -> Iterator[Found]:
    """Batch normalization over few examples."""
    if settings.batch_norms and data.batch_size < _SMALL_BATCH:
        yield Found(
            places(settings.batch_norms),
            f"{len(settings.batch_norms)} batch normalizations are trained on batches of {data.batch_size} (threshold "
            f"{_SMALL_BATCH}): their means and variances are noise.",
        )


RULES = (
    Rule(
        id="no-convergence",
        area="convergence",
        symptoms=("loss does not decrease", "accuracy stays at chance", "model does not learn"),
        needs=("trends",),
        check=no_convergence,
        looks_for="The best loss of three or more epochs is within 5 % of the first.",
        remedy="Check that labels belong to their inputs, that inputs are scaled and that the model can fit 100 "
        "examples; then find the learning rate.",
        code="kopt.train.check_inputs(model, x, y)\nkopt.train.find_learning_rate(model, data).suggestion",
        target="quality",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="learned-nothing",
        area="convergence",
        symptoms=("accuracy stays at chance", "model predicts one class"),
        needs=("settings", "fit"),
        check=learned_nothing,
        looks_for="A model that was updated has 95 % of the loss of answering with the shares of the classes, or more.",
        remedy="Check that labels belong to their inputs, that inputs are scaled and that gradients arrive; then find "
        "the learning rate.",
        code="kopt.profile.gradients(model, (x, y))\nkopt.train.find_learning_rate(model, data).suggestion",
        target="quality",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="rate-too-high",
        area="convergence",
        symptoms=("loss jumps up and down", "loss diverges", "loss explodes"),
        needs=("settings", "rates"),
        check=rate_too_high,
        looks_for="The rate is more than 10 times that at which the loss falls fastest in the range test.",
        remedy="Train with the suggested rate, with a warm-up.",
        code="model.optimizer.learning_rate = kopt.train.find_learning_rate(model, data).suggestion",
        target="quality",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="rate-too-low",
        area="convergence",
        symptoms=("training converges slowly", "loss decreases very slowly"),
        needs=("settings", "rates"),
        check=rate_too_low,
        looks_for="The rate is less than a hundredth of that at which the loss falls fastest in the range test.",
        remedy="Train with the suggested rate.",
        code="model.optimizer.learning_rate = kopt.train.find_learning_rate(model, data).suggestion",
        target="quality",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="unsteady-loss",
        area="convergence",
        symptoms=("loss oscillates", "learning rate too high"),
        needs=("trends",),
        check=_of_trends("learning rate too high"),
        looks_for="In the watched training steps change kernels by more than 3 % of themselves, and the loss rises "
        "again and again.",
        remedy="Divide the learning rate by 10, or warm up.",
        code="model.optimizer.learning_rate = kopt.train.find_learning_rate(model, data).suggestion",
        target="quality",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="slow-convergence",
        area="convergence",
        symptoms=("training takes too many epochs", "learning rate too low"),
        needs=("trends",),
        check=_of_trends("learning rate too low"),
        looks_for="In the watched training steps change kernels by less than 1e-5 of themselves, and the loss falls by "
        "less than 10 %.",
        remedy="Multiply the learning rate by 10, or find it.",
        code="model.optimizer.learning_rate = kopt.train.find_learning_rate(model, data).suggestion",
        target="quality",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="plateau",
        area="convergence",
        symptoms=("loss stopped improving", "loss plateaus"),
        needs=("trends",),
        check=_of_trends("plateau"),
        looks_for="In five epochs the loss fell by less than 1 % of where it began.",
        remedy="Lower the learning rate, or stop.",
        code='keras.callbacks.ReduceLROnPlateau("val_loss", patience=3)',
        target="training time",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="vanishing-gradients",
        area="convergence",
        symptoms=("vanishing gradients", "first layers do not learn"),
        needs=("gradients",),
        check=_of_gradients("vanishing", "saturated"),
        looks_for="A weight's gradient is below a thousandth of the largest nearer the output, or more than half of "
        "the outputs of an activation are at its limits.",
        remedy="Use ReLU or GELU in the place of sigmoid and tanh inside the model, residual connections, "
        "normalization, or other initial weights, which forget what was learned.",
        code="model, report = kopt.restructure.reinitialize(model, data=data)",
        target="quality",
        gain="not known",
        effort="intermediate",
    ),
    Rule(
        id="exploding-gradients",
        area="convergence",
        symptoms=("exploding gradients", "loss becomes huge", "loss is inf"),
        needs=("gradients",),
        check=_of_gradients("exploding"),
        looks_for="A gradient is more than 1000 times as large as its weight.",
        remedy="Clip gradients by their common norm, scale the inputs, warm up, or initialize anew.",
        code="kopt.train.accelerate(model, global_clip_norm=1.0)",
        target="quality",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="exploding-in-training",
        area="convergence",
        symptoms=("gradients explode after some epochs",),
        needs=("trends",),
        check=_of_trends("exploding"),
        looks_for="In the watched training a gradient is more than 1000 times as large as its weight.",
        remedy="Clip gradients by their common norm, warm up, or lower the learning rate.",
        code="kopt.train.accelerate(model, global_clip_norm=1.0)",
        target="quality",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="vanishing-in-training",
        area="convergence",
        symptoms=("gradients vanish during training",),
        needs=("trends",),
        check=_of_trends("vanishing", "zero gradient"),
        looks_for="In the watched training a weight's gradient is 0, or below a thousandth of the largest nearer the "
        "output.",
        remedy="Use ReLU or GELU, residual connections or normalization; look for dead units behind a gradient of 0.",
        code="kopt.profile.gradients(model, (x, y))",
        target="quality",
        gain="not known",
        effort="intermediate",
    ),
    Rule(
        id="no-gradient",
        area="convergence",
        symptoms=("No gradients provided for any variable", "Gradients do not exist for variables"),
        needs=("gradients",),
        check=_of_gradients("not connected", "zero gradient"),
        looks_for="The loss does not depend on a weight, or its gradient is exactly 0 in every batch.",
        remedy="Use the output of the layer, remove it, or find what follows it and lets nothing through.",
        code="kopt.profile.gradients(model, (x, y)).table()",
        target="quality",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="dead-units",
        area="convergence",
        symptoms=("dying ReLU", "dead neurons", "many activations are zero"),
        needs=("gradients",),
        check=dead_units,
        looks_for="More than a quarter of the units of a ReLU are 0 for every example.",
        remedy="Lower the learning rate, warm up, use LeakyReLU or GELU, and take out what stays dead.",
        code="smaller, report = kopt.prune.constant_channels(model, x)",
        target="quality",
        gain="measured: the share of dead units in the worst layer",
        effort="basic",
    ),
    Rule(
        id="dying-units",
        area="convergence",
        symptoms=("units die during training",),
        needs=("trends",),
        check=_of_trends("dead units"),
        looks_for="In the watched training more than a quarter of a kernel's output channels had no gradient.",
        remedy="Lower the learning rate, warm up, or use LeakyReLU or GELU.",
        code='keras.layers.Dense(units, activation="leaky_relu")',
        target="quality",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="batch-norm-small-batch",
        area="convergence",
        symptoms=("BatchNormalization with small batches", "batch size 1 does not train"),
        needs=("settings", "data"),
        check=small_batch_norm,
        looks_for="Batch normalizations are trained on batches of fewer than 8 examples.",
        remedy="Normalize groups of channels of one example instead, use larger batches, or freeze the statistics.",
        code="keras.layers.GroupNormalization(groups=8)",
        target="quality",
        gain='published: Wu and He, "Group normalization", 2018: at 2 examples a replica the error of ResNet-50 '
        "rises from 23.6 to 34.7 %",
        effort="intermediate",
    ),
    Rule(
        id="batch-norm-drift",
        area="convergence",
        symptoms=("validation loss jumps although training is smooth", "evaluate is much worse"),
        needs=("trends",),
        check=_of_trends("batch normalization drifts"),
        looks_for="A moving mean moved by more than a tenth of a standard deviation in the last epoch.",
        remedy="Estimate the statistics again with the weights as they are.",
        code="model, report = kopt.train.reestimate_batch_norm(model, data)",
        target="quality",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="uneven-gradients",
        area="convergence",
        symptoms=("layers learn at different speed", "layer-wise learning rates"),
        needs=("trends",),
        check=_of_trends("uneven gradient variance"),
        looks_for="The variance of gradients differs by more than 3 between layers.",
        remedy="Give layers learning rates of their own.",
        code="kopt.train.LearningRateMultipliers(optimizer, advice.multipliers)",
        target="quality",
        gain="not known",
        effort="advanced",
    ),
    Rule(
        id="over-fitting",
        area="over-fitting",
        symptoms=("over-fitting", "val_loss increases while loss decreases"),
        needs=("trends",),
        check=over_fitting,
        looks_for="`val_loss` is 5 % above its best of three or more epochs ago, while the loss went on falling.",
        remedy="Stop at the best epoch, augment the data, add dropout or weight decay, or use a smaller model.",
        code="keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)",
        target="quality",
        gain="measured: 1 - best / last `val_loss`",
        effort="basic",
    ),
    Rule(
        id="validation-gap",
        area="over-fitting",
        symptoms=("training accuracy is high, validation accuracy low", "does not generalize"),
        needs=("settings", "fit"),
        check=validation_gap,
        looks_for="On validation data the loss is more than twice that on training data, and accuracy 8 points lower "
        "(without accuracy: four times).",
        remedy="Stop earlier, augment the data, add dropout or weight decay, or use a smaller model.",
        code="keras.layers.Dropout(0.3)\nkeras.optimizers.AdamW(weight_decay=1e-4)\n"
        'kopt.data.Augmentation(flip="horizontal")  # of images',
        target="quality",
        gain="not known",
        effort="basic",
    ),
    Rule(
        id="under-fitting",
        area="convergence",
        symptoms=("under-fitting", "training accuracy is low"),
        needs=("settings", "fit"),
        check=under_fitting,
        looks_for="The loss on training examples is between 50 and 95 % of that of answering with the shares of the "
        "classes, and the same on others.",
        remedy="Train longer, with less dropout and weight decay, or with a wider or deeper model.",
        code="larger, report = kopt.restructure.scale(build_model, width=1.4)",
        target="quality",
        gain="not known",
        effort="intermediate",
    ),
)
