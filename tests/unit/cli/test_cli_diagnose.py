import json

import hard_networks
import numpy as np
import pytest

from kopt.cli import main
from kopt.core.records.changes.quantization_diagnosis import QuantizationDiagnosis


@pytest.fixture
def words(tmp_path):
    x = hard_networks.images(40)
    model = hard_networks.spread(hard_networks.chain(), 1)
    model.save(tmp_path / "hard.keras")
    np.savez(tmp_path / "data.npz", x_train=x[:20], y_train=np.arange(20) % 5, x_val=x[20:], y_val=np.arange(20) % 5)
    return ["diagnose", str(tmp_path / "hard.keras"), "--data", str(tmp_path / "data.npz")]


@pytest.mark.slow
def test_a_table_a_page_and_the_record(words, capsys, tmp_path):
    page = tmp_path / "page.html"
    assert main([*words, "--sort", "error", "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "pw1 costs the output most" in shown
    assert shown.rstrip().endswith(f"Report: {page}")
    assert main([*words, "--html", str(page)]) == 1
    assert "exists already. Pass --force" in capsys.readouterr().err
    assert main([*words, "--json", "--samples", "20"]) == 0
    text = capsys.readouterr().out
    assert json.loads(text)["schema"] == "QuantizationDiagnosis/1"
    assert QuantizationDiagnosis.from_json(text).examples == 20


def test_mistakes_come_before_any_work(capsys):
    assert main(["diagnose", "missing.keras", "--data", "digits", "--rows", "-1"]) == 2
    assert "--rows is a number of rows" in capsys.readouterr().err
