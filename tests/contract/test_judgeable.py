"""What `kopt.optimize` refuses to judge, because it would name the wrong winner."""

import numpy as np
import pytest
import zoo

import kopt
from kopt.core.errors import ConfigError, UnsupportedModelError


@pytest.mark.parametrize("metric", ["mae", "mse", "hinge", "mean_absolute_error"])
def test_a_metric_of_which_less_is_better(tmp_path, metric):
    data = np.zeros((8, 20), np.float32), np.zeros((8, 4), np.float32)
    with pytest.raises(ConfigError, match=f"of '{metric}' less is better. Use e.g. 'accuracy'"):
        kopt.optimize(zoo.build("mlp"), data, data, budget=kopt.Budget(metric=metric), workdir=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_model_with_two_outputs(tmp_path):
    model = zoo.build("two_in_two_out")
    x = zoo.inputs(model, 8)
    labels = {"label": np.zeros(8, int), "score": np.zeros((8, 1))}
    with pytest.raises(UnsupportedModelError, match=r"has 2: label, score. Optimize `keras.Model\(model.inputs"):
        kopt.optimize(model, x, (x, labels), workdir=tmp_path / "run")
    assert not list(tmp_path.iterdir())
