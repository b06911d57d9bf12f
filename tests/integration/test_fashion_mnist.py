import dataclasses

import pytest

import kopt
from kopt.core.errors import DataError

pytestmark = [pytest.mark.slow, pytest.mark.long]
TRAINED_ON = 10_000


@pytest.fixture(scope="module")
def splits():
    try:
        return kopt.data.load("fashion_mnist")
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def exported(splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fashion")
    part = kopt.data.Split(splits.train.x[:TRAINED_ON], splits.train.y[:TRAINED_ON])
    model = kopt.search.demo.train_or_load(dataclasses.replace(splits, train=part), folder / "model.keras")
    with kopt.export.traced(model) as source:
        plain = kopt.export.tflite(source, folder / "float32.tflite")
        small = kopt.export.tflite(source, folder / "int8.tflite", scheme="int8", calibration=part)
    return model, plain, small


def test_int8_keeps_the_accuracy_of_the_trained_model(splits, exported):
    model, plain, small = exported
    test = (splits.test.x, splits.test.y)
    accuracies = [kopt.measure.evaluate(target, test).metrics["accuracy"] for target in (model, plain.path, small.path)]
    # A tenth is chance; a fifth of the training set, seen three times, must bring it well beyond.
    assert accuracies[0] > 0.8
    assert accuracies[1] == pytest.approx(accuracies[0], abs=2e-4)
    assert accuracies[2] >= accuracies[0] - 0.005


def test_int8_is_less_than_a_third_of_the_float_file(exported):
    _, plain, small = exported
    # A quarter for the weights; the rest are 28 bytes a channel (its scales, zero points and bias) and the graph.
    assert 0.25 < small.size_bytes / plain.size_bytes <= 0.30
