import pytest

from kopt.core.records.actions import LayerAction
from kopt.core.records.changes.restructuring import (
    LayerVariance,
    ReinitializationReport,
    RestructuredLayer,
    RestructureReport,
    ScalingReport,
)
from kopt.report.changes.restructuring import RESTRUCTURING
from kopt.report.changes.scaling import SCALING
from kopt.report.changes.variances import VARIANCES

REPORT = RestructureReport(
    transform="low_rank",
    model="net",
    applied=(
        RestructuredLayer("stage/conv", "Conv2D", "rank 4 of 8: 3x3, 1x1", 1000, 600, 50_000, 30_000, 0.125),
        RestructuredLayer("open", "Conv2D", "rank 2 of 8: 3x3, 1x1", 500, 200, None, None, 0.5),
    ),
    left=(LayerAction("head", "Dense", "it has rank 3, 4 was asked for"),),
    parameters_before=2000,
    parameters_after=1300,
    macs_before=60_000,
    macs_after=40_000,
    unknown=1,
)
VARIANCE = ReinitializationReport(
    model="net",
    initializer="he_normal",
    seed=0,
    examples=32,
    data="noise",
    layers=(
        LayerVariance("first", "Dense", "he_normal", 0.05, 0.2, 0.5, 1.0),
        LayerVariance("second", "Dense", "he_normal", 0.05, 0.2, 0.01, 1.25),
        LayerVariance("third", "Dense", "zeros", 0.05, 0.0, 0.001, 0.0),
    ),
    left=(LayerAction("lstm", "LSTM", "there is no rule for its weights"),),
)
SCALED = ScalingReport("net", 1.0, 1.1, 1.2, 1.15, 256, 1000, 1400, 10_000, 19_000)


def test_ratios_by_hand():
    assert REPORT.parameter_ratio == pytest.approx(0.65)
    assert REPORT.mac_ratio == pytest.approx(2 / 3)
    assert REPORT.worst.name == "open"
    # 0.5 / 0.001 before; 1.25 / 1 after, where the output of 0 is left out
    assert (VARIANCE.spread_before, VARIANCE.spread_after) == pytest.approx((500, 1.25))
    assert SCALED.expected_ratio == pytest.approx(1.2 * 1.21 * 1.3225)
    assert SCALED.mac_ratio == pytest.approx(1.9)


def test_the_table_says_what_was_done_and_what_was_left():
    text = RESTRUCTURING.text(REPORT, 120)
    row = next(line for line in text.splitlines() if line.startswith("stage/conv"))
    assert " ".join(row.split()) == "stage/conv Conv2D rank 4 of 8: 3x3, 1x1 1,000 -> 600 50,000 -> 30,000 12%"
    assert "Left as they were: 1." in text
    assert "head (Dense): it has rank 3, 4 was asked for" in text
    assert "Parameters 2,000 -> 1,300, multiply-accumulates an example 60,000 -> 40,000." in text
    assert "1 layer(s) of unknown work" in text
    narrow = RESTRUCTURING.text(REPORT, 60)
    assert "50,000 -> 30,000" in narrow
    assert "rank 4" not in narrow
    assert "1 more layers" in RESTRUCTURING.text(REPORT, 120, rows=1)


def test_the_words_name_the_largest_error():
    assert RESTRUCTURING.words(REPORT) == (
        "low_rank of net treated 2 layer(s). 1 left as they were. Parameters 2,000 -> 1,300, multiply-accumulates an "
        "example 60,000 -> 40,000. Largest relative error of the weights: 50% (open)."
    )


def test_variances_before_and_after():
    text = VARIANCES.text(VARIANCE, 100)
    row = next(line for line in text.splitlines() if line.startswith("second"))
    assert row.split() == ["second", "Dense", "he_normal", "0.0500", "->", "0.200", "0.0100", "->", "1.25"]
    assert "left: lstm (LSTM): there is no rule for its weights" in text
    assert "500 before, 1.25 after" in VARIANCES.words(VARIANCE)


def test_scaling_in_words():
    assert SCALING.words(SCALED) == (
        "phi 1: width x 1.10, depth x 1.20, resolution x 1.15 (256 pixels). Multiply-accumulates x 1.90; convolutions "
        "alone, without rounding, x 1.92."
    )
    assert "1,000   1,400  1.4x" in SCALING.text(SCALED, 80)


@pytest.mark.parametrize(("look", "record"), [(RESTRUCTURING, REPORT), (VARIANCES, VARIANCE), (SCALING, SCALED)])
def test_plots_and_json(look, record):
    assert look.svg(record).startswith("<svg")
    assert type(record).from_json(record.to_json()) == record
