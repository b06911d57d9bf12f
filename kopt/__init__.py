"""kopt: take a Keras 3 model from "it trains" to "it is small, fast and deployed".

Importing kopt is light and changes nothing in the process: subpackages, and TensorFlow with them, load on first use.
"""

import importlib
from typing import Any

from kopt.core.errors import KoptError
from kopt.core.records.search.budget import Budget, Constraint
from kopt.version import __version__

_SUBPACKAGES = (
    *("advice", "cluster", "core", "data", "distill", "export", "graph", "measure", "profile"),
    *("prune", "quantize", "report", "restructure", "search", "serve", "train"),
)
_ATTRIBUTES = {
    "DistillationModel": "kopt.distill",
    "Training": "kopt.search",
    "advise": "kopt.advice",
    "load_model": "kopt.graph",
    "optimize": "kopt.search",
    "tune": "kopt.search",
}

__all__ = ["Budget", "Constraint", "KoptError", "__version__", *_SUBPACKAGES, *_ATTRIBUTES]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"kopt.{name}")
    if name in _ATTRIBUTES:
        value = getattr(importlib.import_module(_ATTRIBUTES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'kopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
