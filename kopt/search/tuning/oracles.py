"""The ways to propose, by the names that users give: three of keras-tuner, and one for several objectives."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras_tuner
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from kopt.core.errors import ConfigError, nearest
from kopt.search.tuning.internals import Kept
from kopt.search.tuning.pareto_oracle import ParetoOracle
from kopt.search.tuning.scores import OUTSIDE, SCORE

# keras-tuner ends a search after some failures in a row; here a file that cannot be made is an answer like others.
_ANY_FAILURES = 10**9
_LEAST_RANDOM, _RANDOM_SHARE = 4, 3
_FACTOR = 3


class KeptRandomSearch(Kept, keras_tuner.oracles.RandomSearchOracle):
    """keras-tuner's random search."""


class KeptHyperband(Kept, keras_tuner.oracles.HyperbandOracle):
    """keras-tuner's Hyperband."""


class KeptBayesian(Kept, keras_tuner.oracles.BayesianOptimizationOracle):
    """keras-tuner's Bayesian optimization, whose draws depend on how many trials there are, not on who asked before."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Propose; a point that was tried already, which a Gaussian process likes to repeat, becomes a random one."""
        self._random_state = np.random.RandomState(self.seed + len(self.trials))
        with warnings.catch_warnings():
            # After few trials the length scale is at a bound; there is nothing that a user could do about it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            found: dict[str, Any] = super().populate_space(trial_id)
        tried = [trial.hyperparameters.values for trial in self.trials.values()]
        return self._random_populate_space() if found["values"] in tried else found


class KeptPareto(Kept, ParetoOracle):
    """`ParetoOracle`."""


def oracle(
    name: str,
    space: keras_tuner.HyperParameters,
    *,
    axes: Sequence[str],
    max_trials: int,
    epochs: int,
    seed: int,
) -> Any:
    """Return the oracle of a name, which minimizes the score of `scores`.

    Args:
        name: one of `TUNERS`.
        space: all hyperparameters.
        axes: metrics that a front is looked for in.
        max_trials: most trials; of Hyperband, too, whose brackets would end it later.
        epochs: of the last round of Hyperband.
        seed: of what is drawn.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in TUNERS:
        raise ConfigError(f"Unknown tuner {name!r}.{nearest(str(name), TUNERS)} Accepted: {', '.join(TUNERS)}.")
    settings = {
        "objective": keras_tuner.Objective(SCORE, "min"),
        "hyperparameters": space,
        "max_consecutive_failed_trials": _ANY_FAILURES,
    }
    made = TUNERS[name](settings, axes, max_trials, epochs, seed)
    made.max_trials, made.verbose = max_trials, 0
    return made


def _random(settings: dict[str, Any], axes: Sequence[str], trials: int, epochs: int, seed: int) -> Any:
    # Where it is given 0, keras-tuner draws a seed of its own.
    return KeptRandomSearch(**settings, max_trials=trials, seed=seed + 1)


def _hyperband(settings: dict[str, Any], axes: Sequence[str], trials: int, epochs: int, seed: int) -> Any:
    return KeptHyperband(**settings, max_epochs=epochs, factor=_FACTOR, hyperband_iterations=0, seed=seed + 1)


def _bayesian(settings: dict[str, Any], axes: Sequence[str], trials: int, epochs: int, seed: int) -> Any:
    # By default it draws three for each hyperparameter, about a hundred, before it begins.
    random_trials = max(_LEAST_RANDOM, trials // _RANDOM_SHARE)
    return KeptBayesian(**settings, max_trials=trials, num_initial_points=random_trials, seed=seed + 1)


def _pareto(settings: dict[str, Any], axes: Sequence[str], trials: int, epochs: int, seed: int) -> Any:
    return KeptPareto(axes, **settings, max_trials=trials, limit=OUTSIDE, seed=seed)


TUNERS: dict[str, Callable[..., Any]] = {
    "random": _random,
    "hyperband": _hyperband,
    "bayesian": _bayesian,
    "pareto": _pareto,
}
