import math

import pytest

from kopt.report.parts import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.04213, "0.0421"),
        (0.4, "0.400"),
        (4.213, "4.21"),
        (42.13, "42.1"),
        (421.3, "421"),
        (13104.0, "13,104"),
        (0.0, "0"),
        (None, "-"),
        (math.nan, "NaN"),
        (math.inf, "inf"),
    ],
)
def test_number_keeps_three_digits_and_no_powers_of_ten(value, text):
    assert formats.number(value) == text


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (formats.kibibytes, 1536, "1.5"),
        (formats.kibibytes, 102400, "100"),
        (formats.kibibytes, 100 * 1024 - 1, "100"),
        (formats.size, 512, "512 bytes"),
        (formats.size, 3 << 20, "3.00 MiB"),
        (formats.times, 3.14, "3.1x"),
        (formats.times, 0.42, "0.42x"),
        (formats.share, 0.256, "26%"),
        (formats.share, 0.042, "4.2%"),
        (formats.share, 1.2, "120%"),
        (formats.agreement, 1.0, "100%"),
        (formats.agreement, 0.99999, "99.99%"),
        (formats.count, 999, "999"),
        (formats.count, 1_240_000, "1.24 M"),
        (formats.count, None, "?"),
        (formats.duration, 3.21, "3.2 s"),
        (formats.duration, 200, "3 min 20 s"),
        (formats.duration, 7500, "2 h 5 min"),
        (formats.shape, (None, 28, 1), "(?, 28, 1)"),
    ],
)
def test_units(function, value, text):
    assert function(value) == text


def test_accuracy_is_in_percent_and_points_other_metrics_as_they_are():
    assert formats.metric_value(0.98765, "accuracy") == "98.77%"
    assert formats.metric_value(0.98765, "r2") == "0.9877"
    assert formats.metric_change(0.00123, "sparse_categorical_accuracy") == "0.12"
    assert formats.metric_change(-0.05, "accuracy") == "-5.00"
    assert formats.metric_change(-0.00001, "accuracy") == "0.00"
    assert formats.metric_change(0.00123, "auc") == "0.0012"


def test_long_names_keep_both_ends():
    """Of 20 characters one is the ellipsis and 7 are the end."""
    assert formats.shortened("tflite-int8", 11) == "tflite-int8"
    short = formats.shortened("channels-0.5+recover-1+tflite-int8", 20)
    assert short == "channels-0.5…te-int8"
    assert len(short) == 20
