"""The examples that judge files: read and checked before any work, with labels or without."""

from typing import Any

import numpy as np
import tensorflow as tf

from kopt import data as kopt_data
from kopt import measure
from kopt.core.errors import ConfigError, DataError, InputError, UnsupportedModelError
from kopt.core.records.search.budget import AGREEMENT, Budget
from kopt.data.row_keys import row_keys
from kopt.measure.accuracy import require_probabilities, takes_probabilities
from kopt.search.judging.examining import Examiner, agreement_budget, output_of

_FEW = 8
NO_LABELS = (
    "There are no labels: what is guarded is the agreement with the model as given, which says that a file answers as "
    "it does, not that it answers right."
)


def checked_budget(budget: Budget | None, has_labels: bool) -> Budget:
    """Return the budget that examples with or without labels are judged by.

    Raises:
        ConfigError: no budget, metrics that nobody knows, of which less is better where one is guarded, or that need
            labels which are not there.
    """
    if budget is None:
        budget = Budget()
    if not isinstance(budget, Budget):
        raise ConfigError(f"`budget` must be a kopt.Budget, e.g. kopt.Budget(max_drop=0.01). Received: {budget!r}.")
    if not has_labels:
        return agreement_budget(budget)
    if budget.metric == AGREEMENT:
        raise ConfigError(
            "The agreement with the model as given is guarded where there are no labels. Pass the examples without "
            "them, or guard a metric and bound the agreement: constraints=('agreement>=0.99',)."
        )
    for metric in budget.metrics:
        # Of a bound the direction is written down; asking tells whether there is such a metric.
        if metric != AGREEMENT and measure.is_loss(metric) and metric == budget.metric:
            raise ConfigError(
                f"`Budget.metric` must be a metric of which more is better; of {metric!r} less is better. Use e.g. "
                f"'accuracy', 'auc' or, for regression, 'r2_score'."
            )
    return budget


def examiner_of(data: Any, runner: measure.Runner, budget: Budget, name: str = "validation") -> Examiner:
    """Return the examples as what judges files.

    Args:
        data: `(x, y)`, `x` alone, `kopt.data.Split` (whose `y` may be `None`) or a batched `tf.data.Dataset`.
        runner: the model as given.
        budget: from `checked_budget`.
        name: how messages call the data.

    Raises:
        InputError: the examples do not fit the model, or the budget asks for what they do not have.
    """
    split = read_split(data, name)
    for metric in budget.metrics:
        if metric != AGREEMENT and takes_probabilities(metric):
            require_probabilities(getattr(runner, "model", None), metric=metric)
    if split.y is None:
        inputs, labels = kopt_data.check(split.x, runner.inputs, name=name), None
    else:
        classes = num_classes(runner, budget)
        inputs, labels = kopt_data.check(split, runner.inputs, num_classes=classes, name=name), np.asarray(split.y)
    examiner = Examiner(runner, inputs, labels, budget.metric, budget.metrics)
    _check_metrics(examiner)
    if budget.max_class_drop is not None and examiner.classes is None:
        if labels is not None and budget.metric == "accuracy" and len(np.unique(labels)) == 1:
            raise ConfigError(
                f"`max_class_drop` compares classes, and {name} has one only. Pass others, or leave it out."
            )
        raise ConfigError(
            f"`max_class_drop` needs a class for every example of {name}, and metric='accuracy'. Received: metric="
            f"{budget.metric!r}, labels {'none' if labels is None else f'of shape {labels.shape}'}. Leave it out."
        )
    return examiner


def check_judgeable(runner: measure.Runner) -> None:
    """Refuse a model of several outputs, of which a budget could guard only one.

    Raises:
        UnsupportedModelError: it has several.
    """
    if len(runner.outputs) > 1:
        names = ", ".join(info.name for info in runner.outputs)
        raise UnsupportedModelError(
            f"A budget guards the metric of one output; {runner.name} has {len(runner.outputs)}: {names}. Optimize "
            f"`keras.Model(model.inputs, one_output)`, or export with `kopt.export` and judge with "
            f"`kopt.measure.evaluate`, which takes several."
        )


def check_reachable(budget: Budget, baseline: float) -> None:
    """Refuse bounds that contradict what may be lost, now that it is known from where.

    Raises:
        ConfigError: a file that keeps the one misses the other.
    """
    for one in budget.constraints:
        if one.quantity == budget.metric and one.relation == "<=" and one.bound < baseline - budget.max_drop:
            raise ConfigError(
                f"The constraint {one} and max_drop={budget.max_drop:g} contradict each other: the model as given has "
                f"{budget.metric} {baseline:.4f}, so that a file must keep {baseline - budget.max_drop:.4f}."
            )


def overlap(test: Examiner, validation: Examiner) -> int:
    """Return how many test examples are among those of validation, bit for bit.

    Raises:
        InputError: all of them are, so that it is no untouched test.
    """
    seen = set(row_keys(list(validation.inputs.values())))
    shared = sum(key in seen for key in row_keys(list(test.inputs.values())))
    if shared == test.count:
        raise InputError(
            f"`test` must hold examples that the search never sees; all {shared} of it are among those of validation. "
            "Pass other examples, or leave `test` out."
        )
    return shared


def read_split(data: Any, name: str) -> kopt_data.Split:
    """Return examples as a `Split`, whose `y` is `None` where there are no labels; a data set is read whole.

    Its examples come in an order of their own, so that one that is shuffled anew is the same examples every time.
    """
    if isinstance(data, kopt_data.Split):
        return data
    elements = data.element_spec if isinstance(data, tf.data.Dataset) else data
    if isinstance(elements, tuple) and len(elements) == 3:
        raise DataError(
            f"`{name}` has sample weights. Received: (x, y, sample_weight). Files are judged example by example, and "
            f"every one counts once in the intervals: pass (x, y), with examples drawn as they come in use. `train` "
            f"takes weights."
        )
    if isinstance(data, tuple) and len(data) == 2:
        return kopt_data.Split(*data)
    if isinstance(data, (np.ndarray, dict, list)):
        return kopt_data.Split(data, None)
    if isinstance(data, tf.data.Dataset) and not isinstance(data.element_spec, tuple):
        numbered = data.map(lambda x: (x, tf.zeros(tf.shape(tf.nest.flatten(x)[0])[:1])))
        return _in_own_order(kopt_data.Split(kopt_data.collect(numbered, name=name).x, None))
    return _in_own_order(kopt_data.collect(data, name=name))


def _in_own_order(split: kopt_data.Split) -> kopt_data.Split:
    """Return the examples in the order of their hashes."""
    parts = (split.x,) if split.y is None else (split.x, split.y)
    keys = row_keys(tf.nest.flatten(parts))
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    x, *y = tf.nest.map_structure(lambda leaf: leaf[order], parts)
    return kopt_data.Split(x, y[0] if y else None)


def num_classes(runner: measure.Runner, budget: Budget) -> int | None:
    """Return how many classes the labels name; `None` where they need not name any."""
    if budget.metric != "accuracy" or len(runner.outputs) != 1 or len(runner.outputs[0].shape) != 2:
        return None
    width = runner.outputs[0].shape[1]
    return 2 if width == 1 else width


def _check_metrics(examiner: Examiner) -> None:
    """Work the metrics out for a few examples, so that one without a meaning is refused before any work."""
    if examiner.known is None:
        return
    few = {name: array[:_FEW] for name, array in examiner.inputs.items()}
    names = [name for name in examiner.metrics if name != AGREEMENT]
    measure.metric_values(examiner.known[:_FEW], output_of(examiner.given, few), names)
