import dataclasses
import re
from html.parser import HTMLParser

import pytest
from report_records import make_candidate, make_result

from kopt import report
from kopt.core.errors import LoadError, OutputExistsError
from kopt.core.records.measurements import Evaluation
from kopt.core.records.profiles.cost import ModelProfile
from kopt.core.records.search.budget import Budget

_VOID = {"meta", "link"}


class _Page(HTMLParser):
    """Checks that elements nest, and collects ids, attributes and the text outside style and SVG."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in _VOID:
            self.open.append(tag)
        self.handle_startendtag(tag, attributes)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "svg"} & set(self.open):
            self.words += data.split()

    @property
    def text(self):
        return " ".join(self.words)


@pytest.fixture(scope="module")
def rendered():
    return report.html(make_result())


def test_page_holds_the_numbers(result, rendered):
    page = _Page(rendered)
    assert report.headline(result) in page.text
    for candidate in result.candidates:
        assert candidate.name in page.words
    assert "97.90% 97.17% \N{EN DASH} 98.44%" in page.text  # Wilson interval of 1,958 of 2,000
    assert "within noise" in page.text
    assert "≈ 0.500" in page.text
    assert "0.500 mJ an example, estimate: 0.5 W assumed for one core" in page.text
    assert "The converter stopped: Empty min/max for tensor 12." in page.text
    assert "4.0x 4.00 → 1.00 ms a call" in page.text
    assert "\N{MINUS SIGN}0.10 points 98.00% → 97.90%" in page.text
    assert result.command in page.text
    assert "tensorflow 2.21.0" in page.text
    assert "Inputs are float32; the file quantizes them itself." in page.text
    assert "Measured in LiteRT (the model as given: Keras) on Synthetic CPU 3000, 2 cores" in page.text


def test_page_is_self_contained(rendered):
    text = rendered
    for _, name, value in _Page(text).attributes:
        if name in ("href", "src", "xlink:href", "srcset", "action", "data", "poster"):
            assert value.startswith(("#", "data:,")), (name, value)
    outside = re.sub(r'xmlns(:xlink)?="http://www\.w3\.org/(2000/svg|1999/xlink)"', "", text)
    assert "://" not in outside
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "<script" not in text


def test_ids_are_unique_and_references_resolve(rendered):
    text = rendered
    page = _Page(text)
    assert len(page.ids) == len(set(page.ids))
    references = {value for _, name, value in page.attributes if name == "aria-labelledby"}
    references |= set(re.findall(r"url\(#([^)]+)\)", text))
    references |= {value[1:] for _, name, value in page.attributes if name == "xlink:href"}
    assert references
    assert references <= set(page.ids)


def test_what_users_write_is_escaped(result):
    evil = '<script>alert("x")</script>'
    candidate = dataclasses.replace(make_candidate(evil, 1.0, 1024, 0.98, 0.0), verdict=evil)
    failed = dataclasses.replace(result.candidates[5], reason=evil)
    page = report.html(
        dataclasses.replace(result, model=evil, data=evil, command=evil, candidates=(candidate, failed), best_name=evil)
    )
    assert "<script" not in page
    assert _Page(page).text.count("<script>alert") >= 6


def test_page_keeps_what_the_converter_printed(result):
    failed = dataclasses.replace(result.candidates[5], reason="ExportError: it died\nline of a log")
    page = _Page(report.html(dataclasses.replace(result, candidates=(failed,), best_name=None)))
    assert "int16x8 failed ExportError: it died What was printed line of a log" in page.text


def test_page_of_a_baseline_without_a_file(result):
    bare = dataclasses.replace(result, baseline=dataclasses.replace(result.baseline, artifact=None))
    text = report.html(bare)
    page = _Page(text)
    assert "63.6 float32 weights 100%" in page.text
    assert "size against its float32 weights" in page.text
    assert "keras (as given)" in text
    assert "keras: float32 weights" in text


def test_page_without_a_winner(result):
    page = _Page(report.html(dataclasses.replace(result, candidates=result.candidates[4:], best_name=None)))
    assert "No candidate stays inside the budget of 1.00 points of accuracy." in page.text
    assert "outside the budget" in page.text
    assert "dl" in {tag for tag, _, _ in page.attributes}
    assert "Agreement 94" not in page.text  # no tiles without a winner


def test_page_of_a_run_with_nothing_in_it(result):
    bare = dataclasses.replace(result.baseline, artifact=None, evaluation=None, measurement=None)
    page = _Page(report.html(dataclasses.replace(result, baseline=bare, candidates=(), best_name=None, profile=None)))
    assert "No candidate was tried." in page.text
    assert "No file was made." in page.text


def test_page_of_a_single_winner_and_of_a_model_without_layers(result):
    empty = ModelProfile("m", (), 0, 0)
    page = _Page(report.html(dataclasses.replace(result, candidates=result.candidates[2:3], profile=empty)))
    assert "int8 best Fastest inside the budget" in page.text
    assert "1 candidate in" in page.text


def test_other_metrics_have_neither_percent_nor_interval(result):
    def scored(candidate, value):
        return dataclasses.replace(candidate, evaluation=Evaluation("t", "LiteRT", 2000, {"r2": value}))

    candidates = (scored(result.candidates[2], 0.95),)
    changed = dataclasses.replace(
        result, budget=Budget(metric="r2"), baseline=scored(result.baseline, 0.951), candidates=candidates
    )
    page = _Page(report.html(changed))
    assert "it loses 0.0010 of r2 (0.9500 on 2,000 examples)" in page.text
    assert "interval" not in page.text


def test_a_doubtful_winner_is_called_doubtful(result):
    small = tuple(
        dataclasses.replace(candidate, evaluation=Evaluation("t", "LiteRT", 100, {"accuracy": accuracy}))
        for candidate, accuracy in ((result.baseline, 0.98), (result.candidates[2], 0.979))
    )
    page = _Page(report.html(dataclasses.replace(result, baseline=small[0], candidates=small[1:])))
    assert "more than the budget allows: 100 examples are too few to be sure." in page.text


@pytest.mark.slow
def test_write_and_read_back(result, rendered, tmp_path):
    path = report.write_report(result, tmp_path / "run")
    assert path == tmp_path / "run" / "report.html"
    assert path.read_text(encoding="utf-8") == rendered
    assert report.read_result(tmp_path / "run") == result
    assert sorted(item.name for item in path.parent.iterdir()) == [
        "report-pareto.svg", "report.html", "report.json", "report.md",
    ]  # fmt: skip
    with pytest.raises(OutputExistsError, match=r"report\.json"):
        report.write_report(result, tmp_path / "run", overwrite=False)
    path.write_text("old")
    report.write_report(dataclasses.replace(result, profile=None, candidates=(), best_name=None), tmp_path / "run")
    assert report.read_result(tmp_path / "run").candidates == ()
    assert "No candidate was tried." in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["", "{", '{"schema": "Budget/1"}', "[]"])
def test_damaged_report_is_a_load_error(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(LoadError, match="cannot be read as the report"):
        report.read_result(tmp_path)


def test_missing_report_is_a_load_error(tmp_path):
    with pytest.raises(LoadError, match="does not exist"):
        report.read_result(tmp_path)
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LoadError, match="cannot be read"):
        report.read_result(tmp_path)
