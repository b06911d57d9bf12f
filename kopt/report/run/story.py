"""The story of a run: what was given, what limits it, what was tried and why, what came of it, and how to repeat it."""

import dataclasses
import shlex
from pathlib import Path

from kopt.core.records.candidates import Candidate, OptimizationResult
from kopt.core.records.search.decisions import Decision
from kopt.core.records.search.judgement import ClassChange
from kopt.report.parts import formats
from kopt.report.run import outcome
from kopt.report.run.before_after import Change, changes, drop_text, with_ends
from kopt.report.run.bottleneck import bottleneck
from kopt.report.run.model_card import model_card
from kopt.report.run.rows import Row, baseline_row, candidate_rows
from kopt.report.run.shortfalls import demands, objective_text, target_text

_MOST_CLASSES = 20


@dataclasses.dataclass(frozen=True)
class Step:
    """A candidate in the order in which it was tried.

    Attributes:
        name: of the candidate.
        how: steps it was made by; empty where its name tells them.
        why: reason for which it was tried; empty if none was given, or it is that of the step before.
        found: what came of it.
        kind: `"best"`, `"kept"` (inside the budget), `"dropped"` or `"failed"`; of a model that the search went on with
            `"looked"`.
        printed: lines of a converter that failed.
    """

    name: str
    how: str
    why: str
    found: str
    kind: str
    printed: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Story:
    """The parts of a report, as text.

    Attributes:
        headline: the outcome.
        chosen: the best candidate, or the nearest one; `None` if there is none.
        is_best: whether it keeps the budget.
        asked: the demands of the budget.
        rule: how the best was chosen.
        doubts: what the examples cannot tell.
        notes: what a reader must know.
        baseline: the model as given, in a sentence.
        bottleneck: what dominates its cost.
        looks: models that were looked at before any file was made of them; only searches that train have some.
        steps: the candidates.
        changes: numbers before and after.
        classes: change of the classes that lost most, at most 20.
        hidden_classes: how many others there are.
        test: the chosen file on untouched examples; empty if there were none.
        card: the model card of the file.
        commands: what each command does, and the command.
    """

    headline: str
    chosen: Row | None
    is_best: bool
    asked: tuple[str, ...]
    rule: str
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    baseline: str
    bottleneck: tuple[str, ...]
    looks: tuple[Step, ...]
    steps: tuple[Step, ...]
    changes: tuple[Change, ...]
    classes: tuple[ClassChange, ...]
    hidden_classes: int
    test: str
    card: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]


def story(result: OptimizationResult) -> Story:
    """Return the parts of the report of a run.

    Example:
        >>> found = kopt.report.story(result)
        >>> found.is_best, found.chosen.name
        (True, 'tflite-int8')
    """
    rows = candidate_rows(result)
    best = next((row for row in rows if row.is_best), None)
    chosen = best or next((row for row in rows if row.name == result.nearest_name), None)
    judgement = chosen.candidate.judgement if chosen else None
    classes = sorted(judgement.classes, key=lambda change: -change.drop) if judgement else []
    return Story(
        headline=outcome.headline(result),
        chosen=chosen,
        is_best=best is not None,
        asked=tuple(demands(result.budget)),
        rule=_rule(result),
        doubts=tuple(outcome.doubts(result, best)) if best else (),
        notes=(*result.notes, *([result.ended] if result.ended else [])),
        baseline=_baseline(result),
        bottleneck=bottleneck(result.profile),
        looks=_told_once([_look(decision) for decision in result.decisions]),
        steps=_told_once([_step(result, candidate) for candidate in result.candidates]),
        changes=changes(result, chosen) if chosen else (),
        classes=tuple(classes[:_MOST_CLASSES]),
        hidden_classes=max(0, len(classes) - _MOST_CLASSES),
        test=held_out_text(result),
        card=model_card(result, chosen) if chosen else (),
        commands=_commands(result, chosen),
    )


def _rule(result: OptimizationResult) -> str:
    budget = result.budget
    text = f"Then the {objective_text(budget)}; times within 2% are equal, of which"
    text += " what is surely inside goes first, then what loses least."
    if any(candidate.judgement for candidate in result.candidates):
        counted = "by its estimate" if budget.undecided == "estimate" else "as outside"
        text += f" A drop whose {budget.level:.0%} interval reaches to both sides of the budget counts {counted}."
    if result.target_reached is None:
        return text
    return f"{text} The target of {target_text(budget)} was {'' if result.target_reached else 'not '}reached."


def _baseline(result: OptimizationResult) -> str:
    row, metric = baseline_row(result), result.budget.metric
    parts = [f"{result.model} in {row.runtime or row.format}"]
    judgement = next((one.judgement for one in result.candidates if one.judgement is not None), None)
    ends = judgement.before_interval if judgement else row.interval
    if row.metric is not None:
        parts.append(f"{metric} {with_ends(row.metric, ends, metric)}")
    if row.latency is not None:
        parts.append(f"{formats.number(row.latency.p50_ms)} ms a call (p99 {formats.number(row.latency.p99_ms)})")
    if row.size_bytes is not None:
        parts.append(formats.size(row.size_bytes))
    return f"{', '.join(parts)}."


def _step(result: OptimizationResult, candidate: Candidate) -> Step:
    failed = candidate.status != "ok"
    kind = "failed" if failed else "best" if candidate.name == result.best_name else "dropped"
    if kind == "dropped" and candidate.within_budget:
        kind = "kept"
    lines = [line for line in candidate.reason.splitlines() if line.strip()] or ["no reason was recorded"]
    verdict = candidate.verdict.removeprefix("best: ")
    found = lines[0] if failed else f"{verdict} ({candidate.doubt})" if candidate.doubt else verdict
    if candidate.made:
        found = f"{candidate.made.rstrip('.')}. {_sentence(found)}"
    labels = [step.label for step in candidate.steps]
    how = "" if candidate.name.startswith("+".join(labels)) else ", then ".join(labels)
    return Step(candidate.name, how, candidate.why, _sentence(found), kind, tuple(lines[1:]) if failed else ())


def _look(decision: Decision) -> Step:
    """Return a model that was looked at and of which no file was made."""
    kind = "looked" if decision.kept else "dropped"
    return Step(decision.name, "", decision.why, _sentence(decision.reason), kind)


def _told_once(steps: list[Step]) -> tuple[Step, ...]:
    """Return steps without a reason that is that of the step before."""
    before = ["", *(step.why for step in steps)]
    return tuple(
        dataclasses.replace(step, why="") if step.why == why else step for step, why in zip(steps, before, strict=False)
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def held_out_text(result: OptimizationResult) -> str:
    """Return what the untouched examples showed, in a sentence; empty if there were none.

    Example:
        >>> kopt.report.held_out_text(result)  # no untouched examples were given
        ''
    """
    test = result.test
    if test is None:
        return ""
    before = with_ends(test.before, test.before_interval, test.metric)
    after = with_ends(test.after, test.after_interval, test.metric)
    judged = {
        "inside": "is inside the budget there, too",
        "outside": "is outside the budget there: the examples it was chosen on flattered it",
        "undecided": f"cannot be told apart from the budget there with {test.examples:,} examples",
    }[test.verdict]
    return (
        f"On {test.examples:,} examples that the search never saw the model as given has {test.metric} {before}, the "
        f"file {after}: it {drop_text(test)}, which {judged}."
    )


def _commands(result: OptimizationResult, chosen: Row | None) -> tuple[tuple[str, str], ...]:
    found = [("The run", result.command)]
    artifact = chosen.candidate.artifact if chosen else None
    if artifact is not None:
        path = Path(artifact.path)
        found.append(
            ("Is the file whole, and does it still answer as it did", shlex.join(["kopt", "verify", artifact.path]))
        )
        found.append(("Its latency on another machine", shlex.join(["kopt", "bench", artifact.path])))
        if len(path.parts) > 3 and path.parts[-3] == "candidates":
            found.append(("This report again", shlex.join(["kopt", "report", str(path.parents[2])])))
    return tuple(found)
