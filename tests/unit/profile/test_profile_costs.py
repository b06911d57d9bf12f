import keras
import pytest

from kopt import profile
from kopt.profile.cost.formulas import layer_cost


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
    assert layer_cost("Conv2D", config, ((1, 3, 6, 5),), (1, 8, 6, 5)).macs == 30 * 8 * 9 * 3


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
    # Each pair of positions: 8 products of scale and tanh, 8 weighted values.
    (cost,) = profile.model(keras.Model([query, value], L.AdditiveAttention()([query, value]))).layers
    assert cost.macs == 5 * 7 * (8 + 8)
    (cost,) = profile.model(keras.Model([query, value], L.AdditiveAttention(use_scale=False)([query, value]))).layers
    assert cost.macs == 5 * 7 * 8


def test_masks_and_the_order_of_arguments_change_nothing():
    query, value, mask = keras.Input((5, 8)), keras.Input((7, 8)), keras.Input((5, 7), dtype="bool")
    grouped = L.GroupQueryAttention(head_dim=4, num_query_heads=6, num_key_value_heads=2)
    expected = 2 * (5 * 8 * 6 * 4) + 2 * (7 * 8 * 2 * 4) + 5 * 7 * 6 * (4 + 4)
    for output in (grouped(query, value), grouped(value=value, query=query, attention_mask=mask)):
        (cost,) = profile.model(keras.Model([query, value, mask], [output, mask])).layers
        assert cost.macs == expected


def test_two_operands_of_an_einsum_may_leave_the_result_out():
    left, right = keras.Input((4, 3)), keras.ops.ones((3, 6))
    for equation in ("bij,jk->bik", "bij,jk", "...j,jk->...k"):
        (cost,) = profile.model(keras.Model(left, keras.ops.einsum(equation, left, right))).layers
        assert cost.macs == 4 * 6 * 3
    unknown = keras.Input((4, None))
    (cost,) = profile.model(keras.Model(unknown, keras.ops.einsum("bij,bij->bi", unknown, unknown))).layers
    assert (cost.macs, cost.reason) == (None, "A size is open: pass `data`.")


def test_a_batch_that_is_folded_into_another_axis_counts_once():
    # 4 windows of 3 features in every example.
    x = keras.Input((4, 3))
    model = keras.Model(x, keras.ops.reshape(x, (-1, 3)) @ keras.ops.ones((3, 2)))
    costs = profile.model(model).layers
    assert [cost.macs for cost in costs] == [0, 4 * 3 * 2]
    assert costs[1].activation_bytes == 4 * 2 * 4
    assert costs[1].output_shape == (None, 2)


def test_a_fixed_batch_is_shared_among_its_examples():
    x = keras.Input(batch_shape=(8, 5))
    result = profile.model(keras.Model(x, L.Dense(3)(x)))
    assert (result.macs, result.flops, result.layers[0].activation_bytes) == (15, 2 * 15 + 3, 12)
    assert result.peak_activation_bytes == (5 + 3) * 4


def test_operations_of_graphs():
    left, right, image = keras.Input((4, 3)), keras.Input((3, 6)), keras.Input((8, 8, 3))
    kernel = keras.ops.ones((3, 3, 3, 5))
    outputs = {
        "Matmul": (left @ right, 4 * 6 * 3),
        "Einsum": (keras.ops.einsum("bij,bjk->bik", left, right), 4 * 6 * 3),
        "Dot": (L.Dot(axes=(2, 1))([left, right]), 4 * 6 * 3),
        "Conv": (keras.ops.conv(image, kernel, padding="same"), 64 * 9 * 3 * 5),
        "DepthwiseConv": (keras.ops.depthwise_conv(image, keras.ops.ones((3, 3, 3, 2))), 36 * (3 * 2) * 9),
        "SeparableConv": (
            keras.ops.separable_conv(image, keras.ops.ones((3, 3, 3, 2)), keras.ops.ones((1, 1, 6, 4))),
            36 * (6 * 9 + 6 * 4),
        ),
        "ConvTranspose": (keras.ops.conv_transpose(image, keras.ops.ones((2, 2, 5, 3)), 2), 64 * 3 * 5 * 4),
        "Tensordot": (keras.ops.tensordot(left, keras.ops.ones((3, 5)), axes=1), 4 * 5 * 3),
        "Outer": (keras.ops.outer(left, keras.ops.ones(5)), 0),
    }
    model = keras.Model([left, right, image], [output for output, _ in outputs.values()])
    costs = {layer.type: layer for layer in profile.model(model).layers}
    assert {name: cost.macs for name, cost in costs.items()} == {name: count for name, (_, count) in outputs.items()}
    assert costs["Outer"].flops == 12 * 5


def test_attention_of_operations():
    x = keras.Input((6, 2, 4))  # positions, heads, size
    (cost,) = profile.model(keras.Model(x, keras.ops.dot_product_attention(x, x, x))).layers
    assert (cost.macs, cost.flops) == (36 * 2 * (4 + 4), 2 * 36 * 2 * 8 + 36 * 2 * 4)


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
    assert macs(L.Lambda(keras.ops.sort), (3,)) is None
    assert macs(L.Lambda(lambda x: x @ keras.ops.ones((3, 2))), (None, 3)) is None


def test_a_class_of_the_user_is_counted_by_what_it_does_whatever_its_name():
    class Dense(L.Dense):
        def call(self, x):
            return super().call(super().call(x) @ keras.ops.ones((self.units, x.shape[-1])))

    assert macs(Dense(4), (3,)) == 12 + 12 + 12
    assert macs(L.TimeDistributed(Dense(4)), (2, 3)) == 2 * 36
