"""Perturbations of many layers at the same time."""

from typing import Any

import numpy as np

from kopt.core.records.profiles.sensitivity import Perturbation
from kopt.profile.layer_sensitivity.examples import Examples
from kopt.profile.layer_sensitivity.kernels import Target
from kopt.profile.layer_sensitivity.measured import Change, Judge
from kopt.profile.layer_sensitivity.objective import Objective
from kopt.profile.layer_sensitivity.suffixes import flat_inputs
from kopt.profile.layer_sensitivity.tracing import Trace


class JointRuns:
    """Full passes of a model with perturbations of any layers.

    Args:
        trace: of the model.
        targets: layers, in the order of the trace.
        examples: to measure on.
        objective: to judge by.
        seed: of noise.
    """

    def __init__(self, trace: Trace, targets: list[Target], examples: Examples, objective: Objective, seed: int):
        self._function = trace.function([*trace.inputs, *trace.kernels], trace.judged)
        self._targets, self._examples, self._objective, self._seed = targets, examples, objective, seed
        self._plain: list[list[np.ndarray]] = []

    def measure(self, choices: dict[str, list[Perturbation]]) -> Change:
        """Return the change when every layer in `choices` goes through its perturbations one after the other."""
        changed, plain = Judge(self._objective), Judge(self._objective)
        kernels = self._kernels(choices)
        for place, batch in enumerate(self._examples):
            feeds = flat_inputs(batch)
            if place == len(self._plain):
                self._plain.append([value.numpy() for value in self._function(*feeds, *self._kernels({}))])
            plain.add(self._plain[place], None, batch)
            changed.add(self._function(*feeds, *kernels), self._plain[place], batch)
        return changed.change(plain)

    def _kernels(self, choices: dict[str, list[Perturbation]]) -> list[Any]:
        return [
            kernel.perturbed(choices.get(target.path, []), self._seed)
            for target in self._targets
            for kernel in target.kernels
        ]
