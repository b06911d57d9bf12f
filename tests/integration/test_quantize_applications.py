"""A network of `keras.applications` trains a step with rounding, and its file is integers throughout.

`make sweep` takes all of them.
"""

import applications
import pytest
import quantization_checks as checks


@pytest.mark.slow
def test_squeeze_excite_and_hard_swish(tmp_path):
    name = "MobileNetV3Small"
    x = applications.images(name, 16)
    copy, report = checks.trained(applications.build(name), x)
    assert report.left == ()
    found = checks.shipped(copy, report, x, tmp_path)
    for number, bound in checks.BOUNDS.items():
        assert found[number] <= bound
