"""A search that trains, on real data: what it finds, and what it keeps."""

import numpy as np
import pytest

import kopt
from kopt import data, measure
from kopt.search import demo

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_a_smaller_model_inside_the_budget(digits, tmp_path):
    """Five points of 269 examples: 13 examples. Without 3/8 of the channels about 0.4 of the weights are left."""
    model = demo.train_or_load(digits, tmp_path / "digits.keras")
    result = kopt.optimize(
        model,
        digits.train,
        digits.validation,
        workdir=tmp_path / "run",
        techniques=("channels", "aware", "post_training", "tflite-float32", "tflite-int8"),
        budget=kopt.Budget(0.05, "size"),
        training=kopt.Training(epochs=8),
        progress=None,
    )
    files = {one.name: one for one in result.candidates}
    best = result.best
    assert best.steps[0].technique == "channels"
    assert best.drop <= 0.05 + 1e-6
    assert files["tflite-float32"].artifact.size_bytes > 2.5 * best.artifact.size_bytes
    predicted = measure.load(best.artifact.path).predict(digits.validation.x).argmax(axis=1)
    assert best.evaluation.metrics["accuracy"] == pytest.approx(np.mean(predicted == digits.validation.y))
    assert "of the parameters are in layers whose channels can go" in best.why
    assert any(not one.kept for one in result.decisions)
    for directory in (tmp_path / "run" / "candidates").iterdir():
        assert {"recipe.json", "candidate.json"} <= {path.name for path in directory.iterdir()}
    for directory in (tmp_path / "run" / "models").iterdir():
        names = {path.name for path in directory.iterdir()}
        # Where widths were rounded to those of another strength, the training that follows was left out.
        assert {"made.json", "model.keras"} <= names or names == {"recipe.json", "log.txt"}
