"""What to change first and why: looks at a model, its data and its training, and rules over what was seen."""

from kopt.advice.advising import advise
from kopt.advice.looks.table import LOOKS
from kopt.advice.result import Advice
from kopt.advice.rules import RULES
from kopt.advice.runs import from_run
from kopt.advice.troubleshooting import troubleshooting

__all__ = ["LOOKS", "RULES", "Advice", "advise", "from_run", "troubleshooting"]
