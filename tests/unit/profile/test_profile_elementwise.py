import keras
import pytest

from kopt import profile

L = keras.layers


def flops(layer, *shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    (cost,) = profile.model(keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0]))).layers
    return cost.flops


@pytest.mark.parametrize(
    ("layer", "shapes", "expected"),
    [
        # Twice the multiply-accumulates, the bias, the activation.
        (L.Dense(10), [(7,)], 2 * 70 + 10),
        (L.Dense(10, "relu", use_bias=False), [(7,)], 2 * 70 + 10),
        (L.Dense(10, "softmax"), [(7,)], 2 * 70 + 10 + 3 * 10),
        (L.Conv2D(8, 3, padding="same"), [(6, 6, 3)], 2 * 36 * 8 * 27 + 36 * 8),
        (L.EinsumDense("abc,cd->abd", (None, 6), bias_axes="d"), [(3, 4)], 2 * 3 * 4 * 6 + 18),
        # Operations on an entry of the output.
        (L.BatchNormalization(), [(4, 5)], 2 * 20),
        (L.LayerNormalization(), [(4, 5)], 7 * 20),
        (L.ReLU(), [(4, 5)], 20),
        (L.Activation("gelu"), [(4, 5)], 20),
        (L.Rescaling(2.0), [(4, 5)], 40),
        (L.Flatten(), [(4, 5)], 0),
        (L.Dropout(0.5), [(4, 5)], 0),
        # Three arrays are added by two additions an entry; a mean divides, too.
        (L.Add(), [(4, 5)] * 3, 2 * 20),
        (L.Average(), [(4, 5)] * 3, 3 * 20),
        (L.Concatenate(), [(4, 5)] * 3, 0),
        # A window an entry of the output; the whole input of a global one.
        (L.MaxPooling2D(2), [(4, 6, 3)], 2 * 3 * 3 * 4),
        (L.GlobalAveragePooling2D(), [(4, 6, 3)], 72),
        # Steps x units x (two additions a gate, the functions, the new state).
        (L.LSTM(5), [(7, 3)], 2 * 7 * 4 * 5 * 8 + 7 * 5 * 17),
        # Both products have a bias: 6 + 3 sums + 3 functions + reset + 4 for the new state.
        (L.GRU(5), [(7, 3)], 2 * 7 * 3 * 5 * 8 + 7 * 5 * 17),
        (L.GRU(5, reset_after=False), [(7, 3)], 2 * 7 * 3 * 5 * 8 + 7 * 5 * 14),
        (L.RNN([L.LSTMCell(5), L.SimpleRNNCell(4)]), [(7, 3)], 2 * 7 * (4 * 5 * 8 + 4 * 9) + 7 * (5 * 17 + 4 * 3)),
        (L.Bidirectional(L.SimpleRNN(5), merge_mode="ave"), [(7, 3)], 2 * (2 * 7 * 5 * 8 + 7 * 5 * 3) + 2 * 5),
        (L.SpectralNormalization(L.Dense(4)), [(3,)], 2 * 12 + 4),
        (L.LayerNormalization(scale=False, center=False), [(4, 5)], 5 * 20),
        (L.ELU(), [(4, 5)], 20),
        (L.Dot((1, 1)), [(6,), (6,)], 2 * 6),
        (L.Bidirectional(L.SimpleRNN(5)), [(7, 3)], 2 * (2 * 7 * 5 * 8 + 7 * 5 * 3)),
        (L.TimeDistributed(L.Dense(4)), [(7, 3)], 7 * (2 * 12 + 4)),
        (L.ConvLSTM1D(2, 3), [(4, 5, 3)], 2 * 4 * 4 * 3 * 2 * 3 * 5 + 4 * 3 * 2 * 17),
        (L.UpSampling2D(2, interpolation="bilinear"), [(2, 2, 3)], 7 * 48),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, keras.Layer) else "",
)
def test_by_hand(layer, shapes, expected):
    assert flops(layer, *shapes) == expected


def test_attention_scales_and_normalizes_its_scores():
    # 2 heads, 6 x 6 scores, of which each goes through a softmax of three operations; the queries are scaled, and
    # queries, keys, values and outputs have biases.
    x = keras.Input((6, 8))
    (cost,) = profile.model(keras.Model(x, L.MultiHeadAttention(2, 4)(x, x))).layers
    assert cost.flops == 2 * cost.macs + 3 * 2 * 36 + 6 * 2 * 4 + 4 * 6 * 8


def test_operations_of_graphs():
    x = keras.Input((4, 5))
    x_mean = keras.ops.average(keras.ops.mean(keras.ops.sqrt(x) * 2.0, axis=1), axis=1)
    counts = {layer.type: layer.flops for layer in profile.model(keras.Model(x, x_mean)).layers}
    assert counts == {"Sqrt": 20, "Multiply": 20, "Mean": 20, "Average": 5}
