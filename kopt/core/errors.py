"""Everything kopt raises on purpose.

```
KoptError
├── InputError (ValueError)              what the caller passed cannot be used; nothing was written
│   ├── ConfigError                      an unknown or impossible setting
│   ├── DataError                        arrays, folders or data sets that do not fit
│   ├── NonFiniteError                   NaN or infinity in weights or data
│   └── UnsupportedModelError            a model (or layer) this operation has no way to treat
├── LoadError                            a file that cannot be opened as what it claims to be
│   └── UnsafeModelError                 opening it would run code stored in the file
├── OutputError (OSError)                a path that cannot be written
│   └── OutputExistsError
├── ExportError                          a converter failed or died
│   └── ParityError                      the exported file does not compute what the model computes
├── TrainingError                        training cannot begin or go on; what was trained so far is kept
│   ├── DivergedError                    the loss or the gradients stayed NaN or infinite
│   ├── OutOfMemoryError                 a training step does not fit into memory
│   └── WorkerLostError                  another process of a distributed training died
├── MeasurementError                     a runtime refused to run or to be measured
├── ServingError                         a request that a server did not answer as asked; `status` is that of HTTP
│   ├── RequestError (InputError)        400: the request itself cannot be used
│   ├── NotServedError                   404: no such model, version or label
│   ├── RequestTooLargeError             413: more bytes than the server takes
│   ├── OverloadedError                  429: the queue is full; later there will be room
│   ├── ServerFailedError                500: the server failed at it, or is no model server
│   ├── UnavailableError                 503: nobody answers, or not now
│   └── DeadlineError                    504: not answered in time
└── MissingDependencyError (ImportError) an optional package, library or device is not there
```
"""

import difflib
import itertools
import re
from collections.abc import Iterable

_COLOR = re.compile(r"\x1b\[\d*m")
_HEADLINES = ("Exception encountered when calling", "Graph execution error", "Detected at node")


class KoptError(Exception):
    """Base of every error that kopt raises on purpose.

    Example:
        >>> try:
        ...     kopt.export.tflite(model, "no_such_directory/model.tflite", scheme="int7")
        ... except kopt.KoptError as error:
        ...     print(type(error).__name__)
        ConfigError
    """


class InputError(KoptError, ValueError):
    """An argument cannot be used: the message says what was received, what is accepted and how to fix it."""


class ConfigError(InputError):
    """A setting is unknown or out of range."""


class DataError(InputError):
    """Data does not fit the model, or does not fit itself."""


class NonFiniteError(InputError):
    """NaN or infinity where only finite numbers make sense."""


class UnsupportedModelError(InputError):
    """The operation cannot treat this model; the message gives the reason and what works instead."""


class LoadError(KoptError):
    """A file is missing, damaged or not what its name says."""


class UnsafeModelError(LoadError):
    """Opening the file would execute code that is stored in it."""


class OutputError(KoptError, OSError):
    """An output path cannot be written."""


class OutputExistsError(OutputError):
    """The output path is taken and `overwrite` was not given."""


class ExportError(KoptError):
    """A converter failed.

    Attributes:
        log_tail: the last lines that the converter printed, newest last.
        details: everything that the converter's own error said.
    """

    def __init__(self, message: str, log_tail: str = "", details: str = ""):
        super().__init__(f"{message}\n{log_tail}" if log_tail else message)
        self.log_tail = log_tail
        self.details = details


class ParityError(ExportError):
    """The exported file opens but does not compute what the model computes."""


class TrainingError(KoptError):
    """Training cannot begin or go on; what was trained so far is kept in the model."""


class DivergedError(TrainingError):
    """The loss or the gradients were NaN or infinite in too many steps in a row."""


class OutOfMemoryError(TrainingError):
    """A training step does not fit into memory."""


class WorkerLostError(TrainingError):
    """Another process of a distributed training died or cannot be reached."""


class MeasurementError(KoptError):
    """A file cannot be run or measured."""


class ServingError(KoptError):
    """A request was not answered as asked.

    Attributes:
        status: of HTTP, which says the same.
        retry_after_s: seconds after which the server asks to be called again; 0 if it does not say.
    """

    status = 500
    retry_after_s = 0.0


class RequestError(ServingError, InputError):
    """The request cannot be used: its form, names, shapes or types."""

    status = 400


class NotServedError(ServingError):
    """The server has no such model, version or label."""

    status = 404


class RequestTooLargeError(ServingError):
    """The request has more bytes than the server takes."""

    status = 413


class OverloadedError(ServingError):
    """The queue is full, so the request was refused at once; later there will be room."""

    status = 429


class ServerFailedError(ServingError):
    """The server failed to work the request off, or what answers is no model server."""


class UnavailableError(ServingError):
    """Nobody answers, or not now."""

    status = 503


class DeadlineError(ServingError):
    """The answer was not there in time."""

    status = 504


class MissingDependencyError(KoptError, ImportError):
    """An optional package, library or device is missing; the message carries what adds it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the known name closest to `name`, or `""` if none is close."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def words_of(error: BaseException) -> str:
    """Return the line of an error that says what was wrong, not the headlines that Keras and TensorFlow put before it.

    Never empty: an error without words is called by its class.
    """
    lines = [line.strip() for line in _COLOR.sub("", str(error)).splitlines() if line.strip()]
    # TensorFlow ends the trace of a graph's error with its message and, on the next line, the node in brackets.
    named = (line for line, following in itertools.pairwise(lines) if following.startswith("[[{{node"))
    said = (line for line in lines if not line.startswith(_HEADLINES))
    return next(named, None) or next(said, type(error).__name__)
