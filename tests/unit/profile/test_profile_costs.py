import keras
import pytest

from kopt import profile
from kopt.profile.cost.macs import layer_macs


def macs(layer, *shapes, **arguments):
    """Count through a real layer, so that the names of the config entries and the shapes are Keras' own."""
    inputs = [keras.Input(shape) for shape in shapes]
    (cost,) = profile.model(keras.Model(inputs, layer(*inputs, **arguments))).layers
    return cost.macs


L = keras.layers


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        # Output positions x filters x kernel x channels of a group.
        (L.Conv1D(5, 3, padding="same"), (10, 4), 10 * 5 * 3 * 4),
        (L.Conv2D(8, 3, strides=2, padding="same"), (9, 7, 3), (5 * 4) * 8 * 9 * 3),
        (L.Conv2D(8, (1, 3), padding="valid", dilation_rate=2), (9, 7, 3), (9 * 3) * 8 * 3 * 3),
        (L.Conv2D(8, 3, padding="same", groups=2), (6, 6, 4), 36 * 8 * 9 * 2),
        (L.Conv3D(2, 2), (3, 4, 5, 6), (2 * 3 * 4) * 2 * 8 * 6),
        (L.DepthwiseConv1D(3, depth_multiplier=2), (10, 4), 8 * (4 * 2) * 3),
        (L.DepthwiseConv2D(3, strides=2, padding="same"), (8, 8, 5), 16 * 5 * 9),
        (L.SeparableConv1D(7, 3, padding="same"), (10, 4), 10 * 4 * 3 + 10 * 4 * 7),
        (L.SeparableConv2D(7, 3, depth_multiplier=2), (6, 6, 4), 16 * (4 * 2) * 9 + 16 * (4 * 2) * 7),
        # Input positions: every input value is spread over one kernel a filter.
        (L.Conv1DTranspose(5, 3, strides=2), (10, 4), 10 * 4 * 5 * 3),
        (L.Conv2DTranspose(5, 3, strides=2, padding="same"), (4, 4, 2), 16 * 2 * 5 * 9),
        (L.Conv3DTranspose(5, 2), (2, 2, 2, 3), 8 * 3 * 5 * 8),
        (L.Dense(10), (7,), 70),
        (L.Dense(10), (4, 7), 280),
        # a batch, b and c summed over, d made: b * c * d.
        (L.EinsumDense("abc,bcd->ad", output_shape=6), (3, 4), 3 * 4 * 6),
        (L.EinsumDense("abc,cde->abde", output_shape=(None, 2, 5)), (3, 4), 3 * 4 * 2 * 5),
        (L.EinsumDense("...x,xy->...y", output_shape=6), (3, 4), 3 * 4 * 6),
        # Steps x gates x units x (features + units).
        (L.LSTM(5), (7, 3), 7 * 4 * 5 * 8),
        (L.GRU(5, return_sequences=True), (7, 3), 7 * 3 * 5 * 8),
        (L.SimpleRNN(5), (7, 3), 7 * 5 * 8),
        (L.Bidirectional(L.LSTM(5)), (7, 3), 2 * 7 * 4 * 5 * 8),
        (
            L.Bidirectional(L.LSTM(5), backward_layer=L.GRU(5, go_backwards=True)),
            (7, 3),
            7 * 4 * 5 * 8 + 7 * 3 * 5 * 8,
        ),
        (L.TimeDistributed(L.Dense(4)), (7, 3), 7 * 12),
        (L.TimeDistributed(L.Conv2D(2, 3)), (7, 5, 5, 3), 7 * 9 * 2 * 9 * 3),
        # Steps x gates x positions x filters x kernel x (channels + filters), the state convolved in its own size.
        (L.ConvLSTM1D(2, 3), (4, 5, 3), 4 * 4 * 3 * 2 * 3 * (3 + 2)),
        (L.ConvLSTM2D(2, 3, padding="same", return_sequences=True), (4, 5, 6, 3), 4 * 4 * 30 * 2 * 9 * (3 + 2)),
        (L.RNN([L.LSTMCell(5), L.GRUCell(4)]), (7, 3), 7 * (4 * 5 * 8 + 3 * 4 * 9)),
        (L.SpectralNormalization(L.Dense(4)), (3,), 12),
        (L.Embedding(100, 8), (7,), 0),
        (L.BatchNormalization(), (7,), 0),
        (L.MaxPooling2D(), (4, 4, 2), 0),
        (L.GlobalAveragePooling2D(), (4, 4, 2), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, keras.Layer) else "",
)
def test_by_hand(layer, shape, expected):
    assert macs(layer, shape) == expected


def test_channels_first():
    config = {**L.Conv2D(8, 3, padding="same").get_config(), "data_format": "channels_first"}
    assert layer_macs("Conv2D", config, ((None, 3, 6, 5),), (None, 8, 6, 5)) == 30 * 8 * 9 * 3


def test_self_attention():
    # 6 positions of 8 features, 2 heads of 4: query, key, value and output projections, then scores and sums.
    expected = 4 * (6 * 8 * 8) + 2 * (2 * 6 * 6 * 4)
    layer = L.MultiHeadAttention(num_heads=2, key_dim=4)
    shared = keras.Input((6, 8))
    (cost,) = profile.model(keras.Model(shared, layer(shared, shared))).layers
    assert cost.macs == expected


def test_cross_attention():
    # Query 5 x 8, value 7 x 3, key 7 x 2; 2 heads, keys of 4, values of 6; output 9.
    projections = 5 * 8 * 2 * 4 + 7 * 3 * 2 * 6 + 7 * 2 * 2 * 4 + 5 * 2 * 6 * 9
    attention = 2 * 5 * 7 * (4 + 6)
    layer = L.MultiHeadAttention(num_heads=2, key_dim=4, value_dim=6, output_shape=9)
    query, value, key = keras.Input((5, 8)), keras.Input((7, 3)), keras.Input((7, 2))
    (cost,) = profile.model(keras.Model([query, value, key], layer(key=key, query=query, value=value))).layers
    assert cost.macs == projections + attention


def test_other_attention():
    query, value = keras.Input((5, 8)), keras.Input((7, 8))
    (cost,) = profile.model(keras.Model([query, value], L.Attention()([query, value]))).layers
    assert cost.macs == 5 * 7 * (8 + 8)
    grouped = L.GroupQueryAttention(head_dim=4, num_query_heads=6, num_key_value_heads=2)
    (cost,) = profile.model(keras.Model([query, value], grouped(query, value))).layers
    assert cost.macs == 2 * (5 * 8 * 6 * 4) + 2 * (7 * 8 * 2 * 4) + 5 * 7 * 6 * (4 + 4)


def test_operations_of_graphs():
    left, right, image = keras.Input((4, 3)), keras.Input((3, 6)), keras.Input((8, 8, 3))
    kernel = keras.ops.ones((3, 3, 3, 5))
    outputs = {
        "Matmul": (left @ right, 4 * 6 * 3),
        "Einsum": (keras.ops.einsum("bij,bjk->bik", left, right), 4 * 6 * 3),
        "Dot": (L.Dot(axes=(2, 1))([left, right]), 4 * 6 * 3),
        "Conv": (keras.ops.conv(image, kernel, padding="same"), 64 * 9 * 3 * 5),
    }
    model = keras.Model([left, right, image], [output for output, _ in outputs.values()])
    counts = {layer.type: layer.macs for layer in profile.model(model).layers}
    assert counts == {name: expected for name, (_, expected) in outputs.items()}


def test_attention_over_one_of_two_axes():
    # 3 rows of 5 positions; attention along the positions only: 3 * 5 * 5 pairs, not 15 * 15.
    layer = L.MultiHeadAttention(num_heads=1, key_dim=4, attention_axes=(2,))
    image = keras.Input((3, 5, 8))
    (cost,) = profile.model(keras.Model(image, layer(image, image))).layers
    assert cost.macs == 4 * (15 * 8 * 4) + 3 * 5 * 5 * (4 + 4)


def test_unknown_sizes_and_types_have_no_count():
    assert macs(L.LSTM(5), (None, 3)) is None
    assert macs(L.Conv2D(2, 3), (None, None, 3)) is None
    assert macs(L.TimeDistributed(L.Dense(4)), (None, 3)) is None
    assert macs(L.Lambda(lambda x: x * 2), (3,)) is None


def test_a_class_of_the_user_is_unknown_whatever_its_name():
    class Dense(L.Dense):
        pass

    assert macs(Dense(4), (3,)) is None
    assert macs(L.TimeDistributed(Dense(4)), (2, 3)) is None
