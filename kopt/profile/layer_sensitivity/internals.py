"""The parts of Keras that the public API does not give; the only file of this room that touches them.

`tests/unit/profile/test_profile_sensitivity_internals.py` fails when a Keras release changes one of them.
"""

from typing import Any

import keras


def values_of_metric(metric: keras.metrics.MeanMetricWrapper, y: Any, outputs: Any) -> Any:
    """Return the numbers whose mean the metric is, before the mean is taken."""
    return metric._fn(y, outputs, **metric._fn_kwargs)
