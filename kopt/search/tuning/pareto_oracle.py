"""An oracle of keras-tuner that looks for the whole front of several objectives, not for one best point."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.hyperparameters import HyperParameter
from keras_tuner.engine.trial import Trial, TrialStatus

from kopt.core.errors import ConfigError
from kopt.core.settings import whole
from kopt.search.tuning.pareto import best_first, dominates, tournament

# A child changes each value that it inherited with this probability, at least one in as many as there are.
_LEAST_MUTATION = 0.1
# How far a value moves, in shares of its range, and how often it is drawn anew instead.
_STEP, _ANEW = 0.3, 0.25
# Parents are among so many of the best. In 60 trials on a known front (see the tests) six as parents find 1.2 more than
# chance does, and all as parents 0.1.
_PARENTS = 6
_ATTEMPTS = 50
_LEAST_RANDOM, _RANDOM_SHARE = 4, 0.2


class ParetoOracle(keras_tuner.Oracle):
    """Proposes by crossing and changing the trials that no other beats in all axes at once (NSGA-II, one at a time).

    Use it where several things count, e.g. what a file loses and what it costs: an oracle of one objective finds one
    point, this one the choices between. The first trials are random. Then two parents are drawn by tournament, those
    first that no other beats and that stand alone on the front; the child takes each value from either, moves some to a
    neighbor, and is never one that was tried. What is proposed depends on the seed and on the finished trials alone, so
    that an oracle that was saved and reloaded goes on as if it had not been.

    Args:
        axes: names of the metrics of which less is better; trials report all of them.
        objective: as for every oracle: what `get_best_trials` sorts by.
        max_trials: most trials.
        limit: trials whose objective is this or more miss what is demanded, by that much, and come behind all others;
            `None`: no demands.
        random_trials: before the first child; by default a fifth of `max_trials`, at least 4.
        seed: of all that is drawn.
        **settings: of `keras_tuner.Oracle`.

    Raises:
        ConfigError: no axes, or a number that is none.

    Source: K. Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002.

    Example:
        >>> import keras_tuner
        >>> space = keras_tuner.HyperParameters()
        >>> width = space.Choice("width", [4, 8, 16, 32])
        >>> oracle = kopt.search.ParetoOracle(
        ...     ("drop", "size"), objective=keras_tuner.Objective("size", "min"), max_trials=8, hyperparameters=space
        ... )
        >>> oracle.populate_space("0")["status"], oracle.axes
        ('RUNNING', ('drop', 'size'))
    """

    def __init__(
        self,
        axes: Sequence[str],
        *,
        objective: Any,
        max_trials: int = 10,
        limit: float | None = None,
        random_trials: int | None = None,
        seed: int = 0,
        **settings: Any,
    ):
        if isinstance(axes, str) or not axes:
            raise ConfigError(f"`axes` are the names of metrics, e.g. ('drop', 'latency'). Received: {axes!r}.")
        whole("max_trials", max_trials)
        self.axes, self.limit = tuple(axes), limit
        default = max(_LEAST_RANDOM, round(_RANDOM_SHARE * max_trials))
        self.random_trials = default if random_trials is None else whole("random_trials", random_trials)
        # Where an oracle is given 0, keras-tuner draws a seed of its own.
        super().__init__(objective=objective, max_trials=max_trials, seed=whole("seed", seed, least=0) + 1, **settings)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Return the values of a trial that is new; see `keras_tuner.Oracle`."""
        del trial_id
        generator = np.random.default_rng([self.seed, len(self.trials)])
        finished = self._finished()
        tried = [trial.hyperparameters.values for trial in self.trials.values()]
        for attempt in range(2 * _ATTEMPTS):
            is_random = len(finished) < self.random_trials or attempt >= _ATTEMPTS
            values = self._child((), generator) if is_random else self._bred(finished, generator)
            if values not in tried:
                return {"status": TrialStatus.RUNNING, "values": values}
        status = TrialStatus.IDLE if self.ongoing_trials else TrialStatus.STOPPED
        return {"status": status, "values": None}

    def front(self) -> list[Trial]:
        """Return the finished trials that no other beats, in the order in which they began."""
        finished = self._finished()
        points = [self._point(trial) for trial in finished]
        within = [number for number, missed in enumerate(map(self._excess, finished)) if missed <= 0]
        beaten = {one for one in within if any(dominates(points[other], points[one]) for other in within)}
        return [finished[number] for number in within if number not in beaten]

    def _finished(self) -> list[Trial]:
        trials = sorted(self.trials.values(), key=lambda trial: int(trial.trial_id))
        return [
            trial
            for trial in trials
            if trial.status == TrialStatus.COMPLETED and all(trial.metrics.exists(name) for name in self.axes)
        ]

    def _point(self, trial: Trial) -> tuple[float, ...]:
        return tuple(float(trial.metrics.get_best_value(name)) for name in self.axes)

    def _excess(self, trial: Trial) -> float:
        if self.limit is None or trial.score < self.limit:
            return 0.0
        return float(trial.score - self.limit) or np.finfo(float).tiny

    def _bred(self, finished: Sequence[Trial], generator: np.random.Generator) -> dict[str, Any]:
        order = best_first([self._point(trial) for trial in finished], [self._excess(trial) for trial in finished])
        parents = [finished[order[tournament(min(_PARENTS, len(order)), generator)]] for _ in range(2)]
        return self._child([parent.hyperparameters.values for parent in parents], generator)

    def _child(self, parents: Sequence[Mapping[str, Any]], generator: np.random.Generator) -> dict[str, Any]:
        """Return values taken from the parents, some of them changed; without parents all are drawn."""
        made: dict[str, Any] = {}
        rate = max(_LEAST_MUTATION, 1.0 / max(1, max(map(len, parents), default=1)))
        for one in self.hyperparameters.space:
            if not all(condition.is_active(made) for condition in one.conditions):
                continue
            inherited = [parent[one.name] for parent in parents if one.name in parent]
            if not inherited:
                made[one.name] = one.prob_to_value(generator.random())
                continue
            value = inherited[int(generator.integers(len(inherited)))]
            made[one.name] = _mutated(one, value, generator) if generator.random() < rate else value
        return made


def _mutated(one: HyperParameter, value: Any, generator: np.random.Generator) -> Any:
    """Return a neighbor of a value where values have an order, or any other."""
    if not getattr(one, "ordered", True) or generator.random() < _ANEW:
        return one.prob_to_value(generator.random())
    probability = one.value_to_prob(value) + _STEP * generator.normal()
    return one.prob_to_value(float(np.clip(probability, 0.0, np.nextafter(1.0, 0.0))))
