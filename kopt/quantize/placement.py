"""Where activations are rounded, and which of them share a range."""

from collections.abc import Sequence

from kopt.quantize.steps import Step


class Placement:
    """The ranges of a model.

    Attributes:
        meeting: steps and keys of what they take whose tensors are rounded once more there.
        watched: keys of outputs of the model that layers in float give.

    A range belongs to a group of tensors: those that pooling, reshaping, padding and concatenation make of each other,
    because TFLite computes these operators with one scale for input and output. A group whose range TFLite fixes, such
    as that of a softmax, takes no other tensors in: those are rounded once more where the two meet.

    Source: TensorFlow, `tensorflow/compiler/mlir/lite/ir/tfl_ops.td`, trait `SameOperandsAndResultsScale`.
    """

    def __init__(self, steps: Sequence[Step], inputs: Sequence[int], outputs: Sequence[int]):
        """Find groups and quantizers.

        Args:
            steps: of the model.
            inputs: keys of its inputs that are float.
            outputs: keys of its outputs.
        """
        self._parents: dict[int, int] = {}
        self._ends: dict[int, tuple[float, float]] = {}
        self._sites: dict[int, int] = {}
        self._again: dict[int, str] = {}
        self.watched: set[int] = set()
        takers: dict[int, list[Step]] = {}
        for step in steps:
            for key in step.inputs:
                takers.setdefault(key, []).append(step)
        self._needed = _needed(steps)
        # What layers in float alone take is not rounded before them.
        self._observed = [key for key in inputs if key in self._needed or key in outputs]
        for key in self._observed:
            self._parents[key] = key
        for step in steps:
            self._place(step, takers, set(outputs))
        # Tensors with a fixed range that meet others are observed where they do.
        self.meeting = {
            (id(step), key)
            for step in steps
            if step.role.range == "tied"
            for key in step.inputs
            if key in self._parents and self.group(key) != self.group(step.outputs[0])
        }
        self._number(steps)

    def group(self, key: int) -> int:
        """Return the group of a tensor, by the key of one of its members."""
        while self._parents[key] != key:
            key = self._parents[key]
        return key

    def has_range(self, key: int) -> bool:
        """Return whether a tensor is on a grid."""
        return key in self._parents

    def ends(self, key: int) -> tuple[float, float] | None:
        """Return the range of a tensor's group if TFLite fixes it."""
        return self._ends.get(self.group(key))

    def is_rounded(self, key: int) -> bool:
        """Return whether a quantizer stands on a tensor."""
        return key in self._again or key in self._sites

    def site(self, key: int) -> int:
        """Return which site of its group's quantizer a tensor is; -1 if it is not observed."""
        return self._sites.get(key, -1)

    def ties(self, key: int) -> str:
        """Return how a tensor of means is rounded; empty for others."""
        return self._again.get(key, "")

    def meeting_site(self, step: Step, key: int) -> int:
        """Return which site of the group's quantizer a tensor of another group is where a step takes it."""
        return self._meeting_sites[id(step), key]

    def sites(self, group: int) -> int:
        """Return how many sites the quantizer of a group has."""
        return self._counts.get(group, 0)

    def _place(self, step: Step, takers: dict[int, list[Step]], outputs: set[int]) -> None:
        role = step.role
        known = [key for key in step.inputs if key in self._parents]
        # What layers in float give to such alone, or to the outputs of the model, is not rounded behind them.
        stays_float = role.unfit or (role.vanishes and not known)
        made_here = [key for key in step.outputs if key in self._needed or not stays_float]
        if role.range == "none":
            return
        self.watched.update(outputs.intersection(step.outputs).difference(made_here))
        if not made_here:
            return
        for key in made_here:
            self._parents[key] = key
        (made, *_) = step.outputs
        if role.range == "fixed" and role.ends is not None:
            self._ends[made] = role.ends
            self._again[made] = ""
        elif role.range == "same" and known:
            self._unite(made, known[0])
            if role.ties:
                self._again[made] = role.ties
        elif role.range == "tied" and known:
            self._tie(made, known)
        else:
            self._observed += [key for key in made_here if not self._is_inside(key, step, takers, outputs)]

    def _tie(self, made: int, known: Sequence[int]) -> None:
        """Give what is made of several tensors one range with them; where TFLite fixes some, they meet the others."""
        free = [key for key in known if self.ends(key) is None]
        if not free and len({self.ends(key) for key in known}) > 1:
            self._observed.append(made)  # all of them meet here
            return
        for key in (*free, *known):
            self._unite(made, key)

    def _is_inside(self, key: int, step: Step, takers: dict[int, list[Step]], outputs: set[int]) -> bool:
        """Return whether a tensor never leaves an operator, because the activation behind is part of it."""
        behind = takers.get(key, [])
        alone = len(behind) == 1 and behind[0].role.is_activation and key not in outputs
        return step.role.takes_activation and alone

    def _unite(self, one: int, other: int) -> None:
        one, other = self.group(one), self.group(other)
        ends, others = self._ends.get(one), self._ends.get(other)
        if one == other or (ends != others and ends is not None and others is not None):
            return
        if ends != others and self._is_larger_than_one(one if others else other):
            return
        self._parents[one] = other
        if ends is not None:
            self._ends[other] = ends

    def _is_larger_than_one(self, group: int) -> bool:
        return sum(self.group(key) == group for key in self._parents) > 1 or group in self._observed

    def _number(self, steps: Sequence[Step]) -> None:
        self._counts: dict[int, int] = {}
        self._meeting_sites: dict[tuple[int, int], int] = {}
        for key in self._observed:
            self._sites[key] = self._take_site(self.group(key))
        for step in steps:
            for key in step.inputs:
                if (id(step), key) in self.meeting:
                    self._meeting_sites[id(step), key] = self._take_site(self.group(step.outputs[0]))

    def _take_site(self, group: int) -> int:
        number = self._counts.get(group, 0)
        self._counts[group] = number + 1
        return number


def _needed(steps: Sequence[Step]) -> set[int]:
    """Return the keys of what operators take that compute in integers."""
    found: set[int] = set()
    for step in reversed(steps):
        is_integer = not step.role.unfit and step.role.range != "none"
        if is_integer and (not step.role.vanishes or found.intersection(step.outputs)):
            found.update(step.inputs)
    return found
