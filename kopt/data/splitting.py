"""Part of a pipeline's elements, made without making the others as far as its stages allow."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kopt.core.errors import ConfigError
from kopt.data.internals import all_stages, drops_remainder, inputs_of, kind_of, name_of, remapped, setting_of
from kopt.data.seeds import AUGMENTATION

_TRANSPARENT = ("prefetch", "options", "assert_cardinality")


def only(dataset: tf.data.Dataset, belongs: Callable[[Any], Any]) -> tf.data.Dataset:
    """Return the elements of `dataset` whose position `belongs` says yes to, in order.

    The choice is made as early as possible: maps and batches at the end of the pipeline run for chosen elements alone;
    the stages before them run for all.

    Args:
        dataset: every iteration gives the same elements in the same order.
        belongs: from an int64 position to a boolean tensor.
    """
    group, above, node = 1, [], dataset
    while True:
        kind = kind_of(node)
        if kind == "map" and (again := remapped(node)) is not None:
            above.append(again)
        elif kind == "batch":
            above.append(_rebatched(node))
            group *= setting_of(node) or 1
        elif kind not in _TRANSPARENT:
            break
        [node] = inputs_of(node)

    def chosen(position: Any, *element: Any) -> Any:
        return belongs(position // group)

    result = node.enumerate().filter(chosen).map(lambda position, element: element)
    for again in reversed(above):
        result = again(result)
    return result


def check_fixed_order(dataset: tf.data.Dataset, remedy: str) -> None:
    """Refuse a pipeline whose order differs between iterations, as far as its stages tell.

    Raises:
        ConfigError: it shuffles, draws its order at random or gives up determinism.
    """
    if dataset.options().deterministic is False:
        raise ConfigError(f"The data set's options say `deterministic=False`: its order is not fixed. {remedy}")
    for node in all_stages(dataset):
        kind = kind_of(node)
        if kind == "shuffle" or (kind == "random" and name_of(node) != AUGMENTATION):
            raise ConfigError(f"The data set is shuffled ({kind}): its order differs between iterations. {remedy}")


def _rebatched(node: tf.data.Dataset) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    size, drop = setting_of(node) or 1, drops_remainder(node)
    return lambda other: other.batch(size, drop_remainder=drop)
