"""The table of rules: what can be wrong, in the order of the troubleshooting page. Never TensorFlow."""

from kopt.advice.rules import convergence, numerics, redundancy, resources, shipping, speed_of_training
from kopt.advice.rules.row import Found, Rule
from kopt.core.records.search.advice import AREAS

RULES: tuple[Rule, ...] = tuple(
    sorted(
        (
            *resources.RULES,
            *speed_of_training.RULES,
            *convergence.RULES,
            *numerics.RULES,
            *shipping.RULES,
            *redundancy.RULES,
        ),
        key=lambda rule: AREAS.index(rule.area),
    )
)
"""Every rule: its symptoms, what it needs to know, its check, and what helps.

Example:
    >>> kopt.advice.RULES[0].id, kopt.advice.RULES[0].needs
    ('out-of-memory', ('memory',))
"""

__all__ = ["RULES", "Found", "Rule"]
