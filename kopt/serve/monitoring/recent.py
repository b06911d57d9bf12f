"""The last examples of one version, for drift and score: bounded, whatever comes."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kopt.core.errors import DataError
from kopt.core.records.shipping.drift import DriftReport
from kopt.core.records.shipping.monitoring import MonitoringProfile
from kopt.measure.drifting import drift

# Fewer say too little: the noise of the index alone is 9 * (1 / 100 + 1 / n) = 0.09 + 9 / n with ten bins.
LEAST_EXAMPLES = 100


class Table:
    """The features of the last examples, in a ring.

    Args:
        length: examples.
    """

    def __init__(self, length: int):
        self.count = 0
        self._length = length
        self._names: tuple[str, ...] = ()
        self._rows = np.empty((0, 0))
        self._next = 0

    def add(self, features: Mapping[str, np.ndarray]) -> None:
        """Add examples; those with other features begin anew, as a signature with other inputs."""
        names = tuple(features)
        if not names:
            return
        if names != self._names:
            self._names, self._rows = names, np.empty((self._length, len(names)))
            self._next = self.count = 0
        block = np.stack([features[name] for name in names], axis=1)[-self._length :]
        places = (self._next + np.arange(len(block))) % self._length
        self._rows[places] = block
        self._next = int(self._next + len(block)) % self._length
        self.count = min(self.count + len(block), self._length)

    def columns(self) -> dict[str, np.ndarray]:
        """Return the examples by feature, in no particular order."""
        return {name: self._rows[: self.count, place] for place, name in enumerate(self._names)}


class Recent:
    """What is kept of one version.

    Args:
        length: examples.
        profile: to hold them against; `None` if there is none.
    """

    def __init__(self, length: int, profile: MonitoringProfile | None):
        self.profile = profile
        self.inputs = Table(length)
        self.outputs = Table(length)
        self.scores: collections.deque[float] = collections.deque(maxlen=length)
        self.shadow_scores: collections.deque[float] = collections.deque(maxlen=length)

    def drift(self) -> tuple[DriftReport | None, DriftReport | None]:
        """Return inputs and outputs against the profile; `None` where there is nothing to say yet."""
        if self.profile is None:
            return None, None
        return (
            held_against(self.profile.inputs, self.inputs.columns()),
            held_against(self.profile.outputs, self.outputs.columns()),
        )

    @property
    def score(self) -> float | None:
        """The mean score, as the one that answers and as the shadow; `None` without labels."""
        scores = [*self.scores, *self.shadow_scores]
        return float(np.mean(scores)) if scores else None


def held_against(profile: Any, columns: Mapping[str, np.ndarray]) -> DriftReport | None:
    """Return the drift; `None` for too few examples, or other features."""
    count = len(next(iter(columns.values()))) if columns else 0
    if count < LEAST_EXAMPLES:
        return None
    try:
        return drift(profile, dict(columns))
    except DataError:
        return None


class Counts:
    """What happened in the last requests, for the rules; a request is `(seconds, code, ms, nonfinite)`.

    Args:
        length: requests that are kept at most.
    """

    def __init__(self, length: int = 20_000):
        self._requests: collections.deque[tuple[float, int, float, bool]] = collections.deque(maxlen=length)
        self._shadows: collections.deque[tuple[float, int, int]] = collections.deque(maxlen=length)

    def request(self, up: float, code: int, ms: float, is_nonfinite: bool) -> None:
        """Note an answer."""
        self._requests.append((up, code, ms, is_nonfinite))

    def shadow(self, up: float, examples: int, same: int) -> None:
        """Note a comparison."""
        self._shadows.append((up, examples, same))

    def value(self, metric: str, now: float, window_s: float) -> float | None:
        """Return a metric of `ALERT_METRICS` over the last seconds; `None` if there is nothing to say.

        A window that reaches back behind the oldest request that is kept begins there.
        """
        if metric == "shadow_disagreement":
            compared = [one for one in self._shadows if one[0] >= now - window_s]
            total = sum(one[1] for one in compared)
            return None if not total else 1 - sum(one[2] for one in compared) / total
        if len(self._requests) == self._requests.maxlen:
            window_s = min(window_s, max(now - self._requests[0][0], 1e-3))
        return request_value(metric, [one for one in self._requests if one[0] >= now - window_s], now, window_s)


def request_value(
    metric: str, requests: Sequence[tuple[float, int, float, bool]], now: float, window_s: float
) -> float | None:
    """Return a metric of the requests in a window that ends `now`; `None` if there is nothing to work it out from."""
    good = [one for one in requests if one[1] == 200]
    if metric == "requests_per_s":
        return len(requests) / min(window_s, now) if now > 0 else None
    if metric in ("error_share", "refused_share"):
        bad = [one for one in requests if (one[1] == 429 if metric == "refused_share" else one[1] >= 400)]
        return len(bad) / len(requests) if requests else None
    if not good:
        return None
    if metric == "nonfinite_share":
        return sum(one[3] for one in good) / len(good)
    quantiles = {"latency_p50_ms": 0.5, "latency_p99_ms": 0.99}
    return float(np.quantile([one[2] for one in good], quantiles[metric])) if metric in quantiles else None
