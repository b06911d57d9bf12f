"""A client of TF Serving, and of `kopt.serve.Server`, that says in types what went wrong."""

import random
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from kopt.core.errors import (
    ConfigError,
    DataError,
    DeadlineError,
    KoptError,
    NotServedError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from kopt.core.records.artifacts import TensorInfo
from kopt.core.records.shipping.serving import VersionStatus
from kopt.core.settings import number, whole
from kopt.measure.feeding import Arrays, convert, examples, match, rows
from kopt.measure.loading import DEFAULT_SIGNATURE
from kopt.serve.transports import GrpcTransport, RestTransport, Result, Signatures, Transport

_SCHEMES = {"http": RestTransport, "https": RestTransport, "grpc": GrpcTransport}
_PASSING = (OverloadedError, UnavailableError)
_LEAST_S = 0.001
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,60}")
T = TypeVar("T")


class Client:
    """Calls one model on a server.

    What passes (429, 503, nobody answers) is tried again, after a pause that doubles and is drawn at random, so that
    many clients do not come back at once; everything else is raised at once. All of `timeout_s` is for one method call,
    retries included. A client may be used by several threads; they share its connections.

    Args:
        url: `"http://host:8501"`, `"https://..."`, or `"grpc://host:8500"`.
        model: name of the model.
        version: to ask; the server's newest if neither this nor `label` is given.
        label: of the version to ask.
        timeout_s: seconds for a method call.
        retries: times that a call is tried again.
        backoff_s: seconds of the first pause, at most.
        batch_size: examples in a request at most; larger arrays go in several.

    Raises:
        ConfigError: an impossible setting.
        MissingDependencyError: gRPC needs the extra `serve`.

    Example:
        >>> with kopt.serve.Server("model.tflite", name="digits", port=0, log=str) as server:
        ...     with kopt.serve.Client(server.url, "digits", timeout_s=5.0) as client:
        ...         client.status()[0].state, client.predict(x_val[:4]).shape
        ('AVAILABLE', (4, 10))
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
        backoff_s: float = 0.1,
        batch_size: int = 128,
    ):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in _SCHEMES or not parts.netloc:
            raise ConfigError(
                f"An address is like 'http://127.0.0.1:8501' or 'grpc://127.0.0.1:8500'. Received: {url!r}."
            )
        if version is not None and label is not None:
            raise ConfigError(f"Ask for a version or a label, not both. Received: {version!r} and {label!r}.")
        self._timeout_s = number("timeout_s", timeout_s, least=0.0, open_below=True)
        self._retries = whole("retries", retries, least=0)
        self._backoff_s = number("backoff_s", backoff_s, least=0.0)
        self._batch_size = whole("batch_size", batch_size)
        target = parts.netloc if parts.scheme == "grpc" else url
        self._transport: Transport = _SCHEMES[parts.scheme](target, model, version, label)
        self._random = random.Random()
        self._signatures: Signatures | None = None

    def predict(
        self, arrays: Arrays, *, signature: str = DEFAULT_SIGNATURE, request_id: str | None = None
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Return what the model answers for any number of examples.

        Args:
            arrays: one array, a sequence by position or a dict by input name.
            signature: to run.
            request_id: by which a server of kopt takes labels later, see `label`: letters, digits, `_`, `.`, `:`, `-`,
                60 at most.

        Returns:
            One array for one output, else a dict by output name.

        Raises:
            DataError: the arrays do not fit the signature; nothing was sent.
            ConfigError: an impossible `request_id`.
            ServingError: see its subclasses.
        """
        _check_id(request_id)
        end, known = time.monotonic() + self._timeout_s, self._signatures
        try:
            return self._predicted(arrays, signature, request_id, end)
        except (DataError, RequestError):  # a new version may take other inputs
            if known is None or not self._is_other(known):
                raise
            return self._predicted(arrays, signature, request_id, end)

    def _is_other(self, known: Signatures) -> bool:
        """Return whether the server takes something else by now, as a new version may."""
        try:
            return self.metadata() != known
        except KoptError:
            return False

    def _predicted(
        self, arrays: Arrays, signature: str, request_id: str | None, end: float
    ) -> np.ndarray | dict[str, np.ndarray]:
        inputs, outputs = self._signature(signature, end)
        named = match(inputs, arrays)
        total = examples(inputs, named)
        parts, sizes = [], []
        for start in range(0, total, self._batch_size):
            sizes.append(min(self._batch_size, total - start))
            part = rows(inputs, named, start, start + self._batch_size)
            feeds = {info.name: convert(info, part[info.name]) for info in inputs}
            identity = self._part_id(request_id, start, total)
            parts.append(self._try(end, self._transport.predict, signature, feeds, outputs, identity))
        joined = parts[0] if len(parts) == 1 else _joined(parts, sizes)
        return next(iter(joined.values())) if len(joined) == 1 else joined

    def label(self, request_id: str, labels: Any) -> int:
        """Tell a server of kopt what the right answers to an earlier request were; return how many examples it took.

        Args:
            request_id: that `predict` was given, by a client with the same `batch_size`.
            labels: one an example.

        Raises:
            DataError: no labels.
            RequestError: they do not fit, or the server takes none.
            NotServedError: the server does not remember the request, or has its labels already.
            ServingError: see its subclasses.
        """
        _check_id(request_id)
        values = np.asarray(labels)
        if not values.ndim or not values.size:
            raise DataError(f"`labels` has one an example. Received: {labels!r}.")
        end, total = time.monotonic() + self._timeout_s, len(values)
        parts = {
            str(self._part_id(request_id, start, total)): values[start : start + self._batch_size].tolist()
            for start in range(0, total, self._batch_size)
        }
        unknown = self._try(end, self._transport.label, parts)
        if unknown:
            raise NotServedError(
                f"The server does not remember {', '.join(unknown)}: too long ago, labelled already, or not predicted "
                "with this id and batch size."
            )
        return total

    def _part_id(self, request_id: str | None, start: int, total: int) -> str | None:
        """Return the id of a part: that of the request where there is one part."""
        if request_id is None or total <= self._batch_size:
            return request_id
        return f"{request_id}.{start // self._batch_size}"

    def classify(self, examples: Sequence[Mapping[str, Any]], *, signature: str = "classify") -> list[Result]:
        """Return labels with scores, best first, for examples given as features by name.

        Args:
            examples: numbers, text, bytes, or lists of them, by feature name.
            signature: that was written for the Classify API.

        Raises:
            DataError: no example.
            ServingError: see its subclasses.
        """
        if isinstance(examples, Mapping) or not len(examples):
            raise DataError(f"`examples` is a list of dicts, one an example. Received: {examples!r}.")
        end = time.monotonic() + self._timeout_s
        results: list[Result] = []
        for start in range(0, len(examples), self._batch_size):
            part = examples[start : start + self._batch_size]
            results += self._try(end, self._transport.classify, signature, part)
        return results

    def metadata(self) -> Signatures:
        """Return inputs and outputs of every signature, asked for anew.

        Raises:
            ServingError: see its subclasses.
        """
        self._signatures = self._try(time.monotonic() + self._timeout_s, self._transport.metadata)
        return dict(self._signatures)

    def status(self) -> tuple[VersionStatus, ...]:
        """Return the state of the model's versions.

        Raises:
            ServingError: see its subclasses.
        """
        return self._try(time.monotonic() + self._timeout_s, self._transport.status)

    def close(self) -> None:
        """Let go of the connections."""
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _signature(self, name: str, end: float) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
        if self._signatures is None or name not in self._signatures:
            self._signatures = self._try(end, self._transport.metadata)
        if name not in self._signatures:
            raise RequestError(f"The model has no signature {name!r}; it has {', '.join(self._signatures)}.")
        return self._signatures[name]

    def _try(self, end: float, call: Callable[..., T], *arguments: Any) -> T:
        """Call until it succeeds, what fails does not pass, or there is no time or try left."""
        for attempt in range(self._retries + 1):
            left = end - time.monotonic()
            try:
                return call(*arguments, timeout_s=max(left, _LEAST_S))
            except _PASSING as error:
                if attempt == self._retries:
                    raise
                # Between half and all of a pause that doubles, or what the server asks for if that is longer.
                pause = max(self._backoff_s * 2**attempt * self._random.uniform(0.5, 1.0), error.retry_after_s)
                if time.monotonic() + pause >= end:
                    raise DeadlineError(f"No answer in {self._timeout_s:g} s. The last try: {error}") from error
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def _check_id(request_id: str | None) -> None:
    if request_id is not None and not (isinstance(request_id, str) and _ID.fullmatch(request_id)):
        raise ConfigError(f"A request id has 1 to 60 letters, digits, '_', '.', ':' and '-'. Received: {request_id!r}.")


def _joined(parts: Sequence[Mapping[str, np.ndarray]], sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the answers to parts of a request as one.

    Raises:
        DataError: an output does not have its examples on the first axis.
    """
    for part, size in zip(parts, sizes, strict=True):
        for name, array in part.items():
            if not array.ndim or len(array) != size:
                raise DataError(
                    f"The output {name!r} of shape {array.shape} for {size} examples does not have them on its first "
                    f"axis, so that parts cannot be joined. Send at most `batch_size` examples at a time."
                )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
