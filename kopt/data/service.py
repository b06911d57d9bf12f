"""Input pipelines in other processes, on tf.data service."""

import socket
import urllib.parse
from typing import Any

import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, nearest
from kopt.data.internals import all_stages, kind_of, runs_python
from kopt.data.local_service import LocalService
from kopt.data.splitting import check_fixed_order, only

# In the words of this function, and in those of tf.data service.
MODES = {"split": "DYNAMIC", "whole": "OFF", "exactly_once": "DYNAMIC"}
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS = 4  # frame type of HTTP/2
_FRAME_HEADER = 9


def distribute(
    dataset: tf.data.Dataset,
    *,
    service: str | LocalService,
    mode: str = "split",
    job_name: str | None = None,
    splits: int = 16,
    timeout_s: float = 5.0,
) -> tf.data.Dataset:
    """Return `dataset`, made by the workers of a tf.data service instead of this process.

    Use it when the processors beside the accelerator cannot keep up. Put `shuffle`, `repeat` and `prefetch` after it;
    put the work (reading, decoding, augmentation, batching) before it. Elements arrive in no fixed order.

    A worker that dies is waited for: it must be started again at its address, which `local_service` does and
    a cluster's manager should do.

    Args:
        dataset: what to make. It must hold no Python functions, and in-memory arrays of at most 2 GB in all.
        service: address of the dispatcher, `"grpc://host:port"`, or a `local_service`.
        mode: who makes what.

            - `"split"`: each element is made by one worker. At most once: what a worker that dies has in hand is lost.
            - `"exactly_once"`: as `"split"`, and every element arrives exactly once whatever dies. The client notes
              which positions have arrived and, at the end of the epoch, makes those that were lost itself. The data
              set must have a known size and a fixed order. Stages before the last chain of maps and batches are run
              `splits` times, so keep them cheap. Each iteration must end before the next begins.
            - `"whole"`: each worker makes the whole data set, in an order of its own where it shuffles: as many times
              the elements as there are workers. For data sets that are random or repeat without end.

        job_name: clients that give the same name share one pass over the data. Not with `"exactly_once"`.
        splits: pieces that `"exactly_once"` hands out, the unit of what a death can lose; at least the number of
            workers.
        timeout_s: seconds to wait for an answer from the dispatcher, now.

    Returns:
        The elements of `dataset`. Its cardinality is known for `"exactly_once"` only.

    Raises:
        ConfigError: an unknown mode, an impossible setting, a malformed address, or a data set that is infinite, of
            unknown size or without fixed order for `"exactly_once"`.
        DataError: nothing answers at the address, something that is no dispatcher does, or the data set is empty.

    Example:
        >>> dataset = tf.data.Dataset.range(100).batch(10)
        >>> kopt.data.distribute(dataset, service="grpc://localhost:1", timeout_s=0.1)
        Traceback (most recent call last):
            ...
        kopt.core.errors.DataError: No tf.data service answers at grpc://localhost:1 within 0.1 s ...

        `kopt.data.local_service` starts one to try it with.

    Source: https://www.tensorflow.org/api_docs/python/tf/data/experimental/service
    """
    _check_settings(dataset, mode, job_name, splits, timeout_s)
    if mode == "exactly_once":
        _check_countable(dataset)
    address = service.address if isinstance(service, LocalService) else service
    check_dispatcher(address, timeout_s)
    if mode == "exactly_once":
        return _exactly_once(dataset, address, splits)
    return _remote(dataset, address, mode, job_name)


def check_dispatcher(address: Any, timeout_s: float) -> None:
    """Make sure that a gRPC server answers at `address` within `timeout_s`. See `distribute` for what it raises.

    TensorFlow itself waits for hours without a word.
    """
    host, port = _host_and_port(address)
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(_PREFACE)
            answer = connection.recv(_FRAME_HEADER)
    except OSError as error:
        raise DataError(
            f"No tf.data service answers at {address} within {timeout_s:g} s ({error}). Start a dispatcher there, "
            f"check host, port and firewall, or start a local one: `with kopt.data.local_service() as service:`."
        ) from error
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise DataError(
            f"What answers at {address} is no tf.data service: it does not speak gRPC (first bytes {answer!r}). Check "
            f"the port: it is the dispatcher's, not that of a worker's web page."
        )


def _remote(dataset: tf.data.Dataset, address: str, mode: str, job_name: str | None) -> tf.data.Dataset:
    policy = tf.data.experimental.service.ShardingPolicy[MODES[mode]]
    return dataset.apply(
        tf.data.experimental.service.distribute(processing_mode=policy, service=address, job_name=job_name)
    )


def _exactly_once(dataset: tf.data.Dataset, address: str, splits: int) -> tf.data.Dataset:
    unconverted = tf.autograph.experimental.do_not_convert  # Autograph has nothing to do there.
    count = int(dataset.cardinality())
    splits = min(splits, count)
    with tf.device("/cpu:0"):
        arrived = tf.Variable(tf.zeros([count], tf.bool), trainable=False)

    def one_split(split: Any) -> tf.data.Dataset:
        mine = only(dataset, lambda position: position % splits == split)
        return mine.enumerate().map(lambda place, element: (place * splits + split, element))

    def forget(_: Any) -> Any:
        arrived.assign(tf.zeros([count], tf.bool))
        return False

    def note(position: Any, element: Any) -> Any:
        is_new = ~arrived[position]
        arrived.scatter_nd_update([[position]], [True])
        return is_new, element

    def is_incomplete(_: Any) -> Any:
        return ~tf.reduce_all(arrived)

    def lost(_: Any) -> tf.data.Dataset:
        # What is missing is read once, when the workers have ended: the note changes while these arrive.
        missing = ~arrived.read_value()
        return only(dataset, lambda position: missing[position])

    remote = _remote(tf.data.Dataset.range(splits).flat_map(unconverted(one_split)), address, "split", None)
    start = tf.data.Dataset.range(1).filter(forget).flat_map(lambda _: dataset)
    once = remote.map(note).filter(_first).map(_second)
    rest = tf.data.Dataset.range(1).filter(is_incomplete).flat_map(unconverted(lost))
    whole = start.concatenate(once).concatenate(rest)
    return whole.apply(tf.data.experimental.assert_cardinality(count))


def _first(is_new: Any, element: Any) -> Any:
    return is_new


def _second(is_new: Any, element: Any) -> Any:
    return element


def _check_settings(dataset: Any, mode: str, job_name: str | None, splits: int, timeout_s: float) -> None:
    if not isinstance(dataset, tf.data.Dataset):
        raise DataError(
            f"`dataset` must be a tf.data.Dataset. Received: {type(dataset).__module__}.{type(dataset).__qualname__}."
        )
    if mode not in MODES:
        raise ConfigError(f"Unknown mode {mode!r}.{nearest(mode, MODES)} Accepted: {', '.join(MODES)}.")
    if isinstance(splits, bool) or not isinstance(splits, int) or splits < 1:
        raise ConfigError(f"`splits` must be a whole number of at least 1. Received: {splits!r}.")
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not timeout_s > 0:
        raise ConfigError(f"`timeout_s` must be a positive number of seconds. Received: {timeout_s!r}.")
    if dataset.cardinality() == 0:
        raise DataError("The data set is empty: there is nothing to distribute.")
    if job_name is not None and mode == "exactly_once":
        raise ConfigError(
            f"`job_name` shares one pass between clients, but with `mode='exactly_once'` each client sees to its own "
            f"elements. Received: job_name={job_name!r}. Leave it out, or use `mode='split'`."
        )
    if python := [kind_of(stage) for stage in all_stages(dataset) if runs_python(stage)]:
        raise ConfigError(
            f"The data set runs Python code in {', '.join(python)} (py_function, numpy_function or from_generator); "
            f"another process cannot. Write it with TensorFlow operations, or distribute what comes before."
        )


def _check_countable(dataset: tf.data.Dataset) -> None:
    count = int(dataset.cardinality())
    if count < 0:
        size = "infinite" if count == tf.data.INFINITE_CARDINALITY else "unknown"
        raise ConfigError(
            f"`mode='exactly_once'` counts positions; the size of this data set is {size}. Put `.repeat()` after "
            f"`distribute`, or state the size: `.apply(tf.data.experimental.assert_cardinality(n))`."
        )
    check_fixed_order(
        dataset, "`mode='exactly_once'` needs the same order on every worker. Shuffle after `distribute` instead."
    )


def _host_and_port(address: Any) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(address) if isinstance(address, str) else None
    try:
        if parts is not None and parts.scheme == "grpc" and parts.hostname and parts.port:
            return parts.hostname, parts.port
    except ValueError:  # A port that is no number, or too large.
        pass
    raise ConfigError(
        f"`service` must be an address 'grpc://host:port' or a `kopt.data.local_service`. Received: {address!r}."
    )
