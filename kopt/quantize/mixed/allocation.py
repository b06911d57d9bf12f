"""Which layer gets how many bits: an integer program over measured errors, exactly solved; no model here."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from kopt.core.errors import ConfigError


def allocate(errors: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], budget: int) -> list[int]:
    """Return for each layer which of its choices to take, so that the sum of errors is least and sizes fit.

    Minimizes `sum e[l, c] * x[l, c]` for `x` in {0, 1}, with one choice a layer and `sum s[l, c] * x[l, c] <= budget`.

    Args:
        errors: a row a layer, a column a choice.
        sizes: likewise, in bytes.
        budget: bytes of all layers together.

    Raises:
        ConfigError: the smallest choices do not fit.

    Source: Hubara et al., "Accurate Post Training Quantization With Small Calibration Sets", 2021, section 3.4.
    """
    cost, size = np.asarray(errors, np.float64), np.asarray(sizes, np.float64)
    least = int(size.min(1).sum())
    if least > budget:
        raise ConfigError(f"The kernels take {least:,} bytes at least. Received a budget of {budget:,} bytes.")
    layers, choices = cost.shape
    one_each = np.kron(np.eye(layers), np.ones(choices))
    # Errors are powers of noise and can be as small as 1e-10, below the solver's tolerances.
    scale = cost.max() or 1.0
    found = milp(
        (cost / scale).ravel(),
        integrality=np.ones(cost.size),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(size.ravel()[None], ub=budget)],
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise ConfigError(f"No choice of bits fits {budget:,} bytes: {found.message}")
    return [int(choice) for choice in found.x.reshape(layers, choices).argmax(1)]
