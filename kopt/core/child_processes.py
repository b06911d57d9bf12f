"""What child processes inherit, and how their end is told."""

import os
import signal

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
