import dataclasses
import re
import xml.etree.ElementTree as ElementTree

import pytest
from judged_results import make_judged, make_judgement
from report_records import make_artifact, make_profile, make_result
from sensitivity_cases import profile_of

from kopt import report
from kopt.core.errors import ConfigError
from kopt.core.records.profiles.cost import LayerCost, ModelProfile
from kopt.core.records.profiles.sensitivity import SensitivityProfile
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.decisions import Decision
from kopt.core.records.search.judgement import ClassChange, Shortfall
from kopt.core.records.search.techniques import AwareConfig, ChannelsConfig, Step
from kopt.report.run.bottleneck import bottleneck
from kopt.report.run.rows import candidate_rows, open_questions
from kopt.report.run.run_directory import with_earlier_kept
from kopt.report.run.shortfalls import demands, shortfall_text


def texts(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<(style|svg).*?</\1>", "", page, flags=re.DOTALL)))


@pytest.fixture(scope="module")
def judged():
    return make_judged()


@pytest.fixture(scope="module", params=["html", "md"])
def written(judged, request):
    text = report.html(judged) if request.param == "html" else report.markdown(judged, "plot.svg").replace("\\", "")
    return texts(text).replace("&gt;", ">").replace("&lt;", "<") if request.param == "html" else " ".join(text.split())


def test_both_forms_tell_what_a_reader_asks(judged, written):
    for told in (
        "digits_cnn.keras in Keras, accuracy 98.00% (97.40% to 98.50%), 4.00 ms a call (p99 6.00), 400 KiB.",
        "Asked: at most 1.00 points of accuracy lost"
        if "Asked" in written
        else "Budget: at most 1.00 points of accuracy",
        "A drop whose 95% interval reaches to both sides of the budget counts by its estimate.",
        "Accuracy, 2,000 validation examples",
        "97.90% (97.20% to 98.40%)",
        "loses 0.10 points (drop -1.00 to 1.20, 95%)",
        "Accuracy, 500 untouched test examples",
        "4.0x as fast",
        "Peak memory of loading and running",
        "Energy: estimate: 10 int8 multiply-accumulates; not measured.",
        "which cannot be told apart from the budget there with 500 examples",
        "5.00 points below the baseline",
        "The converter stopped: Empty min/max",
        "run also holds 2 finished candidates of another model",
        "About 4,400 would do.",
        "kopt optimize digits_cnn.keras --data digits --max-drop 0.01",
        "kopt verify run/int8.tflite",
        "Class 7 lost most: 5.00 points of 180 examples.",
        "SHA-256 of architecture and weights",
        "tensorflow",
    ):
        assert told in written, told


def test_before_and_after_by_hand(judged):
    found = {change.what: (change.before, change.after, change.change) for change in report.story(judged).changes}
    # The synthetic p99 is one and a half p50; gzip takes a quarter off; 2 mJ become 0.5.
    assert found["Latency p50, ms"] == ("4.00", "1.00", "4.0x as fast")
    assert found["Latency p99, ms"] == ("6.00", "1.50", "4.0x as fast")
    assert found["Size"] == ("400 KiB", "100 KiB", "25% of it")
    assert found["Size after gzip"] == ("300 KiB", "75.0 KiB", "25% of it")
    assert found["Energy, mJ an example"] == ("≈ 2.00", "≈ 0.500", "25% of it")
    assert found["Same answer as the model as given"] == ("100%", "99.00%", "")


def test_a_model_that_is_no_file_has_the_size_of_its_weights(judged):
    bare = dataclasses.replace(judged.baseline, artifact=None)
    changed = dataclasses.replace(judged, baseline=bare, reference_bytes=200 << 10, reference_gzip_bytes=150 << 10)
    found = {change.what: (change.before, change.change) for change in report.story(changed).changes}
    assert found["Size"] == ("200 KiB", "50% of it")
    assert found["Size after gzip"] == ("150 KiB", "50% of it")
    assert "its float32 weights" in report.headline(changed)


def test_classes_come_by_their_loss_and_no_more_than_twenty(judged):
    assert [change.label for change in report.story(judged).classes] == ["7", "3"]
    many = tuple(ClassChange(str(i), 10, 1.0, 1.0 - i / 100, 0.0, 0.5) for i in range(30))
    best = dataclasses.replace(
        judged.candidates[2], judgement=make_judgement(0.98, 0.979, 0.0, 0.01, "inside", classes=many)
    )
    found = dataclasses.replace(judged, candidates=(best,))
    told = report.story(found)
    assert [change.label for change in told.classes] == [str(i) for i in range(29, 9, -1)]
    assert told.hidden_classes == 10
    assert "10 more classes lost less" in report.markdown(found)


def test_without_a_winner_the_nearest_is_told(judged):
    missed = Shortfall("size_bytes<=50000", 50_000, 102_400, 1.048)
    near = dataclasses.replace(judged.candidates[2], shortfalls=(missed,), within_budget=False)
    budget = Budget(constraints=("size_bytes<=50000",))
    result = dataclasses.replace(
        judged, candidates=(near,), best_name=None, nearest_name="int8", test=None, budget=budget
    )
    assert report.headline(result).startswith(
        "No candidate stays inside the budget of 1.00 points of accuracy, size_bytes<=50000. The closest is int8: it "
    )
    assert report.headline(result).endswith("What is not met: misses size_bytes<=50000: is 102,400.")
    assert "The nearest, before and after: int8" in texts(report.html(result))
    assert "## The nearest: int8" in report.markdown(result)
    assert result.nearest.name == "int8"


def test_the_demands_and_what_is_missed_in_words():
    budget = Budget(0.02, constraints=("auc>=0.9",), max_class_drop=0.05, undecided="outside")
    assert demands(budget) == [
        "at most 2.00 points of accuracy lost, surely (by the 95% interval)",
        "at most 5.00 points lost by any class",
        "auc>=0.9",
    ]
    assert demands(Budget(0.02, metric="r2_score")) == ["at most 0.0200 of r2_score lost"]
    assert shortfall_text(Shortfall("drop of class 3", 0.05, 0.1, 0.1), budget) == (
        "over budget: class 3 loses 10.00 points, 5.00 allowed"
    )
    assert shortfall_text(Shortfall("auc>=0.9", 0.9, 0.85, 0.1), budget) == "misses auc>=0.9: is 0.850"
    assert shortfall_text(Shortfall("latency_ms<=1", 1, None, 0.1), budget) == "misses latency_ms<=1: is not known"


def test_a_step_shows_what_it_was_made_by_and_why(judged):
    steps = (Step("channels", ChannelsConfig(keep=0.5)), Step("aware", AwareConfig(epochs=1)))
    did = "2 kernel(s) rounded"
    trained = dataclasses.replace(judged.best, why="half of the time is in conv_5.", steps=steps, made=did)
    looks = (
        Decision("channels-0.5", "", 0.9, 0.002, True, "loses 0.2 points"),
        Decision("channels-0.2", "", 0.8, 0.09, False, "loses 9 points"),
    )
    result = dataclasses.replace(judged, candidates=(trained,), decisions=looks)
    told = report.story(result)
    (step,) = told.steps
    assert (step.how, step.why, step.kind) == ("channels-0.5, then aware-1", "half of the time is in conv_5.", "best")
    assert step.found == "2 kernel(s) rounded. Fastest inside the budget"
    assert [(look.name, look.found, look.kind) for look in told.looks] == [
        ("channels-0.5", "Loses 0.2 points", "looked"), ("channels-0.2", "Loses 9 points", "dropped"),
    ]  # fmt: skip
    page, text = texts(report.html(result)), report.markdown(result)
    found = "2 kernel(s) rounded. Fastest"
    assert f"int8 (channels-0.5, then aware-1) Tried because half of the time is in conv_5. best {found}" in page
    assert "channels-0.2 dropped Loses 9 points" in page
    tried = "Tried because half of the time is in conv\\_5."
    assert f"1. **best**, `int8` (channels-0.5, then aware-1): {tried} {found}" in text
    assert "2. dropped, `channels-0.2`: Loses 9 points" in text


def test_a_reason_is_told_once_and_a_name_that_tells_its_steps_is_enough(judged):
    steps = (Step("channels", ChannelsConfig(keep=0.5)),)
    files = tuple(
        dataclasses.replace(judged.best, name=f"channels-0.5+{way}", why="half is in conv_5", steps=steps)
        for way in ("tflite-float32", "tflite-int8")
    )
    told = report.story(dataclasses.replace(judged, candidates=files))
    assert [(step.how, step.why) for step in told.steps] == [("", "half is in conv_5"), ("", "")]


def test_what_is_open_stands_below_the_table_and_not_in_its_column(judged):
    doubt = "drop -1.00 to 1.20 on 2,000 examples"
    best = dataclasses.replace(judged.best, verdict="best: smallest size, undecided", doubt=doubt)
    result = dataclasses.replace(judged, candidates=(best,))
    assert open_questions(candidate_rows(result)) == [
        "Undecided, whether the drop is inside the budget:",
        f"int8: {doubt}",
    ]
    assert open_questions(candidate_rows(dataclasses.replace(judged, candidates=judged.candidates[:1]))) == []
    assert report.story(result).steps[0].found == f"Smallest size, undecided ({doubt})"
    assert f"Undecided, whether the drop is inside the budget: 1 int8: {doubt}" in texts(report.html(result))


def test_more_examples_are_asked_for_where_somebody_may_have_them(judged):
    """2,000 examples; a hundred times as many is the most that is asked for."""

    def told(needed):
        judgement = dataclasses.replace(judged.best.judgement, examples_needed=needed)
        best = dataclasses.replace(judged.best, judgement=judgement)
        return report.story(dataclasses.replace(judged, candidates=(best,))).doubts[-1]

    assert told(200_000).endswith("About 200,000 would do.")
    assert told(200_001).endswith("It is so near the budget that no practical number would tell.")


def test_what_layers_can_take_is_shown_or_why_it_is_not_known(judged):
    profile = profile_of({"conv": {"int8": 0.0, "pruned_50": 0.25}, "dense": {"int8": 0.01, "pruned_50": 0.02}})
    known = SensitivityProfile.from_json(profile.to_json())
    shown = dataclasses.replace(judged, sensitivity=known)
    assert "How much worse accuracy gets (points), one layer at a time" in report.html(shown)
    assert "| conv | 0.00 | 25.00 |" in report.markdown(shown)
    silent = dataclasses.replace(judged, no_sensitivity="It would take a day.")
    for text in (report.html(silent), report.markdown(silent)):
        assert "What its layers can take" in text
        assert "It would take a day." in text
    assert "What its layers can take" not in report.html(judged)


def test_the_bottleneck_by_hand():
    layers = (
        LayerCost("big", "Conv2D", (None, 4), 100, 700, 1_400, 400, 40, 40, read_weight_bytes=400),
        LayerCost("wide", "Dense", (None, 4), 900, 200, 400, 3_600, 40, 40, read_weight_bytes=3_600),
        LayerCost("rest", "Dense", (None, 4), 0, 100, 200, 0, 20, 20),
    )
    found = bottleneck(ModelProfile("m", layers, 1000, 1000, 2048, "wide"))
    assert found[0] == "Of 1.00 K multiply-accumulates an example, 70% are in big, and 20% are in wide."
    assert found[1] == "Of 1.00 K parameters, 90% are in wide."
    assert found[2] == "Activations take 2.00 KiB an example where they take most, at wide."
    # 2,000 operations; 4,000 bytes of weights and 200 of activations.
    assert found[3] == "An example takes 0.476 operations for each byte moved: moving numbers is the likely limit."
    assert bottleneck(None) == ()
    assert "1 layer(s) is not known" in bottleneck(make_profile())[-1]


def test_markdown_is_text_where_users_write(judged):
    evil = "<b>| `x` *y*"
    text = report.markdown(dataclasses.replace(judged, model=evil, notes=(evil,), command="kopt <b>"))
    assert "<b>|" not in text
    assert "\\<b>\\| \\`x\\` \\*y\\*" in text
    assert "    kopt <b>" in text  # a command is code


def test_tables_of_markdown_have_as_many_cells_in_every_row(judged):
    lines = [line for line in report.markdown(judged, "p.svg").splitlines() if line.startswith("|")]
    tables, last = {}, None
    for line in lines:
        cells = len(re.split(r"(?<!\\)\|", line)) - 2
        if set(line) <= set("|-:"):
            last = cells
        tables.setdefault(last, []).append(cells)
    assert last is not None
    assert all(cells in (4, 6) for counts in tables.values() for cells in counts)
    assert "![Accuracy against latency](p.svg)" in report.markdown(judged, "p.svg")


@pytest.mark.slow
def test_a_story_is_written_by_its_ending(judged, tmp_path):
    assert '<h2 id="story">' in report.write_story(judged, tmp_path / "a.html").read_text()
    path = report.write_story(judged, tmp_path / "a.md")
    assert path.read_text() == report.markdown(judged, "a-pareto.svg")
    svg = (tmp_path / "a-pareto.svg").read_text()
    assert ElementTree.fromstring(svg).get("style") == "background: #ffffff; color: #1c2128"
    with pytest.raises(ConfigError, match=r"ends in \.html or \.md"):
        report.write_story(judged, tmp_path / "a.pdf")


def test_a_report_of_an_older_version_is_read_and_told():
    text = make_result().to_json()
    for field in ("nearest_name", "test", "target_reached", "identity", "reference_bytes", "notes", "judgement"):
        text = re.sub(rf',\s*"{field}": (null|\[\]|\{{\}})', "", text)
    assert '"judgement"' not in text
    read = type(make_result()).from_json(text)
    assert read == make_result()
    assert "int8" in report.markdown(read)


def test_a_target_that_was_reached_is_told(judged):
    reached = dataclasses.replace(judged, budget=Budget(target=3.0), target_reached=True)
    assert report.story(reached).rule.endswith("The target of 3.0x in latency was reached.")
    assert "was not reached" in report.story(dataclasses.replace(reached, target_reached=False)).rule


def test_the_command_for_the_report_is_known_in_a_work_directory(judged):
    path = "run/candidates/int8-abc/model.tflite"
    best = dataclasses.replace(judged.best, artifact=dataclasses.replace(make_artifact("int8", 10), path=path))
    commands = [command for _, command in report.story(dataclasses.replace(judged, candidates=(best,))).commands]
    assert commands[1:] == [f"kopt verify {path}", f"kopt bench {path}", "kopt report run"]


@pytest.mark.parametrize(("best", "said"), [("int8", "2.0x as fast as tflite-float32"), ("onnx-float32", "")])
def test_speed_is_also_told_against_the_plain_file_of_the_same_runtime(best, said):
    made = make_result()
    named = tuple(
        dataclasses.replace(one, name="tflite-float32" if one.name == "float32" else one.name)
        for one in made.candidates
    )
    text = report.headline(dataclasses.replace(made, candidates=named, best_name=best))
    assert text.startswith(best)
    assert ("as fast as tflite-float32" in text) == bool(said)
    assert said in text


def test_the_report_of_another_run_is_moved_and_named(tmp_path):
    first = dataclasses.replace(make_result(), identity={"model": "a", "data": "x"})
    assert with_earlier_kept(first, tmp_path) == first
    report.write_report(first, tmp_path)
    assert with_earlier_kept(first, tmp_path) == first  # the same run, again
    for number in (1, 2):
        other = dataclasses.replace(first, identity={"model": "b", "data": str(number)})
        kept = with_earlier_kept(other, tmp_path)
        assert kept.notes[-1].endswith(f"is in {tmp_path / f'earlier-{number}'}.")
        assert not list(tmp_path.glob("report*"))
        report.write_report(kept, tmp_path)
    assert report.read_result(tmp_path / "earlier-1") == first
    names = {path.name for path in (tmp_path / "earlier-1").iterdir()}
    assert names == {"report.json", "report.html", "report.md", "report-pareto.svg"}
