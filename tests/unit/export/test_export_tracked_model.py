"""The trained model that is tracked in `savedmodels/`: a file from another day, as a user would have one."""

from pathlib import Path

import numpy as np

from kopt import data, export, measure

PATH = Path(__file__).parents[3] / "savedmodels" / "digits_cnn" / "1"


def test_it_is_the_file_that_its_manifest_describes():
    verification = export.verify(PATH)
    assert {one.checked: one.status for one in verification.verdicts} == {
        "manifest": "absent",
        "content": "ok",
        "reference": "absent",
        "runtime": "ok",
        "signature": "ok",
        "parameters": "absent",
        "outputs": "absent",
    }
    artifact = verification.artifact
    assert [(info.name, info.shape, info.dtype) for info in artifact.inputs] == [("image", (None, 8, 8, 1), "float32")]
    assert [info.name for info in artifact.outputs] == ["classes"]
    assert artifact.parity.max_abs < 1e-5


def test_it_reads_the_digits_it_has_never_seen():
    test = data.load("digits").test
    runner = measure.load(PATH)
    evaluation = measure.evaluate(runner, (test.x, test.y))
    assert evaluation.metrics["accuracy"] > 0.96
    predicted = runner.predict(test.x).argmax(axis=1)
    assert abs(evaluation.metrics["accuracy"] - np.mean(predicted == test.y)) < 1e-6
