"""All rules over what is known: pure."""

import dataclasses
from collections.abc import Mapping, Sequence

from kopt.advice.facts import Facts
from kopt.advice.ordering import ordered
from kopt.advice.rules import RULES, Rule
from kopt.core.records.search.advice import AdviceItem


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the rules say.

    Attributes:
        items: most worth first.
        checked: ids of the rules that had what they need.
        unchecked: reason, by id, of the others.
    """

    items: tuple[AdviceItem, ...]
    checked: tuple[str, ...]
    unchecked: dict[str, str]


def judge(facts: Facts, reasons: Mapping[str, str], rules: Sequence[Rule] = RULES) -> Judgement:
    """Return what the rules find.

    Args:
        facts: what is known.
        reasons: why a field of `facts` is missing, by its name.
        rules: the table.
    """
    items: list[AdviceItem] = []
    checked, unchecked = [], {}
    for rule in rules:
        if missing := rule.missing(facts):
            unchecked[rule.id] = " ".join(f"{name}: {reasons.get(name, 'It was not looked at.')}" for name in missing)
        else:
            checked.append(rule.id)
            items += rule.items(facts)
    return Judgement(ordered(items), tuple(checked), unchecked)
