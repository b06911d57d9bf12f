"""Ranges whose estimator the caller chooses, by layer."""

import fnmatch
from collections.abc import Mapping, Sequence

import keras

from kopt.core.errors import ConfigError, nearest
from kopt.core.settings import choice
from kopt.graph import GraphView
from kopt.graph.internals import node_of
from kopt.quantize.after_training.estimators import ESTIMATORS

AUTO = "auto"


def fixed_ranges(ranges: str | Mapping[str, str], quantizers: Sequence[str], model: keras.Model) -> dict[str, str]:
    """Return the estimator of every quantizer for which one is chosen, by its name.

    Args:
        ranges: `"auto"`, an estimator for all, or one by name or pattern of layers; the first that matches counts.
        quantizers: their names.
        model: that was quantized.

    Raises:
        ConfigError: an unknown estimator, or a pattern that matches no layer whose output is rounded.
    """
    if ranges == AUTO:
        return {}
    if isinstance(ranges, str):
        return dict.fromkeys(quantizers, choice("ranges", ranges, (AUTO, *ESTIMATORS)))
    view = GraphView.of(model)
    paths = [node_of(tensor).operation.name for tensor in view.inputs] + [path for path, _ in view.walk()]
    owners = {name: owner for name in quantizers if (owner := _owner(name, paths))}
    found: dict[str, str] = {}
    for pattern, kind in ranges.items():
        choice("ranges", kind, tuple(ESTIMATORS))
        matches = [name for name, owner in owners.items() if fnmatch.fnmatchcase(owner, str(pattern))]
        if not matches:
            raise ConfigError(
                f"`ranges` names {pattern!r}, and no layer whose output is rounded is called so."
                f"{nearest(str(pattern), owners.values())} Accepted: names or paths of such layers, or patterns with "
                f"`*`. What a pooling, a reshape or a ReLU gives has the range of the layer before."
            )
        for name in matches:
            found.setdefault(name, kind)
    return found


def _owner(quantizer: str, paths: Sequence[str]) -> str:
    """Return the path of the layer whose output a quantizer rounds: the longest one that its name begins with."""
    found = [path for path in paths if f"{quantizer}_".startswith(f"{path.replace('/', '_')}_")]
    return max(found, key=len, default="")
