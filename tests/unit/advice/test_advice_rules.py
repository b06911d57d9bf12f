import ast
import dataclasses
import importlib
import inspect
import re

import pytest
from advice_cases import ALSO, FAULTS, HEALTHY, STEPS

import kopt
from kopt.advice.facts import Facts
from kopt.advice.judging import judge
from kopt.advice.rules import RULES
from kopt.core.records.search.advice import AREAS

IDS = [rule.id for rule in RULES]


def items_of(facts):
    return judge(facts, {}).items


def test_nothing_is_wrong_with_a_healthy_model_and_every_rule_had_what_it_needs():
    judgement = judge(HEALTHY, {})
    assert judgement.items == ()
    assert judgement.checked == tuple(IDS)
    assert judgement.unchecked == {}


def test_every_rule_has_a_fault_and_an_id_of_its_own():
    assert sorted(FAULTS) == sorted(IDS)
    assert {rule.area for rule in RULES} == set(AREAS)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_makes_its_rule_speak_and_no_other(fault):
    found = items_of(FAULTS[fault])
    assert {item.rule for item in found} == {fault} | ALSO.get(fault, set())
    [rule] = [rule for rule in RULES if rule.id == fault]
    item = next(item for item in found if item.rule == fault)
    assert re.search(
        r"\d|`run_eagerly=True`|TensorFlow sees no GPU|from_logits", item.evidence
    )  # numbers, or the setting
    assert (item.symptom, item.effort, item.gain.target) == (rule.symptoms[0], rule.effort, rule.target)
    assert item.remedy
    assert item.gain.how


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_needs_are_looked_at(rule):
    fields = {field.name for field in dataclasses.fields(Facts)}
    assert {*rule.needs, *rule.uses} <= fields
    assert len(inspect.signature(rule.check).parameters) == len(rule.needs) + len(rule.uses)
    assert rule.missing(Facts()) == rule.needs


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_what_rules_tell_users_to_write_exists(rule):
    texts = [rule.code, *(item.code for item in items_of(FAULTS[rule.id]) if item.rule == rule.id)]
    for code in texts:
        if code and not code.startswith(("pip ", "kopt ")):
            for call in _calls(code):
                _check_call(call)
    for name in re.findall(r"`(kopt(?:\.\w+)+)", rule.remedy):
        _resolve(name)


def _calls(code):
    tree = ast.parse(code)
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def _check_call(call):
    name = ast.unparse(call.func)
    if name.startswith(("kopt.", "keras.")) and "(" not in name:
        function = _resolve(name)
        names = set(inspect.signature(function).parameters)
        given = {keyword.arg for keyword in call.keywords}
        assert given <= names or "kwargs" in names, f"{name} has no {given - names}"
        positional = [p for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert len(call.args) <= len(positional), f"{name} takes {len(positional)} positional arguments"


def _resolve(name):
    first, *rest = name.split(".")
    value = importlib.import_module(first) if first != "kopt" else kopt
    for part in rest:
        value = getattr(value, part)
    return value


def test_what_is_missing_is_listed_with_its_reason():
    judgement = judge(dataclasses.replace(HEALTHY, pipeline=None), {"pipeline": "No pipeline was passed."})
    reason = "pipeline: No pipeline was passed."
    assert judgement.unchecked == dict.fromkeys(("input-bound", "python-input", "poor-scaling"), reason)
    assert not set(judgement.unchecked) & set(judgement.checked)


def test_a_rule_says_what_it_knows_without_what_it_only_uses():
    facts = dataclasses.replace(FAULTS["run-eagerly"], steps=None)
    [item] = items_of(facts)
    assert (item.gain.share, item.gain.source) == (None, "unknown")
    [timed] = items_of(FAULTS["run-eagerly"])
    assert timed.gain.share == pytest.approx(1 - STEPS.plain_ms / 50.0)


def gain(fault, rule=None):
    return next(item for item in items_of(FAULTS[fault]) if item.rule == (rule or fault)).gain


def test_gains_are_what_they_say():
    assert gain("input-bound").share == pytest.approx(1 - 5 / 20)
    assert gain("small-batch").share == pytest.approx(1 - 12 / (4 * 10))
    assert gain("few-threads").share == pytest.approx(0.5 * (1 - 1 / 8))
    assert gain("out-of-memory").share == pytest.approx(1 - (2**30 // 2) / (3 * 10**6 + 2**30 + 10**6))
    assert gain("idle-devices").share == pytest.approx(0.8 * 3 / 4)
    sent_ms = 1e3 * 2 * 3 / 4 * 10**8 / 10e9
    assert gain("poor-scaling").share == pytest.approx(0.75 * sent_ms / (sent_ms + 10.0))
    assert gain("over-fitting").share == pytest.approx(0.3 / 1.3)  # `val_loss` is 1.3 times its best
    assert gain("slow-integers").share == pytest.approx(1 - 1.0 / 2.0)
    assert gain("wide-convolutions").share == pytest.approx(1 - (1 / 64 + 1 / 9))
    assert gain("large-dense").share == pytest.approx(1 - 40 * (500 + 400) / (500 * 400))
    assert gain("hostile-layers").share == pytest.approx(0.4)


def test_class_weights_are_the_mean_count_over_each():
    [item] = items_of(FAULTS["class-imbalance"])
    assert item.code == "model.fit(x, y, class_weight={0: 0.533, 1: 8})"  # 320 / 600, 320 / 40


def test_calls_of_microseconds_are_not_compared():
    short = [dataclasses.replace(one, latency_ms=(one.latency_ms or 0.0) / 100) for one in HEALTHY.deployment.files]
    slow = tuple(dataclasses.replace(one, latency_ms=0.02) if "int8" in one.name else one for one in short)
    deployment = dataclasses.replace(HEALTHY.deployment, files=slow)  # int8 twice as slow, of 10 microseconds
    assert items_of(dataclasses.replace(HEALTHY, deployment=deployment)) == ()


@pytest.mark.parametrize(("flips", "examples", "speaks"), [(3, 100, False), (7, 100, True), (30, 1000, True)])
def test_a_few_other_answers_of_few_may_be_chance(flips, examples, speaks):
    """The Wilson interval of 3 in 100 begins at 1.0 % (allowed are 2), that of 7 at 3.4, of 30 in 1,000 at 2.1."""
    quantization = dataclasses.replace(
        FAULTS["hostile-layers"].quantization,
        output_db=30.0,
        agreement=1 - flips / examples,
        flips=flips,
        examples=examples,
    )
    found = {item.rule for item in items_of(dataclasses.replace(HEALTHY, quantization=quantization))}
    assert ("hostile-layers" in found) == speaks
