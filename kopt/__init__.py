"""kopt: take a Keras 3 model from "it trains" to "it is small, fast and deployed".

Importing kopt is light and changes nothing in the process: subpackages, and TensorFlow with them, load on first use.
"""

import importlib
from typing import Any

from kopt.core.errors import KoptError
from kopt.core.lazy_names import on_first_use
from kopt.core.records.search.budget import Budget, Constraint
from kopt.version import __version__

_SUBPACKAGES = (
    *("advice", "cluster", "core", "data", "distill", "export", "graph", "measure", "profile"),
    *("prune", "quantize", "report", "restructure", "search", "serve", "train"),
)
_ATTRIBUTES = {
    "advice": ("advise",),
    "distill": ("DistillationModel",),
    "graph": ("load_model",),
    "search": ("Training", "optimize", "tune"),
}

_NAMES = [name for names in _ATTRIBUTES.values() for name in names]

__all__ = ["Budget", "Constraint", "KoptError", "__version__", *_SUBPACKAGES, *_NAMES]

_attribute, __dir__ = on_first_use(__name__, _ATTRIBUTES)


def __getattr__(name: str) -> Any:
    return importlib.import_module(f"kopt.{name}") if name in _SUBPACKAGES else _attribute(name)
