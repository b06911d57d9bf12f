"""What to change first and why: looks at a model, its data and its training, and rules over what was seen.

Rules and advice on records are light; what looks at models loads TensorFlow on first use.
"""

import importlib
from typing import Any

from kopt.advice.facts import Facts
from kopt.advice.result import Advice
from kopt.advice.rules import RULES
from kopt.advice.runs import from_run
from kopt.advice.troubleshooting import troubleshooting

_LOOKING = {"LOOKS": "kopt.advice.looks.table", "advise": "kopt.advice.advising"}

__all__ = ["LOOKS", "RULES", "Advice", "Facts", "advise", "from_run", "troubleshooting"]


def __getattr__(name: str) -> Any:
    if name in _LOOKING:
        return getattr(importlib.import_module(_LOOKING[name]), name)
    raise AttributeError(f"module 'kopt.advice' has no attribute {name!r}")
