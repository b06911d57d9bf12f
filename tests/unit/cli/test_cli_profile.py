import json
from pathlib import Path

import pytest

from kopt.cli import main
from kopt.core.records.profiles.full import FullProfile

MODEL = Path(__file__).parents[2] / "data" / "dense.keras"


def test_tables_and_a_page(capsys, tmp_path):
    page = tmp_path / "profile.html"
    words = ["profile", str(MODEL), "--parts", "cost", "parameters", "--sort", "macs", "--html", str(page)]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "multiply-accumulates" in shown.out
    assert shown.out.rstrip().endswith(f"Report: {page}")
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert main(words) == 1
    assert "exists already. Pass --force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0


def test_json_is_the_record(capsys):
    assert main(["profile", str(MODEL), "--parts", "cost", "--json"]) == 0
    text = capsys.readouterr().out
    assert json.loads(text)["schema"] == "FullProfile/1"
    assert FullProfile.from_json(text).skipped["gradients"] == "It was not asked for."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sort", "mac"], "Unknown `sort` 'mac'. Did you mean 'macs'"),
        (["--parts", "costs"], "Unknown `part` 'costs'. Did you mean 'cost'"),
        (["--rows", "-1"], "--rows is a number of rows"),
    ],
)
def test_mistakes_come_before_any_work(capsys, words, message):
    assert main(["profile", "missing.keras", *words]) == 2
    assert message in capsys.readouterr().err
