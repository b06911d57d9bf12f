"""Leaving the caller's random numbers alone.

Building a Keras layer draws a default seed from Python's global generator, even where no number is ever used. Public
functions that build layers run inside `preserved_random_state`, so that calling them does not change what the
caller's own program draws next.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore Python's and NumPy's global generators at the end of the block; also a decorator."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
