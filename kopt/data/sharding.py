"""How a pipeline is divided between the workers of a distributed training."""

import json
import os
from typing import Any

import tensorflow as tf

from kopt.core.errors import ConfigError
from kopt.core.settings import whole

AutoShardPolicy = tf.data.experimental.AutoShardPolicy


def sharded_by(dataset: tf.data.Dataset, policy: Any = AutoShardPolicy.DATA) -> tf.data.Dataset:
    """Return `dataset` with the way in which `tf.distribute` divides it between workers.

    Args:
        dataset: a pipeline whose order is the same on every worker.
        policy: `DATA` (each worker makes every element and keeps its share: right for any pipeline) or `FILE` (each
            worker reads its own files: needs at least as many files as workers, and no order across files).
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = policy
    return dataset.with_options(options)


def check_seed(seed: int | None, *, draws: bool) -> None:
    """Refuse what is no seed, and none where several workers must draw alike.

    Args:
        seed: as given by the user.
        draws: whether the pipeline shuffles or augments.

    Raises:
        ConfigError: it is no whole number; or `TF_CONFIG` names several workers, and each would shuffle in an order of
            its own, so that some examples are seen twice in an epoch and some never.
    """
    if seed is not None:
        whole("seed", seed, least=0)
    count, _ = workers()
    if draws and seed is None and count > 1:
        raise ConfigError(
            f"TF_CONFIG names {count} workers: each takes its share of one common order, so `shuffle` needs a `seed`, "
            f"the same on every worker, e.g. `seed=0`. Received: seed=None."
        )


def workers() -> tuple[int, int]:
    """Return the number of workers in `TF_CONFIG` (the chief included) and this one's position; `(1, 0)` without it.

    Raises:
        ConfigError: `TF_CONFIG` is not JSON of the documented form.
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return 1, 0
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        chiefs = len(cluster.get("chief", ()))
        count = chiefs + len(cluster.get("worker", ()))
        index = int(task.get("index", 0)) + (chiefs if task.get("type") == "worker" else 0)
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f'TF_CONFIG must be JSON like \'{{"cluster": {{"worker": ["host:port"]}}, "task": {{"type": '
            f'"worker", "index": 0}}}}\'. Received: {text[:120]!r} ({error}).'
        ) from error
    return max(count, 1), index
