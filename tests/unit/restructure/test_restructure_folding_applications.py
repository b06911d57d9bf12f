"""Folding of published architectures, with batch statistics drawn at random."""

import keras
import numpy as np
import pytest
from restructure_cases import bits, distance, layer_types, randomize

from kopt.restructure import fold_batch_norm

# Architecture, side of the image, normalizations that stay: those in front of an activation behind a concatenation or
# an addition. DenseNet121 has 121 normalizations, of which 1 + 58 stand behind a convolution.
APPLICATIONS = [("ResNet50", 64, 0), ("MobileNetV2", 96, 0), ("EfficientNetB0", 64, 0), ("DenseNet121", 64, 62)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side", "left"), APPLICATIONS, ids=lambda value: str(value))
def test_outputs_stay(name, side, left):
    model = getattr(keras.applications, name)(input_shape=(side, side, 3), weights=None, classes=10)
    randomize(model)
    before = bits(model)
    folded, report = fold_batch_norm(model)
    norms = layer_types(model).count("BatchNormalization")
    assert (len(report.applied), len(report.left)) == (norms - left, left)
    logits = [keras.Model(m.input, m.layers[-2].output) for m in (model, folded)]
    image = np.random.default_rng(0).uniform(0, 1, (2, side, side, 3)).astype("float32")
    assert distance(*logits, [image]) < 1e-5
    assert bits(model) == before
