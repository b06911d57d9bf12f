import keras
import numpy as np
import pytest

from kopt import profile

L = keras.layers
FLOAT = 4


def test_a_chain_keeps_the_input_and_the_output_of_a_call():
    model = keras.Sequential([keras.Input((10,)), L.Dense(30, name="wide"), L.Dense(20, name="next"), L.Dense(1)])
    result = profile.model(model)
    assert (result.peak_activation_bytes, result.peak_layer) == ((30 + 20) * FLOAT, "next")
    assert [layer.activation_bytes for layer in result.layers] == [30 * FLOAT, 20 * FLOAT, FLOAT]
    assert [layer.input_bytes for layer in result.layers] == [10 * FLOAT, 30 * FLOAT, 20 * FLOAT]


def test_a_residual_branch_is_kept_until_it_is_added():
    x = inputs = keras.Input((10,))
    hidden = L.Dense(40, name="expand")(x)
    hidden = L.Dense(10, name="project")(hidden)
    model = keras.Model(inputs, L.Add()([x, hidden]))
    # At "project" the input waits for the addition: 10 + 40 + 10.
    result = profile.model(model)
    assert (result.peak_activation_bytes, result.peak_layer) == (60 * FLOAT, "project")


def test_outputs_stay_and_views_cost_nothing():
    inputs = keras.Input((4, 5))
    first = L.Dense(5, name="first")(inputs)
    flat = L.Dropout(0.5)(L.Flatten()(first))
    model = keras.Model(inputs, [first, L.Dense(30, name="last")(flat)])
    # The first output stays to the end; flattened and dropped out it is the same memory.
    assert profile.model(model).peak_activation_bytes == (20 + 30) * FLOAT


def test_nested_models_pass_their_tensors_on():
    inside = keras.Input((10,))
    nested = keras.Model(inside, L.Dense(40, name="b")(L.Dense(20, name="a")(inside)), name="nested")
    inputs = keras.Input((10,))
    result = profile.model(keras.Model(inputs, L.Dense(1)(nested(inputs))))
    assert (result.peak_activation_bytes, result.peak_layer) == (60 * FLOAT, "nested/b")


def test_types_count_by_their_size():
    model = keras.Sequential([keras.Input((10,), dtype="uint8"), L.Dense(30, dtype="mixed_float16")])
    result = profile.model(model)
    assert result.peak_activation_bytes == 10 + 30 * 2
    assert result.weight_bytes == (10 * 30 + 30) * FLOAT  # kept in float32


def test_open_sizes_have_no_peak_without_data():
    model = keras.Sequential([keras.Input((None, 3)), L.LSTM(5)])
    assert profile.model(model).peak_activation_bytes is None
    assert profile.model(model, np.zeros((1, 7, 3), np.float32)).peak_activation_bytes == (21 + 5) * FLOAT


@pytest.mark.slow
def test_mobilenet_needs_its_first_expansion():
    # The first expansion has 112 x 112 x 96 entries; padded for the strided convolution it is copied.
    result = profile.model(keras.applications.MobileNetV2(weights=None))
    assert result.peak_layer == "block_1_pad"
    assert result.peak_activation_bytes == (112 * 112 + 113 * 113) * 96 * FLOAT
