"""Computing with a quantized model in other ways than it trains and ships."""

import contextlib
import threading
from collections.abc import Iterator

_STATE = threading.local()


@contextlib.contextmanager
def observing() -> Iterator[None]:
    """Let quantizers follow ranges outside training, too: for calibration."""
    with _switched("observes"):
        yield


@contextlib.contextmanager
def unrounded() -> Iterator[None]:
    """Let the model compute in float, with weights and activations as they are before they are rounded."""
    with _switched("floats"):
        yield


def observes() -> bool:
    """Return whether quantizers follow ranges here."""
    return getattr(_STATE, "observes", False)


def floats() -> bool:
    """Return whether nothing is rounded here."""
    return getattr(_STATE, "floats", False)


@contextlib.contextmanager
def _switched(name: str) -> Iterator[None]:
    before = getattr(_STATE, name, False)
    setattr(_STATE, name, True)
    try:
        yield
    finally:
        setattr(_STATE, name, before)
