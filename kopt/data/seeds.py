"""Random numbers of a pipeline that depend on (seed, epoch, position) and on nothing else.

`tf.data` draws in the order in which its threads happen to run unless every random operation is stateless. Here one
pair of numbers is drawn an epoch, by the one stateful source, `Dataset.random`, which `tf.train.Checkpoint` saves
with the iterator; everything else is computed from that pair and a position.
"""

from typing import Any

import tensorflow as tf

# The block cipher of `RandomIndexShuffle` has 4 rounds by default, which leaves permutations of few elements visibly
# uneven (chi-square a degree of freedom 2.0 for 6 elements); with 16 it is 1.0, at 0.1 us an index.
_ROUNDS = 16
# Marks random numbers that do not decide the order of elements.
AUGMENTATION = "kopt_augmentation"


def epoch_seeds(seed: int | None, *, name: str | None = None) -> tf.data.Dataset:
    """Return a data set of one int64 pair, another one each time it is iterated; the same sequence for equal seeds."""
    stream = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True, name=name)
    return stream.batch(2, drop_remainder=True).take(1)


def with_seeds(dataset: tf.data.Dataset, seed: int | None) -> tf.data.Dataset:
    """Return pairs `(element, int64 pair)`; the second depends on `seed`, the epoch and the element's position."""
    everywhere = epoch_seeds(seed, name=AUGMENTATION).flat_map(_forever)
    numbered = tf.data.Dataset.zip(dataset.enumerate(), everywhere)
    folded = numbered.map(_fold, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True, name=AUGMENTATION)
    count = int(dataset.cardinality())  # The endless stream of pairs hides it.
    return folded if count < 0 else folded.apply(tf.data.experimental.assert_cardinality(count))


def permuted(index: Any, seed: Any, count: int) -> Any:
    """Return where `index` (int64) stands in a random permutation of `range(count)` that the pair `seed` names.

    Costs no memory: a block cipher on the numbers below `count`, computed an index at a time, so that neither a
    buffer nor a checkpoint grows with the data set.
    """
    key = tf.concat([seed, tf.zeros([1], tf.int64)], 0)
    return tf.raw_ops.RandomIndexShuffle(
        index=index, seed=key, max_index=tf.constant(count - 1, tf.int64), rounds=_ROUNDS
    )


def _forever(pair: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensors(pair).repeat()


def _fold(numbered: Any, pair: Any) -> Any:
    position, element = numbered
    return element, tf.random.experimental.stateless_fold_in(pair, position)
