"""What child processes inherit, and how their end is told."""

import importlib
import os
import signal
import sys

# A parent that loaded tfmot has the first one set; it would turn the child's Keras into Keras 2. The second one would
# keep the child from saying what it died of.
_NOT_INHERITED = frozenset(("TF_USE_LEGACY_KERAS", "TF_CPP_MIN_LOG_LEVEL"))


def environment() -> dict[str, str]:
    """Return the environment of a child process that loads TensorFlow.

    What it prints is not held back, so that it is in the log if the process dies.
    """
    kept = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def ending(code: int) -> str:
    """Return how a process ended, from its return code: `"SIGSEGV"` or `"exit code 3"`."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def import_tensorflow_alone() -> None:
    """Import TensorFlow without Keras, which it would load as well, for as many seconds again.

    For processes that only run or convert graphs; `import keras` and `tf.keras` load it later, where something asks.
    """
    if "keras" in sys.modules:
        importlib.import_module("tensorflow")
        return
    sys.modules["keras"] = None  # type: ignore[assignment]  # TensorFlow takes it for not installed
    try:
        importlib.import_module("tensorflow")
    finally:
        del sys.modules["keras"]
