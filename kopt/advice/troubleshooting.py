"""The troubleshooting page, from the table of rules: pure."""

from collections.abc import Iterable, Iterator, Sequence

from kopt.advice.ordering import HOURS
from kopt.advice.rules import RULES, Rule
from kopt.core.records.search.advice import AREAS

_HEAD = """# Troubleshooting

Made from the table of rules by `python docs/make_troubleshooting.py`; do not edit. `kopt doctor MODEL --data DATA` and
`kopt.advise(model, train, validation, history=history)` check all of this and say what to change first, with the
numbers seen; `--depth full` and `depth="full"` measure more.

*Effort*: basic is a setting or a call, intermediate takes a training, advanced another architecture or another way to
train."""


def troubleshooting(rules: Sequence[Rule] = RULES) -> str:
    """Return the page as Markdown: by area, for each rule its symptoms, what is checked, and what helps.

    Example:
        >>> page = kopt.advice.troubleshooting()
        >>> page.splitlines()[0]
        '# Troubleshooting'
    """
    areas = [(area, [rule for rule in rules if rule.area == area]) for area in AREAS]
    parts = [_HEAD, *_index(areas)]
    for area, found in areas:
        parts += [f"## {area.capitalize()}", *map(_section, found)]
    return "\n\n".join(parts) + "\n"


def _index(areas: Iterable[tuple[str, list[Rule]]]) -> Iterator[str]:
    rows = [
        f"| {area} | {symptom} | [{rule.id}](#{rule.id}) |"
        for area, found in areas
        for rule in found
        for symptom in rule.symptoms
    ]
    yield "\n".join(["| Area | Symptom | Rule |", "|---|---|---|", *rows])


def _section(rule: Rule) -> str:
    seen = ", ".join(f"`{name}`" for name in rule.needs)
    return "\n".join(
        [
            f"### {rule.id}",
            "",
            f"*{'; '.join(rule.symptoms)}*",
            "",
            f"- **Check** ({seen}): {rule.looks_for}",
            f"- **Remedy**: {rule.remedy}",
            f"- **Gain**: {rule.target}; {rule.gain}.",
            f"- **Effort**: {rule.effort} (about {HOURS[rule.effort]:g} h).",
            "",
            "```python" if not rule.code.startswith(("pip ", "kopt ")) else "```bash",
            rule.code,
            "```",
        ]
    )
